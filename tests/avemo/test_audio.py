import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.audio import AudioConfig, AudioEncoder

CONFIG = AudioConfig(features=8, dilations=(1, 2))
BANDS = 12


def sound(batch: int, frames: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, 4 * frames, BANDS))


def encode(variables, log_mel, dtype="float32"):
    return jax.jit(AudioEncoder(CONFIG, dtype).apply)(variables, log_mel)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(AudioEncoder(CONFIG).init)(jax.random.key(1), sound(1, 2))


def test_one_vector_per_frame_in_the_compute_dtype(variables):
    assert encode(variables, sound(2, 5)).shape == (2, 5, 8)
    half = encode(variables, sound(2, 5), "bfloat16")
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), encode(variables, sound(2, 5)), atol=0.1)


def test_a_frame_depends_on_its_own_steps_and_on_its_context_only(variables):
    jacobian = jax.jit(jax.jacrev(lambda x: AudioEncoder(CONFIG).apply(variables, x[None])[0] ** 2 @ jnp.arange(8.0)))
    reach = np.abs(jacobian(sound(1, 12)[0])).sum(-1)
    for frame, gradient in enumerate(reach):
        first, end = max(0, 4 * frame - CONFIG.context_steps), 4 * (frame + 1)
        assert np.all(gradient[end:] == 0)
        assert np.all(gradient[:first] == 0)
        assert gradient[end - 1] != 0
        assert gradient[first] != 0


def test_neither_padding_nor_the_rest_of_the_batch_changes_a_clip(variables):
    clips = sound(3, 6)
    padded = jnp.pad(clips, ((0, 0), (0, 8), (0, 0)))
    np.testing.assert_allclose(encode(variables, padded)[1:2, :6], encode(variables, clips[1:2]), rtol=1e-4, atol=1e-5)


def test_a_broken_frame_is_refused(variables):
    with pytest.raises(ValueError, match="7 log-mel steps"):
        AudioEncoder(CONFIG).apply(variables, jnp.zeros((1, 7, BANDS)))


@pytest.mark.parametrize("wrong", [{"features": 0}, {"dilations": (1, 0)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AudioConfig(**wrong)
