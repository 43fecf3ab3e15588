"""Learning a face network from labels: what the teacher does, and what a student does beside imitating it.

A batch is `{"affectnet": …, "fec": …, "unlabelled": …}`; a run without FEC has no "fec", and only a student learns from
faces without labels. All travel through the network in one forward pass, in this order. People's own labelled faces may
stand in AffectNet's place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from avemo import losses, metrics
from avemo.augment import AugmentConfig, augment, centre_crop
from avemo.labels import EXPRESSIONS
from avemo.models.face import PAPER_TEACHER, FaceConfig, FaceNetwork, grey, init_variables
from avemo.training import Batch, Optimizer, OptimizerConfig, TrainState, in_pieces, new_state, stream_key

Outputs = Mapping[str, jax.Array]
"""What a face network returns, by name."""

STREAMS = ("affectnet", "fec", "unlabelled")
"""The parts of a batch, in the order in which their faces travel through the network."""

VIEWS_SEED = 0
"""Seeds the augmentation where there is a number of views, the same ones in every run."""

KEPT_BY_REMAT = ("conv_general_dilated", "dot_general", "reduce_sum")
"""JAX's names of convolutions, matrix products, and sums such as BatchNorm's over the batch."""


@dataclass(frozen=True)
class SupervisionConfig:
    """Weights of the label losses: L = L_FEC + alpha · (L_AffectNet + valence_arousal_weight · L_VA).

    Attributes:
        alpha: weight of AffectNet against FEC; 0.1 in the paper.
        valence_arousal_weight: weight of the valence/arousal regression (our addition).
        class_weighting: AffectNet's classes are far from balanced. "none" leaves them so; "inverse_frequency" weights
            every class alike; "inverse_square_root" goes half the way (our choice; the paper does not say).
        label_smoothing: share of every label that is spread evenly over the classes; 0 switches it off.
        soft_labels: learn from the shares of raters who chose each expression, where the dataset has them, and from
            the one label of a face only where it has none.
    """

    alpha: float = 0.1
    valence_arousal_weight: float = 1.0
    class_weighting: Literal["none", "inverse_frequency", "inverse_square_root"] = "none"
    label_smoothing: float = 0.0
    soft_labels: bool = False

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.valence_arousal_weight < 0:
            raise ValueError("supervision: alpha must be positive and valence_arousal_weight not negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"supervision: label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")


@dataclass(frozen=True)
class FaceTraining:
    """A training from labels: the teacher's, and what a student's has in common with it.

    Attributes:
        network: the face network that learns.
        supervision: weights of the label losses among themselves.
        augment: variation of the training faces.
        optimizer: Adam's settings.
        steps: number of updates.
        batch_size: AffectNet faces in a step, over all devices.
        triplet_batch_size: FEC triplets in a step, over all devices; 0 trains without FEC.
        accumulate: pieces in which the network takes the faces of a step, one after the other, where memory is short;
            BatchNorm's statistics are then those of a piece (see `avemo.training.in_pieces`).
        remat: keep only what convolutions, matrix products and sums give for the backward pass, and compute
            normalisations and ReLUs once more, which is cheap: in a network of the paper's kind less than half of the
            memory between the passes. CPUs gain nothing. It is a setting of the training because the network, and what
            it says, stay the same.
    """

    network: FaceConfig = PAPER_TEACHER
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 29_000
    batch_size: int = 128
    triplet_batch_size: int = 64
    accumulate: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.triplet_batch_size < 0:
            raise ValueError("steps and batch_size must be positive, triplet_batch_size not negative")
        if self.accumulate < 1 or self.batch_size % self.accumulate or self.triplet_batch_size % self.accumulate:
            raise ValueError("accumulate must divide batch_size and triplet_batch_size")


def init(key: jax.Array, *, network: FaceNetwork, optimizer: Optimizer, trunk: Any = None) -> TrainState:
    """The state before the first step, of which the trunk's "params" and "batch_stats" may be given."""
    return new_state(init_variables(network, key, trunk), optimizer)


