"""Model-level fusion of face and voice, and a recurrent network over time that predicts valence and arousal.

The paper fuses deep features of both at the model level and follows them with a recurrent network; it
doesn't give us the sizes, so everything below that outline is our choice.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from avemo.labels import DIMENSIONS, FRAME_RATE_HZ
from avemo.log_mel import LogMelConfig, log_mel
from avemo.models.audio import STEPS_PER_FRAME, AudioCarry, AudioConfig, AudioEncoder
from avemo.models.audio import initial_carry as initial_audio_carry
from avemo.models.layers import DType, TrainingDType, float32_bias
from avemo.models.recurrent import Carry as RecurrentCarry
from avemo.models.recurrent import Recurrent, RecurrentConfig
from avemo.models.recurrent import initial_carry as initial_recurrent_carry

SMALLEST_SPREAD = 0.01
"""Added to the predicted spread (our choice), so that its likelihood stays finite."""


@dataclass(frozen=True)
class FusionConfig:
    """Size of the fusion network.

    Attributes:
        face_size: Size of the face embeddings.
        log_mel: Spectrogram; four hops must make one frame.
        audio: Audio network.
        projection: Size to which each modality is projected.
        recurrent: Recurrent network.
        dropout: Probability of zeroing a projected feature or a recurrent output in training.
        dtype: Compute dtype of audio network and projections; spectrogram, recurrence and predictions are float32.
    """

    face_size: int = 128
    log_mel: LogMelConfig = field(default_factory=LogMelConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    projection: int = 64
    recurrent: RecurrentConfig = field(default_factory=RecurrentConfig)
    dropout: float = 0.2
    dtype: TrainingDType = "float32"

    def __post_init__(self) -> None:
        if self.face_size < 1 or self.projection < 1:
            raise ValueError(f"face_size {self.face_size} and projection {self.projection} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")
        if self.samples_per_frame * FRAME_RATE_HZ != self.log_mel.sample_rate_hz:
            raise ValueError(
                f"hop_s is {self.log_mel.hop_s} at {self.log_mel.sample_rate_hz} Hz; {STEPS_PER_FRAME} hops "
                f"must make one frame of 1/{FRAME_RATE_HZ} s"
            )

    @property
    def samples_per_frame(self) -> int:
        """Sound samples that belong to one frame."""
        return STEPS_PER_FRAME * self.log_mel.hop_size


class FusionCarry(NamedTuple):
    """What the network remembers between two chunks of a sequence.

    Attributes:
        sound: The last samples heard, BxP, as far back as a window of the spectrogram reaches.
        audio: State of the audio network.
        recurrent: State of the recurrent network.
    """

    sound: Float[Array, "B P"]
    audio: AudioCarry
    recurrent: RecurrentCarry


def initial_carry(config: FusionConfig, batch: int) -> FusionCarry:
    """The carry before the first frame: silence, and networks at rest.

    Args:
        config: Size of the fusion network.
        batch: Number of sequences, B.

    Returns:
        The carry.
    """
    return FusionCarry(
        sound=jnp.zeros((batch, config.log_mel.memory)),
        audio=initial_audio_carry(config.audio, config.log_mel.mel_bands, batch),
        recurrent=initial_recurrent_carry(config.recurrent, batch),
    )


class Modality(nn.Module):
    """Projection of one modality, with a learned vector in place of frames where it is missing.

    Attributes:
        features: Size of the projection.
        dtype: Compute dtype.
    """

    features: int
    dtype: DType = "float32"

    @nn.compact
    def __call__(
        self, frames_BxTxD: Float[Array, "B T D"], valid_BxT: Bool[Array, "B T"]
    ) -> Float[Array, "B T features"]:
        """Map BxTxD to BxTxF; frames that aren't valid influence nothing, not even by NaN."""
        valid_BxTx1 = valid_BxT[..., None]
        frames = nn.LayerNorm(dtype=self.dtype, name="norm")(jnp.where(valid_BxTx1, frames_BxTxD, 0))
        dense = nn.Dense(self.features, dtype=self.dtype, promote_dtype=float32_bias, name="project")
        frames = nn.relu(dense(frames))
        missing = self.param("missing", nn.initializers.normal(0.1), (self.features,), jnp.float32)
        return jnp.where(valid_BxTx1, frames, missing)


