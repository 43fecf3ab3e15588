import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from avemo.log_mel import LOG_MEAN, LOG_SCALE, POWER_FLOOR, LogMelConfig, log_mel, mel_filters, mel_spectrogram

CONFIG = LogMelConfig()


def noise(batch: int, samples: int) -> jax.Array:
    return 0.1 * jax.random.normal(jax.random.key(0), (batch, samples))


@pytest.mark.parametrize("config", [CONFIG, LogMelConfig(mel_bands=64, low_hz=0.0, high_hz=8000.0, fft_size=1024)])
def test_mel_filters_are_librosas(config):
    reference = librosa.filters.mel(
        sr=config.sample_rate_hz,
        n_fft=config.fft_size,
        n_mels=config.mel_bands,
        fmin=config.low_hz,
        fmax=config.high_hz,
        dtype=np.float64,
    )
    np.testing.assert_allclose(mel_filters(config), reference.T, rtol=1e-9, atol=1e-12)


def test_mel_spectrogram_is_librosas_on_the_left_padded_signal():
    waveform = np.asarray(noise(1, 16_000)[0])
    # librosa centres the window in the transform's frame, hence (512 - 400) / 2 more zeros on both sides.
    reference = librosa.feature.melspectrogram(
        y=np.pad(waveform, (400 - 160 + 56, 56)),
        sr=16_000,
        n_fft=512,
        hop_length=160,
        win_length=400,
        center=False,
        n_mels=40,
        fmin=50,
        fmax=7600,
    )
    ours = mel_spectrogram(jnp.asarray(waveform)[None], CONFIG)[0]
    np.testing.assert_allclose(ours, reference.T, rtol=1e-4)
    np.testing.assert_allclose(
        log_mel(jnp.asarray(waveform)[None], CONFIG)[0] * LOG_SCALE + LOG_MEAN,
        np.log(np.maximum(reference.T, POWER_FLOOR)),
        atol=1e-4,
    )


@pytest.mark.parametrize("samples", [160, 319, 320, 6_400, 6_555])
def test_one_step_per_whole_hop(samples):
    assert log_mel(noise(2, samples), CONFIG).shape == (2, samples // 160, 40)


@pytest.mark.parametrize("first", [160, 480, 6_240])
def test_parts_with_the_sound_before_are_the_whole(first):
    waveform = noise(2, 6_400)
    after = log_mel(waveform[:, first:], CONFIG, jnp.pad(waveform, ((0, 0), (CONFIG.memory, 0)))[:, first:][:, :240])
    np.testing.assert_allclose(after, log_mel(waveform, CONFIG)[:, first // 160 :], atol=1e-5)


def test_a_step_depends_on_no_later_sample_and_on_its_own():
    jacobian = jax.jit(jax.jacrev(lambda x: mel_spectrogram(x[None], CONFIG)[0].sum(-1)))(noise(1, 960)[0])
    for step, gradient in enumerate(np.asarray(jacobian)):
        end = (step + 1) * 160
        assert np.all(gradient[end:] == 0)
        assert np.any(gradient[end - 10 : end] != 0)
        assert np.all(gradient[: max(0, end - 400)] == 0)


def test_silence_is_finite_and_so_is_its_gradient():
    silence = jnp.zeros((1, 640))
    np.testing.assert_allclose(log_mel(silence, CONFIG), (np.log(POWER_FLOOR) - LOG_MEAN) / LOG_SCALE, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: log_mel(x, CONFIG).sum())(silence)).all()


def test_a_tone_is_loudest_in_its_own_band():
    time_s = np.arange(16_000) / 16_000
    tone = jnp.asarray(np.sin(2 * np.pi * 1_000 * time_s), jnp.float32)[None]
    centres_hz = librosa.mel_frequencies(42, fmin=50, fmax=7600)[1:-1]
    loudest = int(log_mel(tone, CONFIG)[0, 50].argmax())
    assert loudest == np.abs(centres_hz - 1_000).argmin()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hop_s": 0.03}, "rising order"),
        ({"fft_size": 256}, "rising order"),
        ({"high_hz": 9000.0}, "high_hz"),
        ({"low_hz": 8000.0}, "low_hz"),
        ({"mel_bands": 0}, "mel_bands"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LogMelConfig(**wrong)
