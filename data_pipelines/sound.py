"""Sound: load, mix down, resample, and lay against video frames, 640 samples to each."""

from pathlib import Path

import librosa
import numpy as np
import soundfile

from avemo.labels import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from data_pipelines.errors import DataError

SILENCE_RMS = 1e-4
"""Root mean square (of full scale) below which sound counts as silent: -80 dB, our choice."""

VOICE_FRAMES = 50
"""A frame has sound if anything was to be heard in it or in so many frames before (2 s: people pause; our choice)."""


def load_sound(path: Path) -> np.ndarray:
    """Loads a sound file.

    Args:
        path: Any file that libsndfile reads, such as WAV or FLAC. For containers with video see
            `video.load_sound_track`.

    Returns:
        float32 in [-1, 1], mono (the mean of the channels), 16 kHz.

    Raises:
        DataError: The file can't be read as sound, or holds samples that are no numbers.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: can't be read as sound ({error}); fetch the file anew") from error
    check_numbers(samples, path)
    return resample(samples.mean(axis=1), rate_hz)


def check_numbers(samples: np.ndarray, path: Path | str) -> None:
    """Raises DataError where a file of floating-point sound holds infinities or no numbers at all."""
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: holds samples that are no finite numbers; fetch the file anew")


def resample(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Resamples to 16 kHz (soxr, high quality).

    Args:
        waveform: float32, N.
        rate_hz: Its sample rate.

    Returns:
        float32, about N · 16000 / rate_hz.
    """
    if rate_hz == SAMPLE_RATE_HZ or not len(waveform):
        return waveform.astype(np.float32)
    return librosa.resample(waveform, orig_sr=rate_hz, target_sr=SAMPLE_RATE_HZ, res_type="soxr_hq").astype(np.float32)


def fit_to_frames(waveform: np.ndarray, frame_count: int) -> np.ndarray:
    """Gives sound exactly 640 samples per frame: cut at the end, or filled up with silence there.

    Args:
        waveform: float32 at 16 kHz, any length.
        frame_count: T.

    Returns:
        float32, 640·T.
    """
    wanted = frame_count * SAMPLES_PER_FRAME
    return np.pad(waveform[:wanted], (0, max(wanted - len(waveform), 0)))


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """16-bit samples for storage: 1.0 is full scale, what exceeds it is clipped."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


def has_voice(waveform: np.ndarray) -> bool:
    """Whether there is anything to hear: False for an empty or silent waveform."""
    return bool(len(waveform)) and float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) >= SILENCE_RMS


def voiced_frames(waveform: np.ndarray, silent_frames: int = VOICE_FRAMES) -> tuple[np.ndarray, int]:
    """Which frames have sound, see `VOICE_FRAMES`: in training, evaluation and streams alike.

    Args:
        waveform: float32, 640·T at 16 kHz.
        silent_frames: How many frames there have been since anything was last heard.

    Returns:
        bool (T,), and how many there have been by now.
    """
    frames_TxN = waveform.reshape(-1, SAMPLES_PER_FRAME).astype(np.float64)
    loud_T = np.sqrt(np.square(frames_TxN).mean(1)) >= SILENCE_RMS
    number_T = np.arange(1, len(loud_T) + 1)
    last_T = np.maximum.accumulate(np.where(loud_T, number_T, -silent_frames))
    since_T = number_T - last_T
    return since_T <= VOICE_FRAMES, int(since_T[-1]) if len(since_T) else silent_frames
