"""Stage 3: audio encoder, model-level fusion and recurrent core learn valence and arousal over time from RECOLA.

The paper does not say how; delay, windows, modality dropout, the predicted spread and all sizes are our choice. The
face network is frozen, its embeddings come with each recording, or it learns too, and the faces themselves come.

A batch holds windows of T frames: "face" (B, T, D) float32, or "frames" (B, T, H, W, 3) uint8 where the face network
learns; "face_valid" (B, T) bool, "waveform" (B, 640·T) float32 at 16 kHz, "voice_valid" (B, T) bool. Of L = T + reach
frames, because raters are late: "labels" (B, L, 2) float32, "labels_valid" (B, L) bool, and "rating_mean" and
"rating_square" (B, L, 2), the mean of the raters' values and of their squares. Where the network's state is carried
from batch to batch, "begins" (B,) bool says in which rows another recording begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avemo import losses, metrics
from avemo.annotation_delay import at_delay, valid_at_delay
from avemo.augment import centre_crop
from avemo.labels import DIMENSIONS, FRAME_RATE_HZ
from avemo.models.face import FaceNetwork
from avemo.models.fusion import (
    DEMO_FUSION,
    PAPER_FUSION,
    FusionConfig,
    FusionNetwork,
    init_variables,
    initial_carry,
)
from avemo.training import (
    Batch,
    Optimizer,
    OptimizerConfig,
    Stage,
    TrainState,
    in_pieces,
    make_optimizer,
    new_state,
    step_metrics,
    stream_key,
    update,
)

Modalities = Literal["fused", "face", "voice"]

MODALITIES: dict[str, tuple[bool, bool]] = {"fused": (True, True), "face": (True, False), "voice": (False, True)}
"""Which of (face, voice) the network may use."""

Delay = Literal["fixed", "searched", "learned"]
"""How the annotation delay is found: as given; by `avemo.annotation_delay.search`; or as a parameter of the training,
from what is given on.

