"""Stage 1: the face teacher learns from AffectNet's labels and FEC's triplets.

L = L_FEC + α · L_AffectNet with α = 0.1, one batch of each in every step, Adam, about 13 epochs (Schoneveld et al.
2021), plus a valence/arousal head (our addition).
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
import optax

from avemo.augment import AugmentConfig
from avemo.models.face import DEMO_TEACHER, PAPER_TEACHER, FaceConfig, FaceNetwork, init_variables
from avemo.stages.supervision import SupervisionConfig, evaluate_faces, label_losses, training_faces
from avemo.training import (
    Batch,
    OptimizerConfig,
    Stage,
    TrainState,
    make_optimizer,
    new_state,
    stream_key,
    update,
)


@dataclass(frozen=True)
class TeacherTraining:
    """One training of the teacher.

    Attributes:
        network: the face network.
        supervision: weights of the label losses.
        augment: variation of the training faces.
        optimizer: Adam's settings.
        steps: number of updates.
        batch_size: AffectNet faces in a step, over all devices.
        triplet_batch_size: FEC triplets in a step, over all devices; 0 trains without FEC.
    """

    network: FaceConfig = PAPER_TEACHER
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 29_000
    batch_size: int = 128
    triplet_batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.triplet_batch_size < 0:
            raise ValueError("steps and batch_size must be positive, triplet_batch_size not negative")


def build(config: TeacherTraining, class_weights_K: np.ndarray, seed: int) -> Stage:
    """The stage's three functions. `class_weights_K` comes from `supervision.class_weights`."""
    network = FaceNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    return Stage(
        init=partial(init, network=network, optimizer=optimizer),
        train_step=partial(
            train_step,
            network=network,
            optimizer=optimizer,
            class_weights_K=class_weights_K,
            config=config,
            seed=seed,
        ),
        eval_step=partial(evaluate_faces, network),
    )


def init(key: jax.Array, *, network: FaceNetwork, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, for the teacher and for students alike."""
    return new_state(init_variables(network, key), optimizer)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: FaceNetwork,
    optimizer: optax.GradientTransformation,
    class_weights_K: np.ndarray,
    config: TeacherTraining,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from one batch of AffectNet faces and one of FEC triplets."""
    key = stream_key(seed, "augment", state.step)
    images = training_faces(key, batch, config.network.image_size, config.augment)

    def loss_of(params: dict) -> tuple[jax.Array, tuple]:
        outputs, mutated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": stream_key(seed, "dropout", state.step)},
        )
        terms = label_losses(outputs, batch, class_weights_K, config.supervision)
        return terms["labels"], (terms, mutated["batch_stats"])

    (loss, (terms, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return update(state, gradients, batch_stats, optimizer), {"loss": loss} | terms


PAPER = TeacherTraining()
"""`avemo train teacher --preset paper`: AffectNet and FEC, 140×140, 13 epochs of 287,651 faces; one data-centre GPU.

The network and alpha are the paper's; batch sizes, rate and augmentation are our choice. Not trained by us yet.
"""

SMALL = TeacherTraining(network=DEMO_TEACHER, steps=3_000, batch_size=96, triplet_batch_size=0)
"""`avemo train teacher --preset small`: AffectNet's labels alone, 48×48, for a machine without accelerator."""

DEMO = TeacherTraining(network=DEMO_TEACHER, steps=600, batch_size=64, triplet_batch_size=32)
"""`avemo train teacher --preset demo`: the synthetic corpora, 48×48, about a minute on two cores."""
