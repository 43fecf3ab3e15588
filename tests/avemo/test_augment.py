from dataclasses import replace

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


def one_face(size=9):
    """A picture of which every pixel is another."""
    return jnp.arange(size * size, dtype=jnp.uint8).reshape(1, size, size, 1).repeat(3, axis=-1)


def drawn(config, size=9, count=64):
    faces = jnp.repeat(one_face(size), count, axis=0)
    return np.asarray(augment(keys(3, count), faces, size, config))[..., 0]


def unmirrored(faces):
    """Rows rise to the right unless mirrored."""
    return np.where((faces[:, 4, 5] < faces[:, 4, 3])[:, None, None], faces[:, :, ::-1], faces)


def test_a_shift_moves_and_goes_on_with_the_edge():
    moved = unmirrored(drawn(replace(PLAIN, shift=0.25)))
    down, right = (moved[:, 4, 4] - 40) // 9, moved[:, 4, 4] - 40
    assert down.min() < -1 < 0 < down.max()
    # Inside, one pixel to the right is one more, one pixel down is nine more, wherever the face was moved.
    np.testing.assert_allclose(moved[:, 4, 5] - moved[:, 4, 4], 1.0, atol=1e-4)
    np.testing.assert_allclose(moved[:, 5, 4] - moved[:, 4, 4], 9.0, atol=1e-4)
    assert moved.min() == 0
    assert moved.max() == 80
    assert len(np.unique(right)) == 64


def test_a_zoom_keeps_the_middle_and_changes_the_slope():
    zoomed = unmirrored(drawn(replace(PLAIN, zoom=0.5)))
    np.testing.assert_allclose(zoomed[:, 4, 4], 40.0, atol=1e-4)
    slopes = zoomed[:, 4, 5] - zoomed[:, 4, 4]
    assert np.exp(-0.5) <= slopes.min() < 0.7
    assert 1.4 < slopes.max() <= np.exp(0.5)
    np.testing.assert_allclose(zoomed[:, 5, 4] - zoomed[:, 4, 4], 9 * slopes, rtol=1e-4)


def test_a_rotation_keeps_the_middle_and_the_length_of_the_gradient():
    turned = unmirrored(drawn(replace(PLAIN, rotation=30.0)))
    np.testing.assert_allclose(turned[:, 4, 4], 40.0, atol=1e-4)
    across, down = turned[:, 4, 5] - turned[:, 4, 4], turned[:, 5, 4] - turned[:, 4, 4]
    np.testing.assert_allclose(np.hypot(across, down), np.hypot(1, 9), rtol=1e-4)
    angles = np.rad2deg(np.arctan2(down, across) - np.arctan2(9, 1))
    assert 20 < np.abs(angles).max() <= 30.001


def test_a_square_is_erased_with_the_mean():
    plain, erased = drawn(PLAIN, count=64), drawn(replace(PLAIN, erase=0.34), count=64)
    for whole, part in zip(plain, erased, strict=True):
        rows, columns = np.nonzero(whole != part)
        assert 1 <= len(rows) <= 16
        np.testing.assert_allclose(part[rows, columns], whole.mean(), rtol=1e-6)
        assert np.ptp(rows) <= 3
        assert np.ptp(columns) <= 3


@pytest.mark.parametrize("wrong", [{"zoom": 1.5}, {"rotation": 200.0}, {"shift": -0.1}, {"erase": 2.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"augment\.{next(iter(wrong))} must lie in"):
        AugmentConfig(**wrong)
