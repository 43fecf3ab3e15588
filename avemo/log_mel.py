"""Causal log-mel spectrogram: what the audio network hears.

The mel filters are Slaney's (Auditory Toolbox, 1998), as `librosa.filters.mel` makes them by default.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avemo.labels import SAMPLE_RATE_HZ

POWER_FLOOR = 1e-6
"""Mel energies below this count as silence, so that the logarithm stays finite."""

LOG_MEAN, LOG_SCALE = -6.0, 4.0
"""Fixed affine map of the logarithm (our choice): silence becomes -1.95, a loud vowel 2 to 3."""


@dataclass(frozen=True)
class LogMelConfig:
    """Analysis window and mel bands (our choice; the values are usual in speech processing).

    Attributes:
        sample_rate_hz: Rate of the waveform.
        window_s: Length of the Hann window.
        hop_s: Time between two steps.
        fft_size: Length of the Fourier transform, at least the window's.
        mel_bands: Number of mel bands, M.
        low_hz: Lower edge of the lowest band.
        high_hz: Upper edge of the highest band.
    """

    sample_rate_hz: int = SAMPLE_RATE_HZ
    window_s: float = 0.025
    hop_s: float = 0.010
    fft_size: int = 512
    mel_bands: int = 40
    low_hz: float = 50.0
    high_hz: float = 7600.0

    def __post_init__(self) -> None:
        if not 0 < self.hop_size <= self.window_size <= self.fft_size:
            raise ValueError(
                f"hop, window and fft_size are {self.hop_size}, {self.window_size} and {self.fft_size} "
                "samples; they must be positive and in rising order"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"low_hz and high_hz are {self.low_hz} and {self.high_hz}; they must rise and lie within "
                f"0 and {self.sample_rate_hz / 2}"
            )
        if self.mel_bands < 1:
            raise ValueError(f"mel_bands is {self.mel_bands}; it must be at least 1")

    @property
    def window_size(self) -> int:
        """Length of the window in samples."""
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_size(self) -> int:
        """Time between two steps in samples."""
        return round(self.hop_s * self.sample_rate_hz)

    @property
    def memory(self) -> int:
        """Samples before those of a step that its window reaches back to."""
        return self.window_size - self.hop_size


def _mel_from_hz(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear (3 mel per 200 Hz) up to 1 kHz, then logarithmic (27 mel per factor 6.4)."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _hz_from_mel(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def mel_filters(config: LogMelConfig) -> np.ndarray:
    """Triangular mel filters, each of unit area over frequency in Hz.

    Args:
        config: Bands and rates.

    Returns:
        Weights of each band on the bins of the power spectrum, float64, (fft_size // 2 + 1) × M.
    """
    bins_hz = np.fft.rfftfreq(config.fft_size, 1 / config.sample_rate_hz)[:, None]
    low, high = _mel_from_hz(np.array([config.low_hz, config.high_hz]))
    edges_hz = _hz_from_mel(np.linspace(low, high, config.mel_bands + 2))
    left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising, falling = (bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def mel_spectrogram(
    waveform_BxN: Float[Array, "B N"], config: LogMelConfig, before_BxP: Float[Array, "B P"] | None = None
) -> Float[Array, "B S M"]:
    """Power in each mel band, float32.

    Step i sees the `window_size` samples that end at (i + 1)·hop, so it depends on no later sample.

    Args:
        waveform_BxN: Sound in [-1, 1], N at least one hop.
        config: Window, hop and bands.
        before_BxP: The last P = `config.memory` samples before; None for silence.

    Returns:
        BxSxM with S = N // hop exactly.
    """
    batch, samples = waveform_BxN.shape
    window, hop = config.window_size, config.hop_size
    steps, hops_in_window = samples // hop, -(-window // hop)
    if before_BxP is None:
        before_BxP = jnp.zeros((batch, config.memory))
    # Windows are put together of whole hops, not gathered: slices stay on the device that holds the row.
    lead = (hops_in_window - 1) * hop - config.memory
    sound = jnp.concatenate([before_BxP, waveform_BxN[:, : steps * hop]], axis=1).astype(jnp.float32)
    hops = jnp.pad(sound, ((0, 0), (lead, 0))).reshape(batch, steps + hops_in_window - 1, hop)
    framed = jnp.concatenate([hops[:, i : i + steps] for i in range(hops_in_window)], axis=-1)
    framed_BxSxW = framed[..., hops_in_window * hop - window :]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectrum = jnp.fft.rfft(framed_BxSxW * hann.astype(np.float32), config.fft_size)
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.matmul(power, mel_filters(config).astype(np.float32), precision=jax.lax.Precision.HIGHEST)


def log_mel(
    waveform_BxN: Float[Array, "B N"], config: LogMelConfig, before_BxP: Float[Array, "B P"] | None = None
) -> Float[Array, "B S M"]:
    """Causal log-mel spectrogram: natural logarithm of the floored energies, mapped affinely to about [-2, 3].

    Args:
        waveform_BxN: Sound in [-1, 1], N at least one hop.
        config: Window, hop and bands.
        before_BxP: The last P = `config.memory` samples before; None for silence.

    Returns:
        Float32 BxSxM with S = N // hop exactly; step i depends only on samples before (i + 1)·hop.
    """
    energy_BxSxM = mel_spectrogram(waveform_BxN, config, before_BxP)
    return (jnp.log(jnp.maximum(energy_BxSxM, POWER_FLOOR)) - LOG_MEAN) / LOG_SCALE