def class_weights(class_counts: tuple[int, ...], weighting: str) -> np.ndarray:
    """Loss weight of each class, float32 (K,), with mean 1 over the examples counted; 0 for an empty class."""
    exponent = {"none": 0.0, "inverse_square_root": 0.5, "inverse_frequency": 1.0}[weighting]
    counts = np.asarray(class_counts, np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -exponent, 0.0)
    return (weights * counts.sum() / max((weights * counts).sum(), 1.0)).astype(np.float32)


def training_faces(
    batch: Batch, config: FaceTraining, seed: int, views: int = 0, either_way: bool = False
) -> jax.Array:
    """All faces of a training batch, augmented: AffectNet's B, FEC's 3·B' in triplet order, those without labels.

    How a face is varied follows from its place in the dataset and from the epoch, not from the step or the batch.

    Args:
        batch: as the loaders give it, with "index" (FEC: "faces") and "epoch".
        config: size and augmentation.
        seed: that of the run.
        views: if positive, a face is varied in so many ways only, one epoch after the other, the same with every seed.
        either_way: show each of these views as it is or mirrored, drawn anew in every epoch.
    """
    images, keys, ways = [], [], []
    for stream, part in ((stream, batch[stream]) for stream in STREAMS if stream in batch):
        face = part["faces"].reshape(-1) if stream == "fec" else part["index"]
        epoch = jnp.repeat(part["epoch"], 3) if stream == "fec" else part["epoch"]
        images.append(part["image"].reshape(-1, *part["image"].shape[-3:]))
        keys.append(_view_keys(stream, face, epoch, seed, views))
        ways.append(_view_keys(f"{stream} either way", face, epoch, seed, views=0))
    faces = _varied(jnp.concatenate(keys), jnp.concatenate(images), config)
    if not either_way:
        return faces
    mirrored_B = jax.vmap(jax.random.bernoulli)(jnp.concatenate(ways))
    return jnp.where(mirrored_B[:, None, None, None], faces[:, :, ::-1], faces)


def vary(
    stream: str, images: jax.Array, face_B: jax.Array, view: int | jax.Array, config: FaceTraining, views: int
) -> jax.Array:
    """Faces of one stream in one of their views, as `training_faces` varies them.

    Args:
        stream: one of `STREAMS`.
        images: the faces.
        face_B: their places in the dataset.
        view: which of the views.
        config: size and augmentation.
        views: how many there are.
    """
    keys = _view_keys(stream, face_B, jnp.full_like(face_B, view), VIEWS_SEED, views)
    return _varied(keys, images, config)


def _varied(keys_B: jax.Array, images_BxHxWx3: jax.Array, config: FaceTraining) -> jax.Array:
    """Faces varied; of a network that looks at brightness alone, only that is, for a third of the work."""
    size, colours = config.network.image_size, config.network.colours
    if colours == "rgb":
        return augment(keys_B, images_BxHxWx3, size, config.augment)
    brightness_BxHxWx1 = grey(images_BxHxWx3.astype(jnp.float32))[..., :1]
    return jnp.repeat(augment(keys_B, brightness_BxHxWx1, size, config.augment), 3, axis=-1)


def _view_keys(stream: str, face_B: jax.Array, epoch_B: jax.Array, seed: int, views: int) -> jax.Array:
    """The key of each face's augmentation in an epoch."""
    key = stream_key(VIEWS_SEED if views else seed, f"augment {stream}")
    fold = lambda face, view: jax.random.fold_in(jax.random.fold_in(key, face), view)
    return jax.vmap(fold)(face_B, epoch_B % views if views else epoch_B)


def forward(
    network: FaceNetwork, state: TrainState, params: Any, images: jax.Array, config: FaceTraining
) -> tuple[Outputs, Any]:
    """The network in training: what its heads say with the given parameters, and BatchNorm's new running statistics."""
    variables = {"params": params, "batch_stats": state.batch_stats}

    def apply(images: jax.Array, _: Any) -> tuple[Outputs, Any]:
        outputs, mutated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return heads(outputs), mutated["batch_stats"]

    if config.remat:
        apply = jax.checkpoint(apply, policy=lambda primitive, *_, **__: primitive.name in KEPT_BY_REMAT)
    return in_pieces(apply, images, config.accumulate)


