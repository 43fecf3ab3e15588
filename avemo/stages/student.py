"""Stage 2: one or several teachers are distilled into a student that sees the same augmented faces.

Two-step self-distillation (Schoneveld et al. 2021) is this stage with the teacher's own architecture as the student's,
run once more with the first student as the teacher. The paper's distillation losses are not known to us: what is here,
each with its weight and its reference in `avemo.losses`, is our choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from avemo import losses
from avemo.models.face import (
    DEMO_STUDENT,
    DENSENET_STUDENT,
    MOBILE_STUDENT,
    SMALL_STUDENT,
    TINY_STUDENT,
    FaceConfig,
    FaceNetwork,
    init_variables,
)
from avemo.stages.supervision import (
    STREAMS,
    FaceTraining,
    Outputs,
    SupervisionConfig,
    evaluate_faces,
    forward,
    heads,
    label_losses,
    split_outputs,
    training_faces,
)
from avemo.stages.teacher import SMALL as SMALL_TEACHING
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
    update,
)


@dataclass(frozen=True)
class Distillation(FaceTraining):
    """One distillation. Where there are several teachers, the student learns from the mean of what they say.

    Attributes:
        labels_weight: weight of the hard labels against what the teachers say.
        soft_target_weight: weight of the teachers' softened expression probabilities (Hinton et al. 2015).
        temperature: how far they are softened.
        regression_weight: weight of their valence and arousal; `avemo train student` makes it 0 where one of them has
            learned none.
        embedding_weight: weight of matching each teacher's embedding through a learned projection.
        embedding_match: "cosine", in direction, or "hint", in squared distance (Romero et al. 2015).
        distance_weight: weight of the faces' distances among each other (Park et al. 2019): in the triplet embedding of
            FEC's faces, or without FEC in the embedding.
        angle_weight: weight of the angles between them (Park et al. 2019); memory grows with the third power of
            their number.
        unlabelled_batch_size: faces without labels in a step, over all devices; the student learns from them what the
            teachers say.
        views: in how many ways each face is varied; 0 is a new one in every epoch. With a given number, what a teacher
            says of each can be kept (`--cache-teacher`).
        both_ways: a teacher looks at each face and at its mirror image, and says the mean (our choice): that is more
            often right, and holds for both, so each view is shown to the student either way round.
    """

    labels_weight: float = 1.0
    soft_target_weight: float = 1.0
    temperature: float = 2.0
    regression_weight: float = 1.0
    embedding_weight: float = 1.0
    embedding_match: Literal["cosine", "hint"] = "cosine"
    distance_weight: float = 1.0
    angle_weight: float = 0.0
    unlabelled_batch_size: int = 0
    views: int = 0
    both_ways: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.imitation_weights().values()) < 0 or self.labels_weight < 0:
            raise ValueError(f"the loss weights must not be negative: {self}")
        if self.unlabelled_batch_size < 0 or self.unlabelled_batch_size % self.accumulate:
            raise ValueError("unlabelled_batch_size must not be negative, and accumulate must divide it")
        if self.temperature <= 0 or self.views < 0:
            raise ValueError(f"temperature {self.temperature} must be positive, views {self.views} not negative")

    def imitation_weights(self) -> dict[str, float]:
        """Weight of each of `imitation_losses`."""
        return {
            "soft_targets": self.soft_target_weight,
            "taught_valence_arousal": self.regression_weight,
            "embedding_match": self.embedding_weight,
            "distances": self.distance_weight,
            "angles": self.angle_weight,
        }


def build(
    config: Distillation,
    class_weights_K: np.ndarray,
    seed: int,
    teachers: Sequence[tuple[FaceConfig, Any]],
    trunk: Any = None,
) -> Stage:
    """The stage's three functions.

    Args:
        config: the distillation.
        class_weights_K: from `supervision.class_weights`.
        seed: that of the run.
        teachers: networks and their variables; these are not read where batches bring along what the teachers say.
        trunk: "params" and "batch_stats" that the student's trunk begins with, such as ImageNet's, see
            `avemo.models.face.check_trunk`; None draws them.

    Raises:
        ValueError: the student can't see what a teacher sees: their image sizes differ.
    """
    for teacher, _ in teachers:
        if config.network.image_size != teacher.image_size:
            raise ValueError(
                f"the student's image_size is {config.network.image_size}, its teacher's {teacher.image_size}: they "
                "must be equal (for a student that looks at less of it see resolution)"
            )
    network = FaceNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    sizes = tuple(teacher.embedding_size for teacher, _ in teachers)
    return Stage(
        init=partial(init, network=network, optimizer=optimizer, teacher_sizes=sizes, trunk=trunk),
        train_step=partial(
            train_step,
            network=network,
            optimizer=optimizer,
            teachers=tuple(FaceNetwork(teacher) for teacher, _ in teachers),
            class_weights_K=class_weights_K,
            config=config,
            seed=seed,
        ),
        eval_step=partial(evaluate_faces, network),
        frozen=(tuple(variables for _, variables in teachers),),
    )


def init(
    key: jax.Array,
    *,
    network: FaceNetwork,
    optimizer: Optimizer,
    teacher_sizes: tuple[int, ...],
    trunk: Any = None,
) -> TrainState:
    """The state before the first step, with a projection of the embedding towards each teacher's."""
    embedding_1xD = jnp.zeros((1, network.config.embedding_size))
    projections = tuple(
        nn.Dense(size).init(jax.random.fold_in(key, teacher), embedding_1xD)["params"]
        for teacher, size in enumerate(teacher_sizes)
    )
    return new_state(init_variables(network, key, trunk), optimizer, projections)


