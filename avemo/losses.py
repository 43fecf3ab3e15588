"""Losses. Each returns one value per example and knows nothing of batches; `masked_mean` is the one place that reduces.

Shape letters: B batch, T frames, K classes, D features. Everything is computed in float32.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

TRIPLET_MARGINS = (0.1, 0.2, 0.2)
"""Margin per triplet type, in the order of `labels.TRIPLET_KINDS` (Vemulapalli & Agarwala 2019, sec. 4)."""

SMALLEST_SQUARED_DISTANCE = 1e-12
"""Squared distances below this count as this: a root's gradient grows beyond all bounds towards zero."""


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
    logits_BxK: Float[Array, "B K"], target_BxK: Float[Array, "B K"], class_weights_K: Float[Array, " K"]
) -> Float[Array, " B"]:
    """Cross-entropy of a distribution over the classes, times the mean weight of its classes."""
    cross_entropy_B = optax.softmax_cross_entropy(logits_BxK.astype(jnp.float32), target_BxK)
    return cross_entropy_B * (target_BxK @ class_weights_K)


def smoothed(target_BxK: Float[Array, "B K"], share: float) -> Float[Array, "B K"]:
    """Distributions with a share spread evenly over all classes (Szegedy et al. 2016, sec. 7); 0 leaves them."""
    return (1 - share) * target_BxK + share / target_BxK.shape[-1]


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


def hint_loss(student_BxD: Float[Array, "B D"], teacher_BxD: Float[Array, "B D"]) -> Float[Array, " B"]:
    """Half the squared distance between the student's (projected) and the teacher's features, over their mean square.

    Romero et al. 2015, eq. 3. We divide by the teacher's mean square over the batch, so that a weight means the same
    whatever the scale of a teacher's features.
    """
    student_BxD, teacher_BxD = student_BxD.astype(jnp.float32), teacher_BxD.astype(jnp.float32)
    scale = jnp.maximum(jnp.square(teacher_BxD).mean(), 1e-12)
    return 0.5 * jnp.square(student_BxD - teacher_BxD).mean(-1) / scale


def distance_relation_loss(student_BxD: Float[Array, "B D"], teacher_BxE: Float[Array, "B E"]) -> Float[Array, " B"]:
    """How far the faces' distances among each other differ: Huber loss of each pair, averaged over a face's pairs.

    Distances are divided by their mean over the batch, the student's and the teacher's each (Park et al. 2019, eq. 5
    and 6), so that the embeddings may differ in size and scale.
    """
    student_BxB, teacher_BxB = _relative_distances(student_BxD), _relative_distances(teacher_BxE)
    return optax.huber_loss(student_BxB, teacher_BxB).sum(-1) / max(len(student_BxB) - 1, 1)


def _relative_distances(embeddings_BxD: Array) -> Array:
    """Distances of all pairs over their mean; where there is hardly any, as on the diagonal, there is no gradient."""
    embeddings_BxD = embeddings_BxD.astype(jnp.float32)
    embeddings_BxD = embeddings_BxD - embeddings_BxD.mean(0)  # so that less cancels below
    length_squared_B = jnp.square(embeddings_BxD).sum(-1)
    # |a − b|² = |a|² + |b|² − 2 a·b: a product of matrices instead of B²·D differences.
    squared_BxB = length_squared_B[:, None] + length_squared_B - 2 * embeddings_BxD @ embeddings_BxD.T
    distances_BxB = jnp.sqrt(jnp.maximum(squared_BxB, SMALLEST_SQUARED_DISTANCE))
    pairs_BxB = ~jnp.eye(len(distances_BxB), dtype=bool)
    return jnp.where(pairs_BxB, distances_BxB / masked_mean(distances_BxB, pairs_BxB), 0.0)


def angle_relation_loss(student_BxD: Float[Array, "B D"], teacher_BxE: Float[Array, "B E"]) -> Float[Array, " B"]:
    """How far the angles differ that pairs of faces are seen under from each face: Huber loss of the angles' cosines.

    Park et al. 2019, eq. 8 and 9, averaged over the pairs that a face sees. Memory grows with B³.
    """
    difference = optax.huber_loss(_cosines(student_BxD), _cosines(teacher_BxE))
    return difference.mean((1, 2))


def _cosines(embeddings_BxD: Array) -> Array:
    """BxBxB: at [i, j, k] the cosine of the angle at i between j and k; 0 where one of them is i."""
    embeddings_BxD = embeddings_BxD.astype(jnp.float32)
    towards_BxBxD = embeddings_BxD[None] - embeddings_BxD[:, None]
    squared_BxBx1 = jnp.square(towards_BxBxD).sum(-1, keepdims=True)
    unit_BxBxD = towards_BxBxD * jax.lax.rsqrt(jnp.maximum(squared_BxBx1, SMALLEST_SQUARED_DISTANCE))
    return jnp.einsum("ijd,ikd->ijk", unit_BxBxD, unit_BxBxD)


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


def rating_likelihood_loss(
    prediction_BxTxD: Float[Array, "B T D"],
    spread_BxTxD: Float[Array, "B T D"],
    rating_mean_BxTxD: Float[Array, "B T D"],
    rating_square_BxTxD: Float[Array, "B T D"],
) -> Float[Array, "B T D"]:
    """Mean over the raters of their ratings' negative log-likelihood under a normal distribution, less its constant.

    With prediction μ and spread σ: ½ · mean_r (x_r − μ)² / σ² + log σ (Nix & Weigend 1994), so that σ learns how far a
    rater lies from the prediction: as the raters disagree, and as the prediction errs.

    Args:
        prediction_BxTxD: μ.
        spread_BxTxD: σ, positive.
        rating_mean_BxTxD: mean of the raters' values.
        rating_square_BxTxD: mean of their squares.
    """
    squared = rating_square_BxTxD - 2 * prediction_BxTxD * rating_mean_BxTxD + jnp.square(prediction_BxTxD)
    return 0.5 * squared / jnp.square(spread_BxTxD) + jnp.log(spread_BxTxD)
