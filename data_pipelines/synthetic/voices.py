"""Voices that babble: a buzzing source through the formants of changing vowels, with hisses for consonants.

Arousal is heard plainly in pitch, energy and speech rate; valence in the formants (a smile shortens the vocal
tract) and in how the pitch moves within a syllable.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

SAMPLE_RATE_HZ = 44_100
"""As in RECOLA's recordings."""

_VOWEL_FORMANTS_HZ = np.array(
    [[730, 1090, 2440, 3400], [530, 1840, 2480, 3500], [270, 2290, 3010, 3600], [570, 840, 2410, 3300]]
)
_FORMANT_BANDWIDTHS_HZ = (80.0, 100.0, 140.0, 220.0)
_SMILE = 0.1
"""Share by which the formants of a wholly positive or negative voice lie above or below the mean."""

_PITCH_OCTAVES, _ENERGY_DB, _RATE_OCTAVES = 0.7, 14.0, 0.6
"""What arousal from 0 to 1 adds to pitch, energy and speech rate."""

_SYLLABLES_HZ = 4.2
_LEVEL = 0.06
"""Root mean square of a voice of arousal 0 while it speaks, full scale being 1."""


@dataclass(frozen=True)
class Speaker:
    """Whose voice it is.

    Attributes:
        pitch_hz: Fundamental frequency at arousal 0.
        formant_scale: Formants relative to an average man's.
        breathiness: Share of noise in the source.
    """

    pitch_hz: float
    formant_scale: float
    breathiness: float


def sample_speaker(rng: np.random.Generator) -> Speaker:
    """A speaker with pitch and formants somewhere between those of low and high voices."""
    height = rng.uniform(0.0, 1.0)
    return Speaker(
        pitch_hz=float(100.0 * 2 ** (1.0 * height + rng.normal(0, 0.07))),
        formant_scale=float(1.0 + 0.16 * height + rng.normal(0, 0.02)),
        breathiness=float(rng.uniform(0.02, 0.08)),
    )


def sample_phrases(duration_s: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """When somebody speaks: phrases (start, end in seconds) with short pauses, whatever the arousal."""
    phrases, start_s = [], float(rng.uniform(0.0, 0.2))
    while start_s < duration_s:
        end_s = min(duration_s, start_s + float(rng.uniform(1.2, 3.0)))
        phrases.append((start_s, end_s))
        start_s = end_s + float(rng.uniform(0.15, 0.5))
    return phrases


def speaking(times_s: np.ndarray, phrases: list[tuple[float, float]]) -> np.ndarray:
    """How much is spoken at each time, 0 to 1, with soft beginnings and ends of 60 ms; shape of `times_s`."""
    loudness = np.zeros_like(times_s)
    for start_s, end_s in phrases:
        loudness += np.clip(np.minimum(times_s - start_s, end_s - times_s) / 0.06, 0.0, 1.0)
    return np.minimum(loudness, 1.0)


def synthesize_voice(
    speaker: Speaker,
    arousal: np.ndarray,
    valence: np.ndarray,
    phrases: list[tuple[float, float]],
    rate_hz: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A voice that follows two curves.

    Args:
        speaker: Who speaks.
        arousal: What the voice shows of arousal, about -1 to 1, shape (T,).
        valence: What the voice shows of valence, about -1 to 1, shape (T,).
        phrases: When it speaks, from `sample_phrases`.
        rate_hz: Rate of the two curves.
        rng: Draws vowels, consonants, intonation and noise.

    Returns:
        Sound at `SAMPLE_RATE_HZ`, float64 in [-1, 1], as long as the curves.
    """
    frames = len(arousal)
    times_s = np.arange(round(frames / rate_hz * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    arousal = np.interp(times_s, np.arange(frames) / rate_hz, arousal)
    valence = np.interp(times_s, np.arange(frames) / rate_hz, valence)

    syllables = np.cumsum(_SYLLABLES_HZ * 2 ** (_RATE_OCTAVES * arousal)) / SAMPLE_RATE_HZ
    number = syllables.astype(int)
    position = syllables - number
    accents = rng.normal(0.0, 0.05, number[-1] + 1)[number]
    octaves = _PITCH_OCTAVES * arousal + accents + 0.25 * valence * (position - 0.5)
    phase = np.cumsum(speaker.pitch_hz * 2**octaves) / SAMPLE_RATE_HZ

    source = _glottal_pulses(phase % 1.0) + speaker.breathiness * rng.normal(size=len(phase))
    voiced = _through_vowels(source, speaker, syllables, valence, rng)
    voiced *= np.sin(np.pi * np.clip((position - 0.12) / 0.88, 0.0, 1.0)) ** 0.6
    voiced *= _LEVEL / np.sqrt(np.mean(voiced**2))
    hisses = _hisses(number, position, rng)
    loudness = speaking(times_s, phrases) * 10 ** (_ENERGY_DB * arousal / 20)
    room = 0.0015 * rng.normal(size=len(phase))
    return np.clip((voiced + 0.35 * _LEVEL * hisses) * loudness + room, -1.0, 1.0)


def _glottal_pulses(phase: np.ndarray) -> np.ndarray:
    """Derivative of the air flow of Rosenberg's glottis: opens over 40 % of a period, closes over 16 %."""
    opening = np.where(phase < 0.4, np.sin(np.pi * phase / 0.4), 0.0)
    closing = np.where((phase >= 0.4) & (phase < 0.56), -2.5 * np.sin(np.pi * (phase - 0.4) / 0.32), 0.0)
    return opening + closing


def _through_vowels(
    source: np.ndarray, speaker: Speaker, syllables: np.ndarray, valence: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The source through every vowel, frowned and smiled, and what of each is heard when."""
    vowels = rng.integers(len(_VOWEL_FORMANTS_HZ), size=int(syllables[-1]) + 3)
    number = syllables.astype(int)
    glide = np.clip((syllables - number) / 0.3, 0.0, 1.0)
    smile = np.clip(0.5 + 0.5 * valence, 0.0, 1.0)
    sound = np.zeros_like(source)
    for vowel, formants_hz in enumerate(_VOWEL_FORMANTS_HZ):
        share = (vowels[number + 1] == vowel) * glide + (vowels[number] == vowel) * (1.0 - glide)
        for side, weight in ((-1.0, 1.0 - smile), (1.0, smile)):
            scale = speaker.formant_scale * (1.0 + side * _SMILE)
            sound += share * weight * _resonate(source, formants_hz * scale)
    return sound


def _resonate(source: np.ndarray, formants_hz: np.ndarray) -> np.ndarray:
    """A cascade of two-pole resonators (Klatt 1980); all vowels come out equally loud."""
    sections = []
    for frequency_hz, bandwidth_hz in zip(formants_hz, _FORMANT_BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
        middle = -2 * radius * np.cos(2 * np.pi * frequency_hz / SAMPLE_RATE_HZ)
        sections.append([1 + middle + radius**2, 0.0, 0.0, 1.0, middle, radius**2])
    sound = sosfilt(np.array(sections), source)
    return sound / np.sqrt(np.mean(sound**2))


def _hisses(number: np.ndarray, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise like s and f at the beginning of about half of the syllables."""
    numerator, denominator = butter(2, [2500, 8000], btype="bandpass", fs=SAMPLE_RATE_HZ)
    noise = lfilter(numerator, denominator, rng.normal(size=len(position)))
    strength = (rng.random(number[-1] + 1) < 0.5)[number]
    return strength * noise * np.sin(np.pi * np.clip(position / 0.22, 0.0, 1.0)) ** 2
