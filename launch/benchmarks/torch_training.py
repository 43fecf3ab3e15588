"""The training steps of `avemo.stages` once more in PyTorch, as somebody at home there would write them.

Whoever imports this needs torch (extra "benchmark"). A step is called with a batch as the stages take it, of tensors
on the device, and returns the loss.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avemo.augment import AugmentConfig
from avemo.labels import FRAME_RATE_HZ
from avemo.losses import SMALLEST_SQUARED_DISTANCE, TRIPLET_MARGINS
from avemo.stages.fusion import FusionTraining
from avemo.stages.student import Distillation
from avemo.stages.supervision import FaceTraining
from avemo.training import OptimizerConfig

Step = Callable[[Mapping[str, Any]], Tensor]
"""Takes a batch, returns the loss; a training step has then changed the network it was made for."""


def to_tensors(batch: Mapping[str, Any], device: str) -> dict[str, Any]:
    """A batch of NumPy arrays on the device; labels become int64, as torch's losses want them."""
    tensors: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            tensors[name] = to_tensors(value, device)
        else:
            tensor = torch.from_numpy(np.array(value)).to(device)
            tensors[name] = tensor.long() if tensor.dtype == torch.int32 else tensor
    return tensors


Wrapper = Callable[[Step], Step]
"""Makes something else of the function that gives the loss: a compiled one, or one in mixed precision."""


def as_it_is(loss_of: Step) -> Step:
    """The wrapper that changes nothing."""
    return loss_of


