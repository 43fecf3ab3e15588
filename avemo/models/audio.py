"""The audio network, from a log-mel spectrogram to one vector per 40 ms frame. Our choice throughout."""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avemo.models.layers import DType, float32_bias

STEPS_PER_FRAME = 4
"""Log-mel steps (10 ms) per frame (40 ms): the two strided convolutions halve the rate twice."""


@dataclass(frozen=True)
class AudioConfig:
    """Size of the audio network.

    Attributes:
        features: Size of the vector of each frame, and channels of every convolution.
        dilations: Dilation, in frames, of each causal convolution at the frame rate.
    """

    features: int = 64
    dilations: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features is {self.features}; it must be at least 1")
        if min(self.dilations, default=1) < 1:
            raise ValueError(f"dilations is {self.dilations}; each must be at least 1")


AudioCarry = tuple[Float[Array, "B _ _"], ...]
"""What each convolution still needs of the steps before, float32: BxPxD, as many steps P as its left padding."""


def initial_carry(config: AudioConfig, mel_bands: int, batch: int) -> AudioCarry:
    """The carry before the first step: zeros, as a convolution's padding.

    Args:
        config: Size of the audio network.
        mel_bands: Number of mel bands, M.
        batch: Number of sequences, B.

    Returns:
        The carry.
    """
    sizes = [(1, mel_bands), (1, config.features)]
    sizes += [(2 * dilation, config.features) for dilation in config.dilations]
    return tuple(jnp.zeros((batch, *size)) for size in sizes)


class AudioEncoder(nn.Module):
    """Causal convolutions over a log-mel spectrogram.

    Two convolutions over time, three taps and stride 2 each, with the mel bands as their channels (as Whisper
    begins, Radford et al. 2023), then residual convolutions of three dilated taps. Every left padding is the
    kernel's reach minus the stride, so frame t depends only on log-mel steps before 4·(t + 1); with the default
    dilations it hears 0.6 s. Layer normalisation per step instead of batch normalisation: causal, and indifferent
    to padding and to the rest of the batch.

    Attributes:
        config: Size of the network.
        dtype: Compute dtype.
    """

    config: AudioConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(
        self, log_mel_BxSxM: Float[Array, "B S M"], carry: AudioCarry
    ) -> tuple[Float[Array, "B T D"], AudioCarry]:
        """Map a spectrogram to frame vectors.

        Args:
            log_mel_BxSxM: From `avemo.log_mel.log_mel` with a hop of 10 ms; S a multiple of 4.
            carry: What the call on the steps before returned, `initial_carry` at the beginning.

        Returns:
            BxTxD in the compute dtype, T = S / 4, and the carry for the steps that follow.

        Raises:
            ValueError: If S isn't a multiple of 4.
        """
        steps, features = log_mel_BxSxM.shape[1], self.config.features
        if steps % STEPS_PER_FRAME:
            raise ValueError(f"{steps} log-mel steps are no whole number of frames of {STEPS_PER_FRAME}")

        conv = partial(nn.Conv, features, (3,), padding="VALID", dtype=self.dtype, promote_dtype=float32_bias)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        before, after = iter(carry), []

        def with_steps_before(new_BxSxD: Array) -> Array:
            kept = next(before)
            whole = jnp.concatenate([kept.astype(self.dtype), new_BxSxD], axis=1)
            after.append(whole[:, whole.shape[1] - kept.shape[1] :].astype(jnp.float32))
            return whole

        frames = log_mel_BxSxM.astype(self.dtype)
        for i in range(2):
            frames = conv(strides=2, name=f"conv_{i}")(with_steps_before(frames))
            frames = nn.relu(norm(name=f"norm_{i}")(frames))
        for i, dilation in enumerate(self.config.dilations):
            new = nn.relu(norm(name=f"temporal_norm_{i}")(frames))
            frames += conv(kernel_dilation=dilation, name=f"temporal_{i}")(with_steps_before(new))
        return norm(name="norm")(frames), tuple(after)
