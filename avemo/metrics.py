"""Metrics as sufficient statistics: exact over ragged last batches, devices and hosts.

Each metric is a small pytree made from one batch, merged with `merge`, and turned into numbers at the end, in float64
on the host. A mask says which rows of a padded batch count.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from avemo.labels import EXPRESSIONS, TRIPLET_KINDS
from avemo.losses import triplet_distances

Statistic = Any  # an array of JAX while batches are merged, of NumPy (float64) at the end
Tree = TypeVar("Tree")


@struct.dataclass
class Confusion:
    """Counts of (true class, predicted class), shape (K, K)."""

    counts_KxK: Statistic

    @classmethod
    def of(cls, logits_BxK: Float[Array, "B K"], label_B: Int[Array, " B"], mask_B: Bool[Array, " B"]) -> "Confusion":
        """Counts of one batch; the predicted class is the largest logit."""
        classes = logits_BxK.shape[-1]
        truth_BxK = jax.nn.one_hot(label_B, classes, dtype=jnp.int32) * mask_B[:, None]
        predicted_BxK = jax.nn.one_hot(logits_BxK.argmax(-1), classes, dtype=jnp.int32)
        return cls(truth_BxK.T @ predicted_BxK)

    def merge(self, other: "Confusion") -> "Confusion":
        """Counts of both."""
        return type(self)(self.counts_KxK + other.counts_KxK)

    def accuracy(self) -> float:
        """Share of examples on the diagonal."""
        counts = np.asarray(self.counts_KxK, np.int64)
        return float(np.trace(counts) / max(counts.sum(), 1))

    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1 scores, over classes that occur in truth or prediction."""
        counts = np.asarray(self.counts_KxK, np.float64)
        appearances = counts.sum(0) + counts.sum(1)
        return float(np.mean(2 * np.diag(counts)[appearances > 0] / appearances[appearances > 0]))


def expression_confusions(
    logits_BxK: Float[Array, "B K"], label_B: Int[Array, " B"], mask_B: Bool[Array, " B"]
) -> dict[str, Confusion]:
    """The 8-class confusion, and the 7-class one: contempt's rows left out and its logit never chosen."""
    contempt = EXPRESSIONS.index("contempt")
    return {
        "confusion_8": Confusion.of(logits_BxK, label_B, mask_B),
        "confusion_7": Confusion.of(logits_BxK.at[:, contempt].set(-jnp.inf), label_B, mask_B & (label_B != contempt)),
    }