def _training_step(loss_of: Step, network: nn.Module, config: OptimizerConfig, steps: int) -> Step:
    """One update of the network: gradient, clipping, Adam with decoupled weight decay, schedule."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(config, steps, step))

    def step(batch: Mapping[str, Any]) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        schedule.step()
        return loss.detach()

    return step


def learning_rate_factor(config: OptimizerConfig, steps: int, step: int) -> float:
    """Share of the peak rate at a step, as in `avemo.training.make_optimizer`."""
    warmup_steps = min(config.warmup_steps, steps // 2)
    if step < warmup_steps:
        return step / warmup_steps
    progress = min((step - warmup_steps) / (steps - warmup_steps), 1.0)
    return (1 + math.cos(math.pi * progress)) / 2


def teacher_step(
    network: nn.Module, config: FaceTraining, class_weights_K: Tensor, wrapper: Wrapper = as_it_is
) -> Step:
    """Twin of `avemo.stages.teacher.train_step`."""

    def loss_of(batch: Mapping[str, Any]) -> Tensor:
        outputs = network(training_faces(batch, config.network.image_size, config.augment))
        return label_loss(outputs, batch, class_weights_K, config)

    return _training_step(wrapper(loss_of), network, config.optimizer, config.steps)


def student_step(
    network: nn.Module,
    teacher: nn.Module,
    projection: nn.Module,
    config: Distillation,
    class_weights_K: Tensor,
    wrapper: Wrapper = as_it_is,
) -> Step:
    """Twin of `avemo.stages.student.train_step` with the losses of the presets; the teacher is in evaluation mode."""

    def loss_of(batch: Mapping[str, Any]) -> Tensor:
        images = training_faces(batch, config.network.image_size, config.augment)
        with torch.no_grad():
            taught = teacher(images)
        outputs = network(images)
        log_student, log_teacher = (
            functional.log_softmax(each["expression"] / config.temperature, dim=-1) for each in (outputs, taught)
        )
        soft_targets = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        regression = (outputs["valence_arousal"] - taught["valence_arousal"]).square().mean()
        match = 1 - functional.cosine_similarity(projection(outputs["embedding"]), taught["embedding"], eps=1e-6)
        name, first = ("triplet", len(batch["affectnet"]["image"])) if "fec" in batch else ("embedding", 0)
        mine, theirs = (relative_distances(each[name][first:]) for each in (outputs, taught))
        count = len(mine)
        distances = functional.huber_loss(mine, theirs, reduction="sum") / (count * (count - 1))
        return (
            config.labels_weight * label_loss(outputs, batch, class_weights_K, config)
            + config.soft_target_weight * config.temperature**2 * soft_targets
            + config.regression_weight * regression
            + config.embedding_weight * match.mean()
            + config.distance_weight * distances
        )

    return _training_step(wrapper(loss_of), nn.ModuleList([network, projection]), config.optimizer, config.steps)


def relative_distances(embeddings_BxD: Tensor) -> Tensor:
    """Distances of all pairs over their mean, as in `avemo.losses.distance_relation_loss`."""
    squared_BxB = (embeddings_BxD[:, None] - embeddings_BxD[None]).square().sum(-1)
    pairs_BxB = ~torch.eye(len(squared_BxB), dtype=torch.bool, device=squared_BxB.device)
    distances_BxB = squared_BxB.clamp(min=SMALLEST_SQUARED_DISTANCE).sqrt()
    return torch.where(pairs_BxB, distances_BxB / masked_mean(distances_BxB, pairs_BxB), 0)


def fusion_step(network: nn.Module, config: FusionTraining, wrapper: Wrapper = as_it_is) -> Step:
    """Twin of `avemo.stages.fusion.train_step`, for one delay of whole frames."""
    delay = round(config.annotation_delay_s[0] * FRAME_RATE_HZ)

    def loss_of(batch: Mapping[str, Any]) -> Tensor:
        draw_Bx1 = torch.rand(len(batch["face"]), 1, device=batch["face"].device)
        face_valid_BxT = batch["face_valid"] & (draw_Bx1 >= config.modality_dropout)
        voice_valid_BxT = batch["voice_valid"] & (draw_Bx1 < 1 - config.modality_dropout)
        outputs = network(batch["face"], face_valid_BxT, batch["waveform"], voice_valid_BxT)
        predictions, frames = outputs["valence_arousal"], face_valid_BxT.shape[1]
        at_delay = lambda name: batch[name][:, delay : delay + frames]
        labels, valid = at_delay("labels"), at_delay("labels_valid")
        valence, arousal = (ccc_loss(predictions[..., i], labels[..., i], valid) for i in range(2))
        fixed = predictions.detach()
        squared = at_delay("rating_square") - 2 * fixed * at_delay("rating_mean") + fixed.square()
        likelihood = 0.5 * squared / outputs["spread"].square() + outputs["spread"].log()
        spread = masked_mean(likelihood, valid[..., None].expand_as(likelihood))
        return (valence + arousal) / 2 + config.spread_weight * spread

    return _training_step(wrapper(loss_of), network, config.optimizer, config.steps)


def training_faces(batch: Mapping[str, Any], size: int, config: AugmentConfig) -> Tensor:
    """All faces of a batch, augmented as `avemo.augment.augment` does."""
    images = batch["affectnet"]["image"]
    if "fec" in batch:
        images = torch.cat([images, batch["fec"]["image"].flatten(0, 1)])
    count, height, width, _ = images.shape
    device = images.device
    uniform = lambda low, high: torch.empty(count, 1, 1, 1, device=device).uniform_(low, high)
    tops = torch.randint(0, height - size + 1, (count, 1, 1), device=device)
    lefts = torch.randint(0, width - size + 1, (count, 1, 1), device=device)
    columns = torch.arange(size, device=device)
    flipped = torch.rand(count, 1, 1, device=device) < 0.5
    columns = lefts + torch.where(flipped, columns.flip(0), columns)
    rows = tops + torch.arange(size, device=device)[:, None]
    faces = images[torch.arange(count, device=device)[:, None, None], rows, columns].float()

    faces = torch.where(uniform(0, 1) < config.grey, faces.mean(-1, keepdim=True), faces)
    gain = 1 + config.contrast * uniform(-1, 1)
    shift = 255 * config.brightness * uniform(-1, 1)
    mean = faces.mean((1, 2, 3), keepdim=True)
    return ((faces - mean) * gain + mean + shift).clamp(0, 255)


def label_loss(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Any], class_weights_K: Tensor, config: FaceTraining
) -> Tensor:
    """Twin of `avemo.stages.supervision.label_losses`."""
    labels = batch["affectnet"]
    count = len(labels["image"])
    cross_entropy_B = functional.cross_entropy(outputs["expression"][:count], labels["expression"], reduction="none")
    expression = masked_mean(cross_entropy_B * class_weights_K[labels["expression"]], labels["expression_valid"])
    error_B = (outputs["valence_arousal"][:count] - labels["valence_arousal"]).square().mean(-1)
    valence_arousal = masked_mean(error_B, labels["valence_arousal_valid"])
    total = expression + config.supervision.valence_arousal_weight * valence_arousal
    if "fec" not in batch:
        return total
    first, second, third = outputs["triplet"][count:].unflatten(0, (-1, 3)).unbind(1)
    d12, d13, d23 = ((a - b).square().sum(-1) for a, b in ((first, second), (first, third), (second, third)))
    margin_B = torch.tensor(TRIPLET_MARGINS, device=d12.device)[batch["fec"]["kind"]]
    triplet = (functional.relu(d12 - d13 + margin_B) + functional.relu(d12 - d23 + margin_B)).mean()
    return triplet + config.supervision.alpha * total


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Twin of `avemo.losses.masked_mean`."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def ccc_loss(prediction_BxT: Tensor, label_BxT: Tensor, mask_BxT: Tensor) -> Tensor:
    """Twin of `avemo.losses.ccc_loss`."""
    mean_prediction, mean_label = masked_mean(prediction_BxT, mask_BxT), masked_mean(label_BxT, mask_BxT)
    deviation_BxT, label_deviation_BxT = prediction_BxT - mean_prediction, label_BxT - mean_label
    covariance = masked_mean(deviation_BxT * label_deviation_BxT, mask_BxT)
    variances = masked_mean(deviation_BxT**2, mask_BxT) + masked_mean(label_deviation_BxT**2, mask_BxT)
    return 1 - 2 * covariance / (variances + (mean_prediction - mean_label) ** 2 + 1e-8)
