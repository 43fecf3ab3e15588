import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.audio import AudioConfig, AudioEncoder, initial_carry

CONFIG = AudioConfig(features=8, dilations=(1, 2))
BANDS = 12


def sound(batch: int, frames: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, 4 * frames, BANDS))


def encode(variables, log_mel, dtype="float32"):
    return jax.jit(AudioEncoder(CONFIG, dtype).apply)(variables, log_mel, initial_carry(CONFIG, BANDS, len(log_mel)))[0]


@pytest.fixture(scope="module")
def variables():
    return jax.jit(AudioEncoder(CONFIG).init)(jax.random.key(1), sound(1, 2), initial_carry(CONFIG, BANDS, 1))


def test_one_vector_per_frame_in_the_compute_dtype(variables):
    assert encode(variables, sound(2, 5)).shape == (2, 5, 8)
    half = encode(variables, sound(2, 5), "bfloat16")
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), encode(variables, sound(2, 5)), atol=0.1)


def test_a_frame_depends_on_its_own_steps_and_on_its_context_only(variables):
    jacobian = jax.jit(jax.jacrev(lambda x: encode(variables, x[None])[0] ** 2 @ jnp.arange(8.0)))
    reach = np.abs(jacobian(sound(1, 12)[0])).sum(-1)
    context = 3 + 4 * 2 * sum(CONFIG.dilations)
    for frame, gradient in enumerate(reach):
        first, end = max(0, 4 * frame - context), 4 * (frame + 1)
        assert np.all(gradient[end:] == 0)
        assert np.all(gradient[:first] == 0)
        assert gradient[end - 1] != 0
        assert gradient[first] != 0


def test_neither_padding_nor_the_rest_of_the_batch_changes_a_clip(variables):
    clips = sound(3, 6)
    padded = jnp.pad(clips, ((0, 0), (0, 8), (0, 0)))
    np.testing.assert_allclose(encode(variables, padded)[1:2, :6], encode(variables, clips[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [1, 2, 5])
def test_parts_with_the_carry_are_the_whole(variables, first):
    clip, carry = sound(2, 6), initial_carry(CONFIG, BANDS, 2)
    apply = jax.jit(AudioEncoder(CONFIG).apply)
    begin, carry_between = apply(variables, clip[:, : 4 * first], carry)
    end, carry_end = apply(variables, clip[:, 4 * first :], carry_between)
    whole, carry_whole = apply(variables, clip, carry)
    np.testing.assert_allclose(jnp.concatenate([begin, end], axis=1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry_end, carry_whole)


def test_a_broken_frame_is_refused(variables):
    with pytest.raises(ValueError, match="7 log-mel steps"):
        encode(variables, jnp.zeros((1, 7, BANDS)))


@pytest.mark.parametrize("wrong", [{"features": 0}, {"dilations": (1, 0)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AudioConfig(**wrong)