@struct.dataclass
class Regression:
    """Counts, means and centred second moments of prediction x and label y, per column; Chan's method merges them.

    Centred moments keep float32 exact enough where raw sums of squares would cancel (Chan, Golub & LeVeque 1979).
    """

    count: Statistic
    mean_x: Statistic
    mean_y: Statistic
    moment_xx: Statistic
    moment_yy: Statistic
    moment_xy: Statistic
    squared_error: Statistic
    same_sign: Statistic

    @classmethod
    def of(
        cls,
        prediction_BxD: Float[Array, "B D"],
        label_BxD: Float[Array, "B D"],
        mask: Bool[Array, " B"] | Bool[Array, "B D"],
    ) -> "Regression":
        """Statistics of one batch; rows, or numbers, whose mask is False count for nothing, whatever they hold."""
        mask_BxD = jnp.broadcast_to(mask.reshape(len(mask), -1), label_BxD.shape)
        x_BxD = jnp.where(mask_BxD, prediction_BxD.astype(jnp.float32), 0.0)
        y_BxD = jnp.where(mask_BxD, label_BxD.astype(jnp.float32), 0.0)
        count = mask_BxD.sum(0).astype(jnp.float32)
        mean_x, mean_y = (v.sum(0) / jnp.maximum(count, 1) for v in (x_BxD, y_BxD))
        dx_BxD, dy_BxD = (jnp.where(mask_BxD, v - m, 0.0) for v, m in ((x_BxD, mean_x), (y_BxD, mean_y)))
        return cls(
            count=count,
            mean_x=mean_x,
            mean_y=mean_y,
            moment_xx=(dx_BxD**2).sum(0),
            moment_yy=(dy_BxD**2).sum(0),
            moment_xy=(dx_BxD * dy_BxD).sum(0),
            squared_error=((x_BxD - y_BxD) ** 2).sum(0),
            same_sign=(mask_BxD & (jnp.sign(x_BxD) == jnp.sign(y_BxD))).sum(0),
        )

    def merge(self, other: "Regression") -> "Regression":
        """Statistics of both sets together."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between = self.count * share
        return type(self)(
            count=count,
            mean_x=self.mean_x + dx * share,
            mean_y=self.mean_y + dy * share,
            moment_xx=self.moment_xx + other.moment_xx + dx * dx * between,
            moment_yy=self.moment_yy + other.moment_yy + dy * dy * between,
            moment_xy=self.moment_xy + other.moment_xy + dx * dy * between,
            squared_error=self.squared_error + other.squared_error,
            same_sign=self.same_sign + other.same_sign,
        )

    def ccc(self) -> np.ndarray:
        """Concordance correlation per column (Lin 1989, population moments); 0 where nothing varies or counts."""
        host = self._float64()
        denominator = host.moment_xx + host.moment_yy + host.count * (host.mean_x - host.mean_y) ** 2
        return np.divide(2 * host.moment_xy, denominator, out=np.zeros_like(denominator), where=denominator > 0)

    def pearson(self) -> np.ndarray:
        """Pearson correlation per column; 0 where prediction or label is constant."""
        host = self._float64()
        scale = np.sqrt(host.moment_xx * host.moment_yy)
        return np.divide(host.moment_xy, scale, out=np.zeros_like(scale), where=scale > 0)

    def rmse(self) -> np.ndarray:
        """Root mean squared error per column."""
        host = self._float64()
        return np.sqrt(host.squared_error / np.maximum(host.count, 1))

    def sagr(self) -> np.ndarray:
        """Sign agreement: share of rows where prediction and label have the same sign, per column."""
        host = self._float64()
        return host.same_sign / np.maximum(host.count, 1)

    def _float64(self) -> "Regression":
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self)


@struct.dataclass
class TripletAccuracy:
    """Counts per triplet type of triplets told rightly, and of all, shape (3,) each."""

    right: Statistic
    total: Statistic

    @classmethod
    def of(
        cls, embeddings_Bx3xD: Float[Array, "B 3 D"], kind_B: Int[Array, " B"], mask_B: Bool[Array, " B"]
    ) -> "TripletAccuracy":
        """A triplet is told rightly where d12 < d13 and d12 < d23, strictly (the third image is the odd one)."""
        d12, d13, d23 = triplet_distances(embeddings_Bx3xD)
        kind_Bx3 = jax.nn.one_hot(kind_B, len(TRIPLET_KINDS), dtype=jnp.int32) * mask_B[:, None]
        return cls(((d12 < d13) & (d12 < d23)).astype(jnp.int32) @ kind_Bx3, kind_Bx3.sum(0))

    def merge(self, other: "TripletAccuracy") -> "TripletAccuracy":
        """Counts of both."""
        return type(self)(self.right + other.right, self.total + other.total)

    def accuracy(self) -> float:
        """Share of all triplets told rightly."""
        return float(np.sum(self.right) / max(np.sum(self.total), 1))

    def accuracy_by_kind(self) -> dict[str, float]:
        """The same for each triplet type."""
        pairs = zip(TRIPLET_KINDS, np.asarray(self.right), np.asarray(self.total), strict=True)
        return {kind: float(right / max(total, 1)) for kind, right, total in pairs}


def merge(first: Tree, second: Tree) -> Tree:
    """Merge two equal pytrees of metrics, metric by metric."""
    return jax.tree.map(lambda a, b: a.merge(b), first, second, is_leaf=lambda node: hasattr(node, "merge"))


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): how far confidence and accuracy lie apart, bin by bin.

    Args:
        confidence_N: probability of the class chosen, in [0, 1].
        right_N: whether it is the label.
        bins: of equal width.
    """
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    total = lambda values_N: np.bincount(bin_N, values_N, minlength=bins)
    return float(np.abs(total(right_N) - total(confidence_N)).sum() / max(len(confidence_N), 1))
