"""Post-processing of predicted traces, as is usual on RECOLA (Valstar et al. 2016), and its fit on development data.

A median filter, a bias, a scale and a shift in time, one after the other; each is kept only where it raises the CCC on
the development recordings. The filter looks into the future, so none of this is for live use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import median_filter

MEDIAN_FRAMES = (5, 11, 25, 51, 101, 201)
"""Lengths of the median filter that are tried (our choice): 0.2 to 8 s."""

SHIFT_FRAMES = tuple(range(-50, 51, 2))
"""Shifts that are tried (our choice): up to 2 s earlier or later."""

Trace = tuple[np.ndarray, np.ndarray]
"""A recording's prediction and gold standard of one dimension, both (T,)."""


@dataclass(frozen=True)
class PostProcessing:
    """What is done to a predicted trace, in this order; the defaults do nothing.

    Attributes:
        median_frames: length of the median filter; 1 leaves the trace.
        scale: factor of what differs from the mean that predictions had on the development recordings.
        mean: that mean.
        bias: added at last.
        shift_frames: how many frames later the trace is taken to be; what is missing repeats the edge.
    """

    median_frames: int = 1
    scale: float = 1.0
    mean: float = 0.0
    bias: float = 0.0
    shift_frames: int = 0

    def __call__(self, trace_T: np.ndarray) -> np.ndarray:
        """The trace after post-processing, float64 (T,)."""
        even_T = median_filter(trace_T.astype(np.float64), self.median_frames, mode="nearest")
        scaled_T = self.scale * (even_T - self.mean) + self.mean + self.bias
        return scaled_T[np.clip(np.arange(len(trace_T)) - self.shift_frames, 0, len(trace_T) - 1)]


def fit(traces: Sequence[Trace]) -> PostProcessing:
    """The best post-processing of one dimension for these recordings; each part of it only where it helps.

    Args:
        traces: The development recordings'.
    """
    best, score = PostProcessing(), concatenated_ccc(traces)
    for step in (_medians, _biases, _scales, _shifts):
        for candidate in step(best, traces):
            after = concatenated_ccc([(candidate(prediction), gold) for prediction, gold in traces])
            if after > score:
                best, score = candidate, after
    return best


def concatenated_ccc(traces: Sequence[Trace]) -> float:
    """CCC (Lin 1989, population moments) over all recordings one after the other; 0 where nothing varies."""
    prediction_N, gold_N = (np.concatenate(part).astype(np.float64) for part in zip(*traces, strict=True))
    covariance = np.mean((prediction_N - prediction_N.mean()) * (gold_N - gold_N.mean()))
    spread = prediction_N.var() + gold_N.var() + (prediction_N.mean() - gold_N.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else 0.0


def _medians(best: PostProcessing, traces: Sequence[Trace]) -> list[PostProcessing]:
    return [replace(best, median_frames=frames) for frames in MEDIAN_FRAMES]


def _biases(best: PostProcessing, traces: Sequence[Trace]) -> list[PostProcessing]:
    """The one that brings the means together."""
    return [replace(best, bias=_moment(np.mean, 1, traces) - _moment(np.mean, 0, traces, best))]


def _scales(best: PostProcessing, traces: Sequence[Trace]) -> list[PostProcessing]:
    """The one that brings the spreads together."""
    spread = _moment(np.std, 0, traces, best)
    mean = _moment(np.mean, 0, traces, replace(best, bias=0.0))
    return [replace(best, scale=_moment(np.std, 1, traces) / spread, mean=mean)] if spread > 0 else []


def _shifts(best: PostProcessing, traces: Sequence[Trace]) -> list[PostProcessing]:
    return [replace(best, shift_frames=frames) for frames in SHIFT_FRAMES]


def _moment(
    of: Callable[[np.ndarray], float],
    column: int,
    traces: Sequence[Trace],
    process: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> float:
    return float(of(np.concatenate([process(trace[column]) for trace in traces])))
