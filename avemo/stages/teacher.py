"""Stage 1: the face teacher learns from AffectNet's labels and FEC's triplets.

L = L_FEC + α · L_AffectNet with α = 0.1, one batch of each in every step, Adam, about 13 epochs (Schoneveld et al.
2021), plus a valence/arousal head (our addition).
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from avemo.augment import AugmentConfig
from avemo.models.face import DEMO_TEACHER, SMALL_TEACHER, FaceNetwork
from avemo.stages.supervision import (
    FaceTraining,
    SupervisionConfig,
    evaluate_faces,
    forward,
    init,
    label_losses,
    training_faces,
)
from avemo.training import Batch, Optimizer, OptimizerConfig, Stage, TrainState, make_optimizer, step_metrics, update


def build(config: FaceTraining, class_weights_K: np.ndarray, seed: int, trunk: Any = None) -> Stage:
    """The stage's three functions.

    Args:
        config: the training.
        class_weights_K: from `supervision.class_weights`.
        seed: that of the run.
        trunk: "params" and "batch_stats" that the network's trunk begins with, such as VGGFace2's, see
            `avemo.models.face.check_trunk`; None draws them.
    """
    network = FaceNetwork(config.network)
    optimizer = make_optimizer(config.optimizer, config.steps)
    return Stage(
        init=partial(init, network=network, optimizer=optimizer, trunk=trunk),
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


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: FaceNetwork,
    optimizer: Optimizer,
    class_weights_K: np.ndarray,
    config: FaceTraining,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from one batch of AffectNet faces and one of FEC triplets."""
    images = training_faces(batch, config, seed)

    def loss_of(params: Any) -> tuple[jax.Array, tuple]:
        outputs, batch_stats = forward(network, state, params, images, config)
        terms = label_losses(outputs, batch, class_weights_K, config.supervision)
        return terms["labels"], (terms, batch_stats)

    (loss, (terms, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return update(state, gradients, batch_stats, optimizer), step_metrics(loss, gradients) | terms


PAPER = FaceTraining()
"""`avemo train teacher --preset paper`: AffectNet and FEC, 140×140, 13 epochs of 287,651 faces; one data-centre GPU.

The network, alpha and the number of epochs are the paper's; batch sizes, rate and augmentation are our choice. Not
trained by us yet, for want of the corpora. The paper's trunk starts from VGGFace2's weights: see `--trunk`.
"""

SMALL = FaceTraining(
    network=SMALL_TEACHER,
    supervision=SupervisionConfig(soft_labels=True),
    augment=AugmentConfig(contrast=0.25, zoom=0.12, rotation=10.0, shift=0.08, erase=0.3),
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.05, warmup_steps=200, averaging=0.998),
    steps=6_600,
    batch_size=128,
    triplet_batch_size=0,
)
"""`avemo train teacher --preset small`: labels alone, 48×48, about 35 minutes on two CPU cores."""

DEMO = FaceTraining(
    network=DEMO_TEACHER,
    supervision=SupervisionConfig(alpha=1.0),
    optimizer=OptimizerConfig(learning_rate=5e-3),
    steps=600,
    batch_size=64,
    triplet_batch_size=24,
)
"""`avemo train teacher --preset demo`: the synthetic corpora, 40×40, less than two minutes on two CPU cores.

With so few steps the paper's alpha of 0.1 leaves expressions half learned; 1 learns both (our choice).
"""

PRESETS = {"demo": DEMO, "small": SMALL, "paper": PAPER}
"""What `avemo train teacher --preset` starts from."""