Learning should begin with a delay that is rather too long: where it is too short, a network with a memory learns to
wait instead, and the delay stays.
"""

DELAY = "annotation_delay_s"
"""Name, among the parameters, of the delay of each dimension in seconds."""

FACE_NETWORK = "face_network"
"""Name, among the parameters, of those of the face network, where it learns."""

FRAMES_PER_CALL = 50
"""Frames, of each row of a batch, that a face network that learns takes at a time; no influence on the result."""


@dataclass(frozen=True)
class FusionTraining:
    """One training of the fusion network.

    Attributes:
        network: audio encoder, fusion and recurrent core.
        optimizer: Adam's settings.
        steps: number of updates.
        batch_size: windows in a step, over all devices.
        window_s: length of a training window, seconds; gradients reach back no further.
        stride_s: from the start of a window to that of the next in the same recording, seconds.
        stateful: whether the network goes on, at the beginning of a window, from its state at the end of the window
            before (truncated back-propagation through time), instead of from rest.
        delay: how the annotation delay is found, see `Delay`.
        annotation_delay_s: how far the raters lag the signal in valence and in arousal, seconds.
        longest_delay_s: the longest delay that is searched or learned, seconds.
        modalities: what the network may use; one of them alone makes a network for that one.
        modality_dropout: probability that a training window loses its face, and the same for its voice, so that the
            network can do with either; never both at once.
        spread_weight: weight of the predicted spread's likelihood; its gradient ends before the recurrent core.
        face_learns: whether the face network learns too, instead of being frozen.
        accumulate: pieces in which the network takes the windows of a step, one after the other, where memory is
            short; the CCC is still that of all windows together (see `avemo.training.in_pieces`).
    """

    network: FusionConfig = PAPER_FUSION
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 5_000
    batch_size: int = 32
    window_s: float = 12.0
    stride_s: float = 12.0
    stateful: bool = False
    delay: Delay = "fixed"
    annotation_delay_s: tuple[float, float] = (3.0, 3.0)
    longest_delay_s: float = 9.6
    modalities: Modalities = "fused"
    modality_dropout: float = 0.2
    spread_weight: float = 0.1
    face_learns: bool = False
    accumulate: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.window_s * FRAME_RATE_HZ < 2:
            raise ValueError("steps and batch_size must be positive, window_s at least two frames (0.08)")
        if not self.stride_frames >= 1:
            raise ValueError(f"stride_s is {self.stride_s}; it must be at least a frame (0.04)")
        if self.stateful and self.stride_frames != self.window_frames:
            raise ValueError("a state can be carried only from window to next window: make stride_s equal to window_s")
        if not 0 <= min(self.annotation_delay_s) <= max(self.annotation_delay_s) <= self.longest_delay_s:
            raise ValueError(f"annotation_delay_s {self.annotation_delay_s} must lie in [0, longest_delay_s]")
        if not 0.0 <= self.modality_dropout <= 0.5 or self.spread_weight < 0:
            raise ValueError("modality_dropout must lie in [0, 0.5], spread_weight must not be negative")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError("accumulate must divide batch_size")

    @property
    def window_frames(self) -> int:
        """Window length in 40 ms frames."""
        return round(self.window_s * FRAME_RATE_HZ)

    @property
    def stride_frames(self) -> int:
        """Distance of windows in 40 ms frames."""
        return round(self.stride_s * FRAME_RATE_HZ)

    @property
    def reach_frames(self) -> int:
        """How many frames beyond a window its labels may come from."""
        return round(self.longest_delay_s * FRAME_RATE_HZ) + 1


def build(
    config: FusionTraining,
    seed: int,
    delay_s: tuple[float, float] | None = None,
    face: tuple[FaceNetwork, Any] | None = None,
) -> Stage:
    """The stage's three functions.

    Args:
        config: The training.
        seed: Of all random numbers.
        delay_s: The annotation delay in valence and arousal; None for that of `config`.
        face: The face network and its variables to begin with, where it learns.
    """
    network = FusionNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    delay_s = delay_s or config.annotation_delay_s
    face_network = face[0] if face else None
    return Stage(
        init=partial(init, network=network, optimizer=optimizer, config=config, delay_s=delay_s, face=face),
        train_step=partial(
            train_step, network=network, face_network=face_network, optimizer=optimizer, config=config, seed=seed
        ),
        eval_step=partial(eval_step, network, face_network, config.longest_delay_s, config.modalities),
    )


def init(
    key: jax.Array,
    *,
    network: FusionNetwork,
    optimizer: Optimizer,
    config: FusionTraining,
    delay_s: tuple[float, float],
    face: tuple[FaceNetwork, Any] | None,
) -> TrainState:
    """The state before the first step."""
    variables = init_variables(network, key)
    params = variables["params"] | {DELAY: jnp.array(delay_s, jnp.float32)}
    batch_stats = variables["batch_stats"]
    if face:
        params[FACE_NETWORK] = face[1]["params"]
        batch_stats = face[1]["batch_stats"]
    state = new_state({"params": params, "batch_stats": batch_stats}, optimizer)
    carry = initial_carry(config.network, config.batch_size) if config.stateful else ()
    return state.replace(carry=carry)  # type: ignore[attr-defined]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: FusionNetwork,
    face_network: FaceNetwork | None,
    optimizer: Optimizer,
    config: FusionTraining,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from a batch of windows.

    The loss is 1 − CCC, averaged over valence and arousal, and for the predicted spread the raters' Gaussian negative
    log-likelihood around the prediction.
    """
    key = stream_key(seed, "modality_dropout", state.step)
    face_valid, voice_valid = kept_modalities(key, batch, config)
    carry = ()
    if config.stateful:
        begins = lambda leaf: batch["begins"].reshape(-1, *[1] * (leaf.ndim - 1))
        carry = jax.tree.map(lambda leaf: jnp.where(begins(leaf), 0.0, leaf), state.carry)
    seen = batch["face"] if face_network is None else batch["frames"]
    inputs = (seen, face_valid, batch["waveform"], voice_valid, carry)

    def loss_of(params: dict) -> tuple[jax.Array, Any]:
        def apply(piece: tuple[Any, ...], number: Any) -> tuple[dict, dict]:
            seen, face_valid, waveform, voice_valid, carry = piece
            dropout_key = stream_key(seed, "dropout", config.accumulate * state.step + number)
            if face_network is not None:
                seen = embedded(face_network, params[FACE_NETWORK], state.batch_stats, seen)
            outputs: Any = network.apply(
                {"params": params},
                *(seen, face_valid, waveform, voice_valid),
                train=True,
                carry=carry or None,
                rngs={"dropout": dropout_key},
            )
            return {name: outputs[name] for name in ("valence_arousal", "spread", "carry")}, {}

        outputs, _ = in_pieces(apply, inputs, config.accumulate)
        delay_D = delay_frames(params, config.longest_delay_s, learned=config.delay == "learned")
        noted = noted_at(delay_D, batch, face_valid.shape[1])
        valence, arousal = (
            losses.ccc_loss(outputs["valence_arousal"][..., i], noted["labels"][..., i], noted["valid"][..., i])
            for i in range(len(DIMENSIONS))
        )
        likelihood = losses.rating_likelihood_loss(
            *(jax.lax.stop_gradient(outputs["valence_arousal"]), outputs["spread"]),
            *(jax.lax.stop_gradient(noted[name]) for name in ("rating_mean", "rating_square")),
        )
        spread = losses.masked_mean(likelihood, noted["valid"])
        total = (valence + arousal) / 2 + config.spread_weight * spread
        return total, ({"valence": valence, "arousal": arousal, "spread": spread}, outputs["carry"])

    (loss, (terms, carry)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    after = update(state, gradients, state.batch_stats, optimizer)
    after = after.replace(carry=carry if config.stateful else ())  # type: ignore[attr-defined]
    return after, step_metrics(loss, gradients) | terms


def kept_modalities(key: jax.Array, batch: Batch, config: FusionTraining) -> tuple[jax.Array, jax.Array]:
    """Which frames' face and voice a training step may use, bool (B, T) each."""
    face, voice = MODALITIES[config.modalities]
    face_valid, voice_valid = batch["face_valid"] & face, batch["voice_valid"] & voice
    if config.modalities != "fused":
        return face_valid, voice_valid
    kept_Bx2 = keep_modalities(key, len(face_valid), config.modality_dropout)
    return face_valid & kept_Bx2[:, :1], voice_valid & kept_Bx2[:, 1:]


def keep_modalities(key: jax.Array, batch: int, dropout: float) -> jax.Array:
    """Per window, whether its face and its voice are kept: bool (B, 2), each lost with probability `dropout`."""
    draw_Bx1 = jax.random.uniform(key, (batch, 1))
    return jnp.concatenate([draw_Bx1 >= dropout, draw_Bx1 < 1.0 - dropout], axis=1)


def embedded(face_network: FaceNetwork, params: Any, batch_stats: Any, frames_BxTxHxWx3: jax.Array) -> jax.Array:
    """Face embeddings (B, T, D) of frames; the statistics of BatchNorm stay what they are (our choice).

    A few frames at a time, however many there are, so that memory holds only their maps.
    """
    cropped_BxTxHxWx3 = centre_crop(frames_BxTxHxWx3, face_network.config.image_size)

    @jax.checkpoint
    def embed(frame_BxHxWx3: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs: Any = face_network.apply(variables, frame_BxHxWx3, train=False)
        return outputs["embedding"]

    embeddings_TxBxD = jax.lax.map(embed, cropped_BxTxHxWx3.swapaxes(0, 1), batch_size=FRAMES_PER_CALL)
    return embeddings_TxBxD.swapaxes(0, 1)


def delay_frames(params: Mapping[str, Any], longest_s: float, learned: bool = False) -> Float[Array, " D"]:
    """The annotation delay of each dimension in frames; a gradient reaches the parameter only where it is learned."""
    delay_s = jnp.clip(params[DELAY], 0.0, longest_s)
    return FRAME_RATE_HZ * (delay_s if learned else jax.lax.stop_gradient(delay_s))


def noted_at(delay_D: Float[Array, " D"], batch: Batch, frames: int) -> dict[str, jax.Array]:
    """What raters noted a delay after each of the first T frames: what the batch has of labels, (B, T, D) each.

    And "valid", bool (B, T, D): whether there is such a label.
    """
    names = [name for name in ("labels", "rating_mean", "rating_square") if name in batch]
    noted = {name: at_delay(batch[name], delay_D, frames) for name in names}
    return noted | {"valid": valid_at_delay(batch["labels_valid"], delay_D, frames)}


def predict(
    network: FusionNetwork,
    face_network: FaceNetwork | None,
    variables: Any,
    batch: Batch,
    learned_from: Modalities = "fused",
) -> dict[str, dict[str, jax.Array]]:
    """Of whole recordings "valence_arousal" and "spread", (B, T, 2) each, for each entry of `MODALITIES`.

    A network that learned from one modality is given that alone, and has its entry alone.
    """
    if face_network is None:
        embeddings = batch["face"]
    else:
        face_params = variables["params"][FACE_NETWORK]
        embeddings = embedded(face_network, face_params, variables["batch_stats"], batch["frames"])
    predictions = {}
    for name in MODALITIES if learned_from == "fused" else [learned_from]:
        face, voice = MODALITIES[name]
        valid = batch["face_valid"] & face, batch["voice_valid"] & voice
        outputs: Any = network.apply(
            {"params": variables["params"]}, embeddings, valid[0], batch["waveform"], valid[1], train=False
        )
        predictions[name] = {part: outputs[part] for part in ("valence_arousal", "spread")}
    return predictions


def eval_step(
    network: FusionNetwork,
    face_network: FaceNetwork | None,
    longest_delay_s: float,
    learned_from: Modalities,
    variables: Any,
    batch: Batch,
) -> dict[str, metrics.Regression]:
    """Mergeable metrics of whole, padded recordings, for each entry that `predict` has."""
    predictions = predict(network, face_network, variables, batch, learned_from)
    delay_D = delay_frames(variables["params"], longest_delay_s)
    noted = noted_at(delay_D, batch, batch["face_valid"].shape[1])
    return {name: score(found["valence_arousal"], noted) for name, found in predictions.items()}


def score(prediction_BxTxD: Float[Array, "B T D"], noted: Mapping[str, Any]) -> metrics.Regression:
    """Mergeable metrics of predictions against the labels that exist (see `noted_at`)."""
    rows = lambda value: value.reshape(-1, value.shape[-1])
    return metrics.Regression.of(rows(prediction_BxTxD), rows(noted["labels"]), rows(noted["valid"]))


PAPER = FusionTraining()
"""`avemo train fusion --preset paper`: RECOLA; minutes on one GPU. All sizes are our choice."""

DEMO = FusionTraining(
    network=DEMO_FUSION,
    optimizer=OptimizerConfig(learning_rate=3e-3),
    steps=250,
    batch_size=16,
    window_s=6.0,
    stride_s=6.0,
    annotation_delay_s=(2.0, 2.0),
)
"""`avemo train fusion --preset demo`: the synthetic RECOLA, less than a minute on two CPU cores."""

PRESETS = {"demo": DEMO, "paper": PAPER}
"""What `avemo train fusion --preset` starts from."""
