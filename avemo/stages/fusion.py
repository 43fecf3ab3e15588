"""Stage 3: audio encoder, model-level fusion and recurrent core learn valence and arousal over time from RECOLA.

The student's face embeddings are frozen (our choice: the paper does not say) and come ready-made with each recording.
The sizes, window, delay and modality dropout are our choice as well.

A batch holds windows of T frames: "face" (B, T, D) float32, "face_valid" (B, T) bool, "waveform" (B, 640·T) float32 at
16 kHz, "voice_valid" (B, T) bool, "labels" (B, T, 2) float32 and "labels_valid" (B, T) bool, the labels already moved
back by the annotation delay (`compensate_delay`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avemo import losses, metrics
from avemo.labels import FRAME_RATE_HZ
from avemo.models.fusion import DEMO_FUSION, PAPER_FUSION, FusionConfig, FusionNetwork, init_variables
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

MODALITIES = {"fused": (True, True), "face": (True, False), "voice": (False, True)}
"""Which of (face, voice) the network may use in each evaluation."""


@dataclass(frozen=True)
class FusionTraining:
    """One training of the fusion network.

    Attributes:
        network: audio encoder, fusion and recurrent core.
        optimizer: Adam's settings.
        steps: number of updates.
        batch_size: windows in a step, over all devices.
        window_s: length of a training window, seconds.
        annotation_delay_s: how far the raters lag the signal, seconds.
        modality_dropout: probability that a training window loses its face, and the same for its voice, so that the
            network can do with either; never both at once.
        accumulate: pieces in which the network takes the windows of a step, one after the other, where memory is
            short; the CCC is still that of all windows together (see `avemo.training.in_pieces`).
    """

    network: FusionConfig = PAPER_FUSION
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 5_000
    batch_size: int = 32
    window_s: float = 12.0
    annotation_delay_s: float = 3.0
    modality_dropout: float = 0.2
    accumulate: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.window_s * FRAME_RATE_HZ < 2:
            raise ValueError("steps and batch_size must be positive, window_s at least two frames (0.08)")
        if self.annotation_delay_s < 0 or not 0.0 <= self.modality_dropout <= 0.5:
            raise ValueError("annotation_delay_s must not be negative, modality_dropout must lie in [0, 0.5]")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError("accumulate must divide batch_size")

    @property
    def window_frames(self) -> int:
        """Window length in 40 ms frames."""
        return round(self.window_s * FRAME_RATE_HZ)

    @property
    def delay_frames(self) -> int:
        """Annotation delay in 40 ms frames."""
        return round(self.annotation_delay_s * FRAME_RATE_HZ)


def compensate_delay(labels_TxD: np.ndarray, delay_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Move labels back in time: the label given at t + delay belongs to what was seen and heard at t.

    The first `delay_frames` labels fall away; the last `delay_frames` inputs are left without a label.

    Returns:
        labels (T, D), zeros where there is none, and their mask (T,).
    """
    frames = labels_TxD.shape[0]
    kept = max(frames - delay_frames, 0)
    moved = np.zeros_like(labels_TxD)
    moved[:kept] = labels_TxD[frames - kept :]
    return moved, np.arange(frames) < kept


def build(config: FusionTraining, seed: int) -> Stage:
    """The stage's three functions."""
    network = FusionNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    return Stage(
        init=partial(init, network=network, optimizer=optimizer),
        train_step=partial(train_step, network=network, optimizer=optimizer, config=config, seed=seed),
        eval_step=partial(eval_step, network),
    )


def init(key: jax.Array, *, network: FusionNetwork, optimizer: Optimizer) -> TrainState:
    """The state before the first step."""
    return new_state(init_variables(network, key), optimizer)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: FusionNetwork,
    optimizer: Optimizer,
    config: FusionTraining,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from a batch of windows; the loss is 1 − CCC, averaged over valence and arousal."""
    key = stream_key(seed, "modality_dropout", state.step)
    kept_Bx2 = keep_modalities(key, batch["face"].shape[0], config.modality_dropout)
    inputs = (
        batch["face"],
        batch["face_valid"] & kept_Bx2[:, :1],
        batch["waveform"],
        batch["voice_valid"] & kept_Bx2[:, 1:],
    )

    def loss_of(params: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
        def apply(piece: tuple[jax.Array, ...], number: Any) -> tuple[jax.Array, dict]:
            dropout_key = stream_key(seed, "dropout", config.accumulate * state.step + number)
            outputs: Any = network.apply({"params": params}, *piece, train=True, rngs={"dropout": dropout_key})
            return outputs["valence_arousal"], {}

        predictions_BxTx2, _ = in_pieces(apply, inputs, config.accumulate)
        valence, arousal = (
            losses.ccc_loss(predictions_BxTx2[..., i], batch["labels"][..., i], batch["labels_valid"]) for i in range(2)
        )
        return (valence + arousal) / 2, {"valence": valence, "arousal": arousal}

    (loss, terms), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return update(state, gradients, state.batch_stats, optimizer), step_metrics(loss, gradients) | terms


def keep_modalities(key: jax.Array, batch: int, dropout: float) -> jax.Array:
    """Per window, whether its face and its voice are kept: bool (B, 2), each lost with probability `dropout`."""
    draw_Bx1 = jax.random.uniform(key, (batch, 1))
    return jnp.concatenate([draw_Bx1 >= dropout, draw_Bx1 < 1.0 - dropout], axis=1)


def predict(network: FusionNetwork, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    """Valence and arousal (B, T, 2) of whole recordings, for each entry of `MODALITIES`."""
    predictions = {}
    for name, (face, voice) in MODALITIES.items():
        valid = batch["face_valid"] & face, batch["voice_valid"] & voice
        outputs: Any = network.apply(variables, batch["face"], valid[0], batch["waveform"], valid[1], train=False)
        predictions[name] = outputs["valence_arousal"]
    return predictions


def eval_step(network: FusionNetwork, variables: Any, batch: Batch) -> dict[str, metrics.Regression]:
    """Mergeable metrics of whole, padded recordings, for each entry of `MODALITIES`."""
    return score(predict(network, variables, batch), batch)


def score(predictions: Mapping[str, jax.Array], batch: Batch) -> dict[str, metrics.Regression]:
    """Mergeable metrics of predictions against the labels that exist."""
    rows = lambda value: value.reshape(-1, *value.shape[2:])
    return {
        name: metrics.Regression.of(rows(value), rows(batch["labels"]), rows(batch["labels_valid"]))
        for name, value in predictions.items()
    }


PAPER = FusionTraining()
"""`avemo train fusion --preset paper`: RECOLA; minutes on one GPU. All sizes are our choice."""

DEMO = FusionTraining(
    network=DEMO_FUSION,
    optimizer=OptimizerConfig(learning_rate=3e-3),
    steps=250,
    batch_size=16,
    window_s=6.0,
    annotation_delay_s=2.0,
)
"""`avemo train fusion --preset demo`: the synthetic RECOLA, less than a minute on two CPU cores."""

PRESETS = {"demo": DEMO, "paper": PAPER}
"""What `avemo train fusion --preset` starts from."""