class FusionNetwork(nn.Module):
    """Face embeddings and sound to valence and arousal, frame by frame and causally.

    A sequence may be given whole or in chunks: with the carry of the chunk before, the predictions are the same.

    Attributes:
        config: Size of the network.
        dtype: Compute dtype, see `FusionConfig`; None takes the configuration's.
    """

    config: FusionConfig
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self,
        face_BxTxD: Float[Array, "B T D"],
        face_valid_BxT: Bool[Array, "B T"],
        waveform_BxN: Float[Array, "B N"],
        voice_valid_BxT: Bool[Array, "B T"],
        train: bool,
        carry: FusionCarry | None = None,
    ) -> dict[str, Any]:
        """Predict valence and arousal of T frames.

        Args:
            face_BxTxD: Face embeddings.
            face_valid_BxT: False where no face was found.
            waveform_BxN: Sound in [-1, 1] of the same frames, N = 640·T at 16 kHz.
            voice_valid_BxT: False where there is no sound.
            train: True switches dropout on (random stream "dropout").
            carry: What the call on the frames before returned; None at the beginning of a sequence.

        Returns:
            "valence_arousal" BxTx2 in [-1, 1], float32; "spread" BxTx2, positive: the standard deviation of ratings
            around it, read from the recurrent network's states without changing what they learn; "audio" BxTxD, the
            audio network's vectors; "carry", for the frames that follow.

        Raises:
            ValueError: If face embeddings or sound have another size than the configured one.
        """
        config = self.config
        batch, frames, face_size = face_BxTxD.shape
        if face_size != config.face_size:
            raise ValueError(f"face embeddings have size {face_size}; expected {config.face_size}")
        if waveform_BxN.shape[1] != frames * config.samples_per_frame:
            raise ValueError(
                f"{waveform_BxN.shape[1]} samples for {frames} frames; expected {config.samples_per_frame} per frame"
            )
        if carry is None:
            carry = initial_carry(config, batch)
        dtype = self.dtype or config.dtype

        log_mel_BxSxM = log_mel(waveform_BxN, config.log_mel, carry.sound)
        last_sound_BxP = jnp.concatenate([carry.sound, waveform_BxN], axis=1)[:, waveform_BxN.shape[1] :]
        audio_BxTxD, audio_carry = AudioEncoder(config.audio, dtype, name="audio")(log_mel_BxSxM, carry.audio)

        face = Modality(config.projection, dtype, name="face")(face_BxTxD, face_valid_BxT)
        voice = Modality(config.projection, dtype, name="voice")(audio_BxTxD, voice_valid_BxT)
        fused = nn.Dropout(config.dropout, deterministic=not train)(jnp.concatenate([face, voice], axis=-1))
        hidden, recurrent_carry = Recurrent(config.recurrent, name="recurrent")(fused, carry.recurrent)
        hidden = nn.Dropout(config.dropout, deterministic=not train)(hidden)
        spread = nn.softplus(nn.Dense(len(DIMENSIONS), name="spread")(jax.lax.stop_gradient(hidden)))
        return {
            "valence_arousal": jnp.tanh(nn.Dense(len(DIMENSIONS), name="valence_arousal")(hidden)),
            "spread": spread + SMALLEST_SPREAD,
            "audio": audio_BxTxD,
            "carry": FusionCarry(last_sound_BxP, audio_carry, recurrent_carry),
        }


def init_variables(network: FusionNetwork, key: Key[Array, ""]) -> Any:
    """Fresh "params", and empty "batch_stats", of a fusion network; they don't depend on the length of the input."""
    face_BxTxD = jnp.zeros((1, 1, network.config.face_size))
    waveform_BxN = jnp.zeros((1, network.config.samples_per_frame))
    valid_BxT = jnp.ones((1, 1), bool)
    params = network.init(key, face_BxTxD, valid_BxT, waveform_BxN, valid_BxT, train=False)["params"]
    return {"params": params, "batch_stats": {}}


DEMO_FUSION = FusionConfig()
"""Small enough for two CPU cores (our choice). 120,516 parameters."""

PAPER_FUSION = FusionConfig(
    audio=AudioConfig(features=128, dilations=(1, 2, 4, 8)),
    projection=128,
    recurrent=RecurrentConfig(features=256, layers=2),
)
"""For RECOLA on an accelerator. The paper's sizes are not known to us: our choice. 1,349,124 parameters."""
