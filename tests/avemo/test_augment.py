import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.augment import AugmentConfig, augment, centre_crop

PLAIN = AugmentConfig(brightness=0.0, contrast=0.0, grey=0.0)


def keys(seed, batch=16):
    return jax.random.split(jax.random.key(seed), batch)


def images(batch=16, size=12):
    return jax.random.randint(jax.random.key(1), (batch, size, size, 3), 0, 256).astype(jnp.uint8)


def test_without_colour_changes_it_is_a_crop_or_its_mirror_image():
    source = np.asarray(images(), np.float32)
    result = np.asarray(augment(keys(0), images(), 8, PLAIN))
    mirrored = 0
    for whole, part in zip(source, result, strict=True):
        crops = [whole[t : t + 8, l : l + 8] for t in range(5) for l in range(5)]
        straight = any(np.array_equal(part, crop) for crop in crops)
        mirror = any(np.array_equal(part, crop[:, ::-1]) for crop in crops)
        assert straight or mirror
        mirrored += mirror
    assert 0 < mirrored < 16


def test_same_key_same_faces_other_key_others():
    first, again, other = (augment(keys(k), images(), 8, AugmentConfig()) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_face_does_not_depend_on_the_rest_of_the_batch():
    whole = augment(keys(0), images(), 8, AugmentConfig())
    np.testing.assert_allclose(augment(keys(0)[5:7], images()[5:7], 8, AugmentConfig()), whole[5:7], rtol=1e-6)


def test_values_stay_in_range():
    wild = augment(keys(0), images(), 8, AugmentConfig(brightness=1.0, contrast=1.0, grey=0.5))
    assert float(wild.min()) >= 0.0
    assert float(wild.max()) <= 255.0


def test_centre_crop_takes_the_middle():
    face = jnp.arange(4 * 4 * 3, dtype=jnp.uint8).reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(centre_crop(face, 2), face[:, 1:3, 1:3])


def test_faces_smaller_than_the_network_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"12x12 pixels, the network wants 16x16.*--size 16"):
        augment(keys(0), images(), 16, PLAIN)
