"""Sound against frames: rates, lengths, silence."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from avemo.labels import SAMPLES_PER_FRAME
from data_pipelines.errors import DataError
from data_pipelines.sound import VOICE_FRAMES, fit_to_frames, has_voice, load_sound, resample, to_int16, voiced_frames


def tone(rate_hz: int, seconds: float = 1.0, frequency_hz: float = 440) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_resampling_keeps_a_tone(rate_hz: int) -> None:
    ours, ideal = resample(tone(rate_hz), rate_hz), tone(16_000)
    assert ours.dtype == np.float32
    assert len(ours) == 16_000
    assert np.abs(ours - ideal)[200:-200].max() < 2e-3


def test_loads_stereo_as_the_mean(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16_000), 0 * tone(16_000)], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_sound(tmp_path / "a.wav"), tone(16_000) / 2, atol=1e-6)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"a\.wav: can't be read"):
        load_sound(tmp_path / "a.wav")


@pytest.mark.parametrize("sample", [np.nan, np.inf])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_samples_that_are_no_numbers_are_named(tmp_path: Path, sample: float, rate_hz: int) -> None:
    samples = tone(rate_hz)
    samples[7] = sample
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: holds samples that are no finite numbers"):
        load_sound(tmp_path / "a.wav")


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_hardly_any_samples(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(44_100)[:samples], 44_100)
    assert len(load_sound(tmp_path / "a.wav")) == min(samples, 1)


@pytest.mark.parametrize("samples", [0, 1_279, 1_280, 5_000])
def test_640_samples_per_frame(samples: int) -> None:
    waveform = np.arange(samples, dtype=np.float32)
    fitted = fit_to_frames(waveform, 2)
    assert fitted.shape == (1_280,)
    np.testing.assert_array_equal(fitted[:samples], waveform[:1_280])
    assert (fitted[samples:] == 0).all()


def test_int16_by_hand() -> None:
    assert to_int16(np.array([0, 0.5, -1, 1, 2, -2], np.float32)).tolist() == [
        0,
        16384,
        -32768,
        32767,
        32767,
        -32768,
    ]


def test_silence_is_no_voice() -> None:
    assert has_voice(tone(16_000))
    assert not has_voice(np.zeros(0, np.float32))
    assert not has_voice(np.zeros(16_000, np.float32))
    assert not has_voice(tone(16_000) * 1e-5)


def test_frames_have_sound_until_two_seconds_after_the_last() -> None:
    loud = np.zeros(200, bool)
    loud[[10, 40, 150]] = True
    waveform = np.repeat(np.where(loud, 0.01, 0.0).astype(np.float32), SAMPLES_PER_FRAME)
    wanted = np.zeros(200, bool)
    wanted[10:91] = wanted[150:] = True
    voiced, silent = voiced_frames(waveform)
    np.testing.assert_array_equal(voiced, wanted)
    assert silent == 49


def test_frames_have_the_same_sound_however_they_are_cut() -> None:
    rng = np.random.default_rng(0)
    loud = rng.random(500) < 0.02
    waveform = np.repeat(np.where(loud, 0.01, 0.0).astype(np.float32), SAMPLES_PER_FRAME)
    whole, _ = voiced_frames(waveform)
    parts, silent = [], VOICE_FRAMES
    for part in np.split(waveform, 640 * np.sort(rng.choice(501, 20))):
        voiced, silent = voiced_frames(part, silent)
        parts.append(voiced)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert 0 < whole.sum() < 500