def train_step(
    state: TrainState,
    batch: Batch,
    teacher_variables: tuple[Any, ...],
    *,
    network: FaceNetwork,
    optimizer: Optimizer,
    teachers: tuple[FaceNetwork, ...],
    class_weights_K: np.ndarray,
    config: Distillation,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the student from labels and from the teachers' outputs on the same augmented faces."""
    images = training_faces(batch, config, seed, config.views, either_way=config.both_ways)
    taught = kept_outputs(batch) or [
        in_pieces(partial(teach, teacher, variables, config.both_ways), images, config.accumulate)[0]
        for teacher, variables in zip(teachers, teacher_variables, strict=True)
    ]

    def loss_of(params: Any, projections: Any) -> tuple[jax.Array, tuple]:
        outputs, batch_stats = forward(network, state, params, images, config)
        terms = label_losses(outputs, batch, class_weights_K, config.supervision)
        terms |= imitation_losses(outputs, taught, projections, batch, config)
        weights = {"labels": config.labels_weight} | config.imitation_weights()
        loss = jnp.stack([weight * terms[name] for name, weight in weights.items() if weight]).sum()
        return loss, (terms, batch_stats)

    grad = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, (terms, batch_stats)), (gradients, aids) = grad(state.params, state.aids)
    return update(state, gradients, batch_stats, optimizer, aids), step_metrics(loss, gradients) | terms


def teach(
    teacher: FaceNetwork, variables: Any, both_ways: bool, images: jax.Array, _: Any = None
) -> tuple[Outputs, dict]:
    """What a teacher says of faces, or with `both_ways` of them and their mirror images; nothing else comes of it."""
    says: Any = lambda images: heads(teacher.apply(variables, images, train=False))  # type: ignore[arg-type]
    if not both_ways:
        return says(images), {}
    return jax.tree.map(lambda one, other: (one + other) / 2, says(images), says(images[:, :, ::-1])), {}


def kept_outputs(batch: Batch) -> list[Outputs]:
    """What each teacher said of the faces of `training_faces` where the batch brings it along; else nothing."""
    if "taught" not in batch["affectnet"]:
        return []
    streams = [batch[stream]["taught"] for stream in STREAMS if stream in batch]
    rows = lambda name, parts: jnp.concatenate([part[name].reshape(-1, part[name].shape[-1]) for part in parts])
    return [{name: rows(name, parts) for name in parts[0]} for parts in zip(*streams, strict=True)]


