from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import correlate

from data_pipelines.synthetic.voices import (
    SAMPLE_RATE_HZ,
    Speaker,
    sample_phrases,
    sample_speaker,
    speaking,
    synthesize_voice,
)

SPEAKER = Speaker(pitch_hz=120.0, formant_scale=1.0, breathiness=0.03)
FRAMES, RATE_HZ = 100, 25.0


def voice(arousal: float, valence: float = 0.0) -> np.ndarray:
    curves = np.full(FRAMES, arousal), np.full(FRAMES, valence)
    return synthesize_voice(SPEAKER, *curves, [(0.0, 4.0)], RATE_HZ, np.random.default_rng(0))


def envelope(sound: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(sound.reshape(-1, SAMPLE_RATE_HZ // 100) ** 2, axis=1))


def pitch_hz(sound: np.ndarray) -> float:
    """Median over 60 ms windows of the first strong peak of the autocorrelation."""
    length, pitches = round(0.06 * SAMPLE_RATE_HZ), []
    for start in range(0, len(sound) - length, length):
        window = sound[start : start + length] - sound[start : start + length].mean()
        if np.sqrt(np.mean(window**2)) > 0.01:
            likeness = correlate(window, window, method="fft")[length - 1 :]
            lags = slice(round(SAMPLE_RATE_HZ / 400), round(SAMPLE_RATE_HZ / 60))
            pitches.append(SAMPLE_RATE_HZ / (lags.start + int(likeness[lags].argmax())))
    return float(np.median(pitches))


def test_sound_is_as_long_as_its_curves_and_within_range() -> None:
    sound = voice(0.3)
    assert sound.shape == (FRAMES / RATE_HZ * SAMPLE_RATE_HZ,)
    assert np.abs(sound).max() <= 1.0


def test_pitch_is_the_speakers_and_rises_with_arousal() -> None:
    low, middle, high = (pitch_hz(voice(arousal)) for arousal in (-0.8, 0.0, 0.8))
    assert middle == pytest.approx(SPEAKER.pitch_hz, rel=0.08)
    assert low < 0.85 * middle < 1.15 * middle < high


def test_energy_rises_with_arousal() -> None:
    low, middle, high = (20 * np.log10(np.sqrt(np.mean(voice(a) ** 2))) for a in (-0.8, 0.0, 0.8))
    assert high - middle > 8
    assert middle - low > 8


def test_speech_rate_rises_with_arousal() -> None:
    def syllables(sound: np.ndarray) -> int:
        loudness = envelope(sound)
        loud = loudness > 0.35 * np.median(loudness)
        return int(np.sum(loud[1:] & ~loud[:-1]))

    assert syllables(voice(0.8)) >= syllables(voice(-0.8)) + 4


def test_valence_raises_the_formants_but_not_the_energy() -> None:
    def centroid_hz(sound: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(sound)) ** 2
        frequencies_hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ)
        speech = frequencies_hz < 2500
        return float(np.sum(frequencies_hz[speech] * power[speech]) / np.sum(power[speech]))

    sad, glad = voice(0.0, -0.9), voice(0.0, 0.9)
    assert centroid_hz(glad) > 1.02 * centroid_hz(sad)
    assert 20 * np.log10(glad.std() / sad.std()) == pytest.approx(0.0, abs=1.0)


def test_nothing_but_the_room_is_heard_in_pauses() -> None:
    phrases = [(0.5, 1.5), (2.0, 3.0)]
    curve = np.zeros(FRAMES)
    sound = synthesize_voice(SPEAKER, curve, curve, phrases, RATE_HZ, np.random.default_rng(0))
    loudness = envelope(sound)
    times_s = (np.arange(len(loudness)) + 0.5) / 100
    assert loudness[speaking(times_s, phrases) == 0].max() < 0.005
    assert np.median(loudness[speaking(times_s, phrases) == 1]) > 0.02


def test_phrases_follow_each_other_with_pauses() -> None:
    phrases = sample_phrases(30.0, np.random.default_rng(0))
    assert all(start < end <= 30.0 for start, end in phrases)
    assert all(before[1] + 0.1 < after[0] for before, after in pairwise(phrases))


def test_speakers_differ_in_pitch() -> None:
    rng = np.random.default_rng(0)
    pitches = [sample_speaker(rng).pitch_hz for _ in range(50)]
    assert min(pitches) < 115
    assert max(pitches) > 180
