"""From the ratings of several people to one gold standard per frame."""

from typing import Literal

import numpy as np

GoldStandard = Literal["mean", "avec"]


def gold_standard(ratings: np.ndarray, kind: GoldStandard) -> np.ndarray:
    """The gold standard of one recording, each dimension by itself.

    Args:
        ratings: float, T×R×2: the traces of R raters in both dimensions.
        kind: "mean", see `rater_mean`, or "avec", see `avec_gold_standard`.

    Returns:
        float32, T×2.
    """
    formula = {"mean": rater_mean, "avec": avec_gold_standard}[kind]
    return np.stack([formula(ratings[..., dimension]) for dimension in range(2)], axis=1).astype(np.float32)


def rater_mean(traces: np.ndarray) -> np.ndarray:
    """The plain mean over raters.

    Args:
        traces: float, T×R.

    Returns:
        float64, T.
    """
    return traces.mean(axis=1, dtype=np.float64)


def avec_gold_standard(traces: np.ndarray) -> np.ndarray:
    """The gold standard of the AVEC challenges (Valstar et al. 2016).

    gs(t) = mean_r x_r(t) - mean_r m_r + (Σ_r m_r w_r) / (Σ_r w_r), where m_r is the mean of rater r over the
    file and w_r the mean CCC of rater r with every other rater. Where the weights sum to zero or less, as
    with raters who contradict each other, the weighted mean is meaningless and the plain mean is returned
    (our choice).

    Args:
        traces: float, T×R, with at least two raters.

    Returns:
        float64, T.
    """
    traces = traces.astype(np.float64)
    means = traces.mean(axis=0)
    agreement = pairwise_ccc(traces)
    weights = (agreement.sum(axis=1) - np.diag(agreement)) / (traces.shape[1] - 1)
    if weights.sum() <= 0:
        return traces.mean(axis=1)
    return traces.mean(axis=1) - means.mean() + (means * weights).sum() / weights.sum()


def pairwise_ccc(traces: np.ndarray) -> np.ndarray:
    """Concordance correlation (Lin 1989) of every pair of columns, with population moments.

    Args:
        traces: float, T×R.

    Returns:
        float64, R×R; 0 where both traces are constant and equal.
    """
    means = traces.mean(axis=0)
    covariance = np.cov(traces, rowvar=False, bias=True).reshape(traces.shape[1], traces.shape[1])
    variances = np.diag(covariance)
    spread = variances[:, None] + variances + (means[:, None] - means) ** 2
    return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 0)