def imitation_losses(
    outputs: Outputs, taught: Sequence[Outputs], projections: Sequence[Any], batch: Batch, config: Distillation
) -> dict[str, jax.Array]:
    """What the student misses of its teachers, on every face, labelled or not; scalars by name.

    Args:
        outputs: the student's.
        taught: each teacher's, on the same faces.
        projections: of the student's embedding towards each teacher's, as `nn.Dense` has them.
        batch: says which faces are FEC's.
        config: the distillation.
    """
    mean = lambda name: jnp.stack([teacher[name] for teacher in taught]).mean(0)
    probabilities = [jax.nn.softmax(teacher["expression"] / config.temperature) for teacher in taught]
    logits = config.temperature * jnp.log(jnp.stack(probabilities).mean(0) + 1e-12)
    match = {"cosine": losses.embedding_match_loss, "hint": losses.hint_loss}[config.embedding_match]
    projected = [outputs["embedding"] @ each["kernel"] + each["bias"] for each in projections]
    matches = [match(mine, teacher["embedding"]) for mine, teacher in zip(projected, taught, strict=True)]
    terms = {
        "soft_targets": losses.soft_target_loss(outputs["expression"], logits, config.temperature),
        "taught_valence_arousal": losses.valence_arousal_loss(outputs["valence_arousal"], mean("valence_arousal")),
        "embedding_match": jnp.stack(matches),
    }
    related = {"distances": losses.distance_relation_loss, "angles": losses.angle_relation_loss}
    for name, loss in related.items():
        if config.imitation_weights()[name]:
            mine = comparable(outputs, batch)
            terms[name] = jnp.stack([loss(mine, comparable(teacher, batch)) for teacher in taught])
    return {name: values.mean() for name, values in terms.items()}


def comparable(outputs: Outputs, batch: Batch) -> jax.Array:
    """Vectors whose distances say how alike expressions are: FEC's triplet embeddings, without FEC all embeddings."""
    if "fec" not in batch:
        return outputs["embedding"]
    _, fec = split_outputs(outputs, batch)
    return fec["triplet"].reshape(-1, fec["triplet"].shape[-1])


PAPER = Distillation()
"""`avemo train student --preset paper`: the paper's self-distillation, the student a network like its teacher."""

MOBILE = Distillation(network=MOBILE_STUDENT)
"""`avemo train student --preset mobile`: a student of the paper's teacher with 1/10 of its operations."""

DENSENET = Distillation(network=DENSENET_STUDENT)
"""`avemo train student --preset densenet`: a student of the paper's teacher with half of its parameters."""

SMALL = Distillation(
    network=SMALL_STUDENT,
    supervision=SMALL_TEACHING.supervision,
    augment=SMALL_TEACHING.augment,
    optimizer=SMALL_TEACHING.optimizer,
    steps=13_200,
    batch_size=SMALL_TEACHING.batch_size,
    triplet_batch_size=0,
    embedding_weight=4.0,
    both_ways=True,
)
"""`avemo train student --preset small`: labels alone, 48×48; its teacher kept, about 25 minutes on two CPU cores.

It goes on learning from its teacher for long (Beyer et al. 2022): twice as many steps as the teacher's own training,
whose step takes four times as long.
"""

TINY = replace(SMALL, network=TINY_STUDENT, steps=9_900)
"""`avemo train student --preset tiny`: a smaller student of the same teacher, about 8 minutes on two CPU cores."""

DEMO = Distillation(
    network=DEMO_STUDENT,
    supervision=SupervisionConfig(alpha=1.0),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    steps=700,
    batch_size=64,
    triplet_batch_size=24,
)
"""`avemo train student --preset demo`: the synthetic corpora, 40×40, about a minute on two CPU cores."""

PRESETS = {"demo": DEMO, "tiny": TINY, "small": SMALL, "mobile": MOBILE, "densenet": DENSENET, "paper": PAPER}
"""What `avemo train student --preset` starts from."""