def heads(outputs: Outputs) -> Outputs:
    """The outputs that losses are made of; the maps on the way to them would take much memory."""
    return {name: outputs[name] for name in ("embedding", "triplet", "expression", "valence_arousal")}


def split_outputs(outputs: Outputs, batch: Batch) -> tuple[Outputs, Outputs]:
    """The outputs of the faces of `training_faces`: AffectNet's, and FEC's with a triplet axis (B', 3, …)."""
    affectnet = batch["affectnet"]["image"].shape[0]
    end = affectnet + (3 * batch["fec"]["image"].shape[0] if "fec" in batch else 0)
    return (
        {name: value[:affectnet] for name, value in outputs.items()},
        {name: value[affectnet:end].reshape(-1, 3, *value.shape[1:]) for name, value in outputs.items()},
    )


def label_losses(
    outputs: Outputs, batch: Batch, class_weights_K: np.ndarray, config: SupervisionConfig
) -> dict[str, jax.Array]:
    """The losses against labels, scalars: "expression", "valence_arousal", "triplet" (with FEC) and their sum "labels".

    Without FEC the sum has no alpha, which would only scale the whole.
    """
    affectnet, fec = split_outputs(outputs, batch)
    labels = batch["affectnet"]
    target_BxK, has_target_B = expression_targets(labels, config)
    result = {
        "expression": losses.masked_mean(
            losses.classification_loss(affectnet["expression"], target_BxK, jnp.asarray(class_weights_K)), has_target_B
        ),
        "valence_arousal": losses.masked_mean(
            losses.valence_arousal_loss(affectnet["valence_arousal"], labels["valence_arousal"]),
            labels["valence_arousal_valid"],
        ),
    }
    total = result["expression"] + config.valence_arousal_weight * result["valence_arousal"]
    if "fec" in batch:
        margin_B = jnp.asarray(losses.TRIPLET_MARGINS)[batch["fec"]["kind"]]
        result["triplet"] = losses.triplet_loss(fec["triplet"], margin_B).mean()
        total = result["triplet"] + config.alpha * total
    return result | {"labels": total}


def expression_targets(labels: Batch, config: SupervisionConfig) -> tuple[jax.Array, jax.Array]:
    """What the expression head learns, BxK, and for which faces there is something to learn, B."""
    target_BxK = jax.nn.one_hot(labels["expression"], len(EXPRESSIONS))
    has_target_B = labels["expression_valid"]
    if config.soft_labels and "soft_label" in labels:
        rated_B = labels["soft_label_valid"]
        target_BxK = jnp.where(rated_B[:, None], labels["soft_label"], target_BxK)
        has_target_B = has_target_B | rated_B
    return losses.smoothed(target_BxK, config.label_smoothing), has_target_B


def evaluate_affectnet(network: Any, variables: Any, batch: Batch) -> dict[str, Any]:
    """Mergeable metrics of one AffectNet evaluation batch, and nothing from rows whose "valid" is False."""
    outputs = network.apply(variables, centre_crop(batch["image"], network.config.image_size), train=False)
    has_class_B = batch["valid"] & batch["expression_valid"]
    has_pair_B = batch["valid"] & batch["valence_arousal_valid"]
    return metrics.expression_confusions(outputs["expression"], batch["expression"], has_class_B) | {
        "valence_arousal": metrics.Regression.of(outputs["valence_arousal"], batch["valence_arousal"], has_pair_B)
    }


def evaluate_fec(network: Any, variables: Any, batch: Batch) -> dict[str, Any]:
    """Mergeable triplet accuracy of one FEC evaluation batch."""
    images = centre_crop(batch["image"], network.config.image_size)
    outputs = network.apply(variables, images.reshape(-1, *images.shape[2:]), train=False)
    embeddings_Bx3xD = outputs["triplet"].reshape(images.shape[0], 3, -1)
    return {"triplet": metrics.TripletAccuracy.of(embeddings_Bx3xD, batch["kind"], batch["valid"])}


def evaluate_faces(network: Any, variables: Any, batch: Batch) -> dict[str, Any]:
    """Metrics of an evaluation batch that holds "affectnet" or "fec"."""
    if "affectnet" in batch:
        return evaluate_affectnet(network, variables, batch["affectnet"])
    return evaluate_fec(network, variables, batch["fec"])
