"""Stage 2: the teacher is distilled into a student that sees the same augmented faces.

Two-step self-distillation (Schoneveld et al. 2021) is this stage with the teacher's own architecture as the student's,
run once more with the first student as the teacher. The paper's distillation losses are not known to us; soft targets
(Hinton et al. 2015), embedding match and hard labels, each with a weight, are our choice.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from avemo import losses
from avemo.models.face import DEMO_STUDENT, SMALL_STUDENT, FaceConfig, FaceNetwork
from avemo.stages.supervision import (
    FaceTraining,
    Outputs,
    SupervisionConfig,
    evaluate_faces,
    forward,
    heads,
    init,
    label_losses,
    training_faces,
)
from avemo.training import (
    Batch,
    OptimizerConfig,
    Stage,
    TrainState,
    in_pieces,
    make_optimizer,
    step_metrics,
    stream_key,
    update,
)


@dataclass(frozen=True)
class Distillation(FaceTraining):
    """One distillation; the student's image and embedding sizes must be its teacher's.

    Attributes:
        labels_weight: weight of the hard labels against what the teacher says; 0 learns from the teacher alone,
            which leaves the valence/arousal head untaught.
        soft_target_weight: weight of the teacher's softened expression probabilities.
        temperature: how far they are softened.
        embedding_weight: weight of matching the teacher's embedding, and its triplet embedding, in direction.
    """

    labels_weight: float = 1.0
    soft_target_weight: float = 1.0
    temperature: float = 2.0
    embedding_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def teach(images: jax.Array, _: Any) -> tuple[Outputs, dict]:
        outputs: Any = teacher.apply(teacher_variables, images, train=False)
        return heads(outputs), {}

    taught, _ = in_pieces(teach, images, config.accumulate)

    def loss_of(params: Any) -> tuple[jax.Array, tuple]:
        outputs, batch_stats = forward(network, state, params, images, config)
        terms = label_losses(outputs, batch, class_weights_K, config.supervision)
        terms |= imitation_losses(outputs, taught, config.temperature)
        loss = (
            config.labels_weight * terms["labels"]
            + config.soft_target_weight * terms["soft_targets"]
            + config.embedding_weight * (terms["embedding_match"] + terms["triplet_match"])
        )
        return loss, (terms, batch_stats)

    (loss, (terms, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return update(state, gradients, batch_stats, optimizer), step_metrics(loss, gradients) | terms


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
"""`avemo train student --preset paper`: the paper's self-distillation, the student a network like its teacher."""

SMALL = Distillation(
    network=SMALL_STUDENT,
    optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.02),
    steps=3_000,
    batch_size=96,
    triplet_batch_size=0,
)
"""`avemo train student --preset small`: AffectNet's labels alone, 48×48, about 4 minutes on two CPU cores."""

DEMO = Distillation(
    network=DEMO_STUDENT,
    supervision=SupervisionConfig(alpha=1.0),
    optimizer=OptimizerConfig(learning_rate=5e-3),
    steps=700,
    batch_size=64,
    triplet_batch_size=24,
)
"""`avemo train student --preset demo`: the synthetic corpora, 40×40, about a minute on two CPU cores."""
