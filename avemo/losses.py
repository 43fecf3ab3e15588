"""Losses. Each returns one value per example and knows nothing of batches; `masked_mean` is the one place that reduces.

Shape letters: B batch, T frames, K classes, D features. Everything is computed in float32.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

TRIPLET_MARGINS = (0.1, 0.2, 0.2)
"""Margin per triplet type, in the order of `labels.TRIPLET_KINDS` (Vemulapalli & Agarwala 2019, sec. 4)."""


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of the values whose mask is True; 0 where there is none. A masked value may even be NaN."""
    kept = jnp.where(mask, values.astype(jnp.float32), 0.0)
    return kept.sum() / jnp.maximum(mask.sum(), 1)


def triplet_loss(embeddings_Bx3xD: Float[Array, "B 3 D"], margin_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Both hinge terms of a facial-expression triplet whose third image is the odd one out.

    max(0, d12 − d13 + m) + max(0, d12 − d23 + m) on squared distances (Vemulapalli & Agarwala 2019, eq. 1).

    Args:
        embeddings_Bx3xD: unit vectors.
        margin_B: the margin m of each triplet, see `TRIPLET_MARGINS`.
    """
    d12, d13, d23 = triplet_distances(embeddings_Bx3xD)
    return jax.nn.relu(d12 - d13 + margin_B) + jax.nn.relu(d12 - d23 + margin_B)


def triplet_distances(
    embeddings_Bx3xD: Float[Array, "B 3 D"],
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """Squared Euclidean distances (d12, d13, d23) between the three images of each triplet."""
    first, second, third = jnp.moveaxis(embeddings_Bx3xD.astype(jnp.float32), 1, 0)
    squared = lambda a, b: jnp.square(a - b).sum(-1)
    return squared(first, second), squared(first, third), squared(second, third)


def classification_loss(
    logits_BxK: Float[Array, "B K"], label_B: Int[Array, " B"], class_weights_K: Float[Array, " K"]
) -> Float[Array, " B"]:
    """Cross-entropy of integer labels, times the weight of each example's class."""
    cross_entropy_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxK.astype(jnp.float32), label_B)
    return cross_entropy_B * class_weights_K[label_B]


def valence_arousal_loss(prediction_Bx2: Float[Array, "B 2"], label_Bx2: Float[Array, "B 2"]) -> Float[Array, " B"]:
    """Squared error, averaged over (valence, arousal)."""
    return jnp.square(prediction_Bx2.astype(jnp.float32) - label_Bx2).mean(-1)


def soft_target_loss(
    student_logits_BxK: Float[Array, "B K"], teacher_logits_BxK: Float[Array, "B K"], temperature: float
) -> Float[Array, " B"]:
    """Kullback-Leibler divergence of the student from the teacher at a temperature, times temperature².

    Hinton, Vinyals & Dean 2015, sec. 2: the factor T² keeps the gradient's size independent of the temperature.
    """
    teacher_BxK = jax.nn.log_softmax(teacher_logits_BxK.astype(jnp.float32) / temperature)
    student_BxK = jax.nn.log_softmax(student_logits_BxK.astype(jnp.float32) / temperature)
    return (jnp.exp(teacher_BxK) * (teacher_BxK - student_BxK)).sum(-1) * temperature**2


def embedding_match_loss(student_BxD: Float[Array, "B D"], teacher_BxD: Float[Array, "B D"]) -> Float[Array, " B"]:
    """1 − cosine between the student's and the teacher's embedding: 0 where they point the same way."""
    return 1.0 - optax.cosine_similarity(student_BxD.astype(jnp.float32), teacher_BxD.astype(jnp.float32), epsilon=1e-6)


def ccc_loss(
    prediction_BxT: Float[Array, "B T"], label_BxT: Float[Array, "B T"], mask_BxT: Bool[Array, "B T"]
) -> Float[Array, ""]:
    """1 − CCC over all unmasked frames of the batch together (Lin 1989; population moments).

    The one loss that cannot be taken per example: a window of a few seconds often hardly moves, and the CCC of a
    constant says nothing, so the windows of a batch are pooled (our choice).
    """
    prediction_BxT = jnp.where(mask_BxT, prediction_BxT.astype(jnp.float32), 0.0)
    label_BxT = jnp.where(mask_BxT, label_BxT, 0.0)
    mean_prediction = masked_mean(prediction_BxT, mask_BxT)
    mean_label = masked_mean(label_BxT, mask_BxT)
    deviation_BxT, label_deviation_BxT = prediction_BxT - mean_prediction, label_BxT - mean_label
    covariance = masked_mean(deviation_BxT * label_deviation_BxT, mask_BxT)
    variances = masked_mean(deviation_BxT**2, mask_BxT) + masked_mean(label_deviation_BxT**2, mask_BxT)
    return 1.0 - 2.0 * covariance / (variances + (mean_prediction - mean_label) ** 2 + 1e-8)
