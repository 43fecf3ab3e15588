"""Prediction of a stream: a pure step over a few frames, with a carry from step to step.

Whatever the steps' lengths, all of them together give what one pass over the whole gives, since every part of the
networks is causal and keeps its state in the carry.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from avemo.labels import FRAME_RATE_HZ
from avemo.models.face import FaceNetwork
from avemo.models.fusion import FusionCarry, FusionNetwork

STILL_FRAMES = 5 * FRAME_RATE_HZ
"""For so long a picture is shown to a fusion network."""


class FramePredictions(NamedTuple):
    """What is said of each frame.

    Attributes:
        expression: probabilities in the order of `avemo.labels.EXPRESSIONS`; NaN where there is no face.
        valence_arousal: in [-1, 1].
        spread: standard deviation of ratings around them, as the network has it: not yet calibrated.
    """

    expression: Float[Array, "B T K"]
    valence_arousal: Float[Array, "B T D"]
    spread: Float[Array, "B T D"]


class Seen(NamedTuple):
    """What the face network says of each frame; NaN where there is no face, but zeros in the embedding."""

    embedding: Float[Array, "B T E"]
    expression: Float[Array, "B T K"]
    valence_arousal: Float[Array, "B T D"]


def see(
    network: FaceNetwork,
    variables: Any,
    faces_BxTxHxWx3: UInt8[Array, "B T H W 3"],
    face_valid_BxT: Bool[Array, "B T"],
) -> Seen:
    """What a face network says of T frames of B streams: embedding, expressions as probabilities, valence and arousal.

    Args:
        network: The face network.
        variables: Its own.
        faces_BxTxHxWx3: RGB face crops of its size; anything where there is no face.
        face_valid_BxT: Which frames have a face.

    Returns:
        Embedding, probabilities, and its own valence and arousal.
    """
    batch, frames = face_valid_BxT.shape
    faces = faces_BxTxHxWx3.reshape(batch * frames, *faces_BxTxHxWx3.shape[2:])
    said: Any = network.apply(variables, faces, train=False)
    in_frames = lambda value, otherwise: jnp.where(
        face_valid_BxT[..., None], value.reshape(batch, frames, -1), otherwise
    )
    return Seen(
        embedding=in_frames(said["embedding"], 0.0),
        expression=in_frames(jax.nn.softmax(said["expression"]), jnp.nan),
        valence_arousal=in_frames(said["valence_arousal"], jnp.nan),
    )


def face_alone(
    network: FaceNetwork,
    variables: Any,
    faces_BxTxHxWx3: UInt8[Array, "B T H W 3"],
    face_valid_BxT: Bool[Array, "B T"],
) -> FramePredictions:
    """What a face network predicts by itself, see `see`; it knows no spread (NaN)."""
    seen = see(network, variables, faces_BxTxHxWx3, face_valid_BxT)
    spread = jnp.full_like(seen.valence_arousal, jnp.nan)
    return FramePredictions(seen.expression, seen.valence_arousal, spread)


def face_step(
    network: FaceNetwork,
    variables: Any,
    carry: tuple[()],
    faces_BxTxHxWx3: UInt8[Array, "B T H W 3"],
    face_valid_BxT: Bool[Array, "B T"],
    waveform_BxN: Float[Array, "B N"],
    voice_valid_BxT: Bool[Array, "B T"],
) -> tuple[tuple[()], FramePredictions]:
    """As `fused_step`, by the face network alone: frame by frame, without sound or memory."""
    return carry, face_alone(network, variables, faces_BxTxHxWx3, face_valid_BxT)


def fused_step(
    networks: tuple[FaceNetwork, FusionNetwork],
    uses: tuple[bool, bool],
    variables: tuple[Any, Any],
    carry: FusionCarry,
    faces_BxTxHxWx3: UInt8[Array, "B T H W 3"],
    face_valid_BxT: Bool[Array, "B T"],
    waveform_BxN: Float[Array, "B N"],
    voice_valid_BxT: Bool[Array, "B T"],
) -> tuple[FusionCarry, FramePredictions]:
    """The next T frames of B streams.

    Args:
        networks: Face and fusion network.
        uses: Whether the fusion has learned from faces, and from sound; what it hasn't learned from is masked.
        variables: Theirs, in the same order.
        carry: What the step before returned; `avemo.models.fusion.initial_carry` at the beginning.
        faces_BxTxHxWx3: RGB face crops of the face network's size; anything where there is no face.
        face_valid_BxT: Which frames have a face.
        waveform_BxN: Sound in [-1, 1] of these frames, N = 640·T at 16 kHz; anything where there is none.
        voice_valid_BxT: Which frames have sound.

    Returns:
        The carry for the step that follows, and the predictions.
    """
    seen = see(networks[0], variables[0], faces_BxTxHxWx3, face_valid_BxT)
    outputs: Any = networks[1].apply(
        variables[1],
        *(seen.embedding, face_valid_BxT & uses[0], waveform_BxN, voice_valid_BxT & uses[1]),
        train=False,
        carry=carry,
    )
    said = FramePredictions(seen.expression, outputs["valence_arousal"], outputs["spread"])
    return outputs["carry"], said


def still_step(
    networks: tuple[FaceNetwork, FusionNetwork],
    uses: tuple[bool, bool],
    variables: tuple[Any, Any],
    faces_BxHxWx3: UInt8[Array, "B H W 3"],
) -> FramePredictions:
    """As `fused_step`, of a picture: its face is looked at once, and shown to the fusion for 5 s (our choice).

    The fusion expects a face that lasts; what it says of the last frame counts, T = 1.
    """
    batch, frames = len(faces_BxHxWx3), STILL_FRAMES
    there_Bx1 = jnp.ones((batch, 1), bool)
    seen = see(networks[0], variables[0], faces_BxHxWx3[:, None], there_Bx1)
    lasting = lambda value_Bx1: jnp.repeat(value_Bx1, frames, axis=1)
    silence_BxN = jnp.zeros((batch, frames * networks[1].config.samples_per_frame))
    outputs: Any = networks[1].apply(
        variables[1],
        *(lasting(seen.embedding), lasting(there_Bx1 & uses[0]), silence_BxN, lasting(~there_Bx1)),
        train=False,
    )
    last = lambda name: outputs[name][:, -1:]
    return FramePredictions(seen.expression, last("valence_arousal"), last("spread"))
