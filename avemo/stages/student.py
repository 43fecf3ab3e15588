"""Stage 2: the teacher is distilled into a student that sees the same augmented faces.

Two-step self-distillation (Schoneveld et al. 2021) is this stage with the teacher's own architecture as the student's,
run once more with the first student as the teacher. The paper's distillation losses are not known to us; soft targets
(Hinton et al. 2015), embedding match and hard labels, each with a weight, are our choice.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from avemo import losses
from avemo.augment import AugmentConfig
from avemo.models.face import DEMO_STUDENT, PAPER_STUDENT, FaceConfig, FaceNetwork
from avemo.stages.supervision import Outputs, SupervisionConfig, evaluate_faces, label_losses, training_faces
from avemo.stages.teacher import init
from avemo.training import Batch, OptimizerConfig, Stage, TrainState, make_optimizer, stream_key, update


@dataclass(frozen=True)
class Distillation:
    """One distillation.

    Attributes:
        network: the student; its image size must be the teacher's.
        supervision: weights of the label losses among themselves.
        labels_weight: weight of the hard labels against what the teacher says; 0 learns from the teacher alone.
        soft_target_weight: weight of the teacher's softened expression probabilities.
        temperature: how far they are softened.
        embedding_weight: weight of matching the teacher's embedding, and its triplet embedding, in direction.
        augment: variation of the training faces.
        optimizer: Adam's settings.
        steps: number of updates.
        batch_size: AffectNet faces in a step, over all devices.
        triplet_batch_size: FEC triplets in a step, over all devices; 0 trains without FEC.
    """

    network: FaceConfig = PAPER_STUDENT
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)
    labels_weight: float = 1.0
    soft_target_weight: float = 1.0
    temperature: float = 2.0
    embedding_weight: float = 1.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 29_000
    batch_size: int = 128
    triplet_batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.triplet_batch_size < 0:
            raise ValueError("steps and batch_size must be positive, triplet_batch_size not negative")
        if min(self.labels_weight, self.soft_target_weight, self.embedding_weight) < 0 or self.temperature <= 0:
            raise ValueError("the loss weights must not be negative, and temperature must be positive")


def build(
    config: Distillation,
    class_weights_K: np.ndarray,
    seed: int,
    teacher_config: FaceConfig,
    teacher_variables: Any,
) -> Stage:
    """The stage's three functions.

    Raises:
        ValueError: the student cannot imitate this teacher: their image or embedding sizes differ.
    """
    for size in ("image_size", "embedding_size", "triplet_size"):
        mine, theirs = getattr(config.network, size), getattr(teacher_config, size)
        if mine != theirs:
            raise ValueError(f"the student's {size} is {mine}, its teacher's {theirs}: they must be equal")
    network = FaceNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    return Stage(
        init=partial(init, network=network, optimizer=optimizer),
        train_step=partial(
            train_step,
            network=network,
            optimizer=optimizer,
            teacher=FaceNetwork(teacher_config),
            class_weights_K=class_weights_K,
            config=config,
            seed=seed,
        ),
        eval_step=partial(evaluate_faces, network),
        frozen=(teacher_variables,),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    teacher_variables: Any,
    *,
    network: FaceNetwork,
    optimizer: optax.GradientTransformation,
    teacher: FaceNetwork,
    class_weights_K: np.ndarray,
    config: Distillation,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the student from labels and from the teacher's outputs on the same augmented faces."""
    key = stream_key(seed, "augment", state.step)
    images = training_faces(key, batch, config.network.image_size, config.augment)
    taught: Any = teacher.apply(teacher_variables, images, train=False)

    def loss_of(params: dict) -> tuple[jax.Array, tuple]:
        outputs, mutated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": stream_key(seed, "dropout", state.step)},
        )
        terms = label_losses(outputs, batch, class_weights_K, config.supervision)
        terms |= imitation_losses(outputs, taught, config.temperature)
        loss = (
            config.labels_weight * terms["labels"]
            + config.soft_target_weight * terms["soft_targets"]
            + config.embedding_weight * (terms["embedding_match"] + terms["triplet_match"])
        )
        return loss, (terms, mutated["batch_stats"])

    (loss, (terms, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return update(state, gradients, batch_stats, optimizer), {"loss": loss} | terms


def imitation_losses(outputs: Outputs, taught: Outputs, temperature: float) -> dict[str, jax.Array]:
    """What the student misses of its teacher, on every face, labelled or not.

    Scalars: "soft_targets", "embedding_match" and "triplet_match", the same for the triplet head's embedding.
    """
    soft_targets = losses.soft_target_loss(outputs["expression"], taught["expression"], temperature)
    return {
        "soft_targets": soft_targets.mean(),
        "embedding_match": losses.embedding_match_loss(outputs["embedding"], taught["embedding"]).mean(),
        "triplet_match": losses.embedding_match_loss(outputs["triplet"], taught["triplet"]).mean(),
    }


PAPER = Distillation()
"""`avemo train student --preset paper`: self-distillation, student = the teacher's architecture."""

SMALL = Distillation(network=DEMO_STUDENT, steps=3_000, batch_size=96, triplet_batch_size=0)
"""`avemo train student --preset small`: AffectNet's labels alone, 48×48, for a machine without accelerator."""

DEMO = Distillation(network=DEMO_STUDENT, steps=600, batch_size=64, triplet_batch_size=32)
"""`avemo train student --preset demo`: the synthetic corpora, 48×48, less than a minute on two cores."""
