"""From the ratings of several people to one gold standard per frame."""

from typing import Literal

import numpy as np

from data_pipelines.errors import DataError

GoldStandard = Literal["mean", "avec", "ewe", "released"]


def gold_standard(ratings: np.ndarray, kind: GoldStandard, released: np.ndarray | None = None) -> np.ndarray:
    """The gold standard of one recording, each dimension by itself.

    Args:
        ratings: float, T×R×2: the traces of R raters in both dimensions.
        kind: "mean", see `rater_mean`; "avec", see `avec_gold_standard`; "ewe", see `evaluator_weighted_estimator`;
            "released": the release's own, whatever it was made by.
        released: float, T×2: the gold standard that comes with the release, where one does.

    Returns:
        float32, T×2.

    Raises:
        DataError: There are too few raters for it, or no released one.
    """
    check_available(kind, ratings.shape[1], released is not None)
    if kind == "released" and released is not None:
        return released.astype(np.float32)
    formula = {"mean": rater_mean, "avec": avec_gold_standard, "ewe": evaluator_weighted_estimator}[kind]
    return np.stack([formula(ratings[..., dimension]) for dimension in range(2)], axis=1).astype(np.float32)


def check_available(kind: GoldStandard, raters: int, released: bool) -> None:
    """Raises DataError where a gold standard can't be had.

    Args:
        kind: Which.
        raters: How many raters there are.
        released: Whether the release has a gold standard of its own.
    """
    if kind == "released":
        if not released:
            raise DataError("the release has no gold standard of its own; choose mean, avec or ewe")
        return
    needed = 2 if kind == "avec" else 1
    if raters < needed:
        wanted = "at least two raters" if needed == 2 else "the traces of raters"
        raise DataError(
            f"gold standard {kind} needs {wanted}, here are {raters}; choose {'released' if released else 'mean'}"
        )


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


def evaluator_weighted_estimator(traces: np.ndarray) -> np.ndarray:
    """The evaluator weighted estimator, EWE (Grimm & Kroschel 2005).

    gs(t) = Σ_r w_r x_r(t) / Σ_r w_r, where w_r is the Pearson correlation of rater r with the mean of all raters,
    rater r among them. The paper correlates over a whole corpus of utterances; here it is over the frames of one
    recording, as is usual for traces. Our choices: a negative weight counts as 0, so does that of a constant trace,
    and where nobody has any weight the plain mean is returned.

    Args:
        traces: float, T×R.

    Returns:
        float64, T.
    """
    traces = traces.astype(np.float64)
    deviations = traces - traces.mean(axis=0)
    consensus = deviations.mean(axis=1)
    spread = np.sqrt((deviations**2).sum(axis=0) * (consensus**2).sum())
    # Rounding leaves a constant trace a tiny spread, and consensus of opposite raters too: both count as none.
    correlations = np.divide(consensus @ deviations, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    weights = np.maximum(correlations, 0)
    if weights.sum() <= 0:
        return traces.mean(axis=1)
    return traces @ weights / weights.sum()


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
