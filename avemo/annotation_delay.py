"""Raters react late: labels lag what they describe by seconds. How to take labels at a delay, and how to find it.

A delay is in frames of 40 ms and may be a fraction; valence and arousal each have their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.ndimage import gaussian_filter1d

SMOOTHING_FRAMES = 10.0
"""Standard deviation, in frames, of what evens out the inputs of `search`; symmetric, so that it moves nothing."""

RIDGE = 1e-3
"""Weight of the penalty in `search`, as a share of the number of frames; the inputs have variance 1."""


def at_delay(values_BxLxD: Float[Array, "B L D"], delay_D: Float[Array, " D"], frames: int) -> Float[Array, "B T D"]:
    """What was noted a delay after each of the first T frames, linearly between two labels.

    Its gradient lets a delay be learned, as Khorram et al. 2019 do with sinc filters ("Jointly Aligning and Predicting
    Continuous Emotion Annotations"); linear interpolation is our choice.

    Args:
        values_BxLxD: Labels; of each dimension, what lies beyond the last counts as the last.
        delay_D: The delays in frames, not negative.
        frames: T, at most L.

    Returns:
        BxTxD.
    """
    last = values_BxLxD.shape[1] - 1
    whole_D = jnp.floor(delay_D)
    places_TxD = jnp.arange(frames)[:, None] + whole_D.astype(jnp.int32)
    take = lambda places_TxD: jnp.take_along_axis(values_BxLxD, jnp.minimum(places_TxD, last)[None], axis=1)
    share_D = delay_D - jax.lax.stop_gradient(whole_D)
    return take(places_TxD) * (1 - share_D) + take(places_TxD + 1) * share_D


def valid_at_delay(valid_BxL: Bool[Array, "B L"], delay_D: Float[Array, " D"], frames: int) -> Bool[Array, "B T D"]:
    """Where `at_delay` rests on labels that there are, all of them; beyond the last there is none."""
    places_TxD = jnp.arange(frames)[:, None] + jnp.floor(delay_D).astype(jnp.int32)
    padded_BxL = jnp.pad(valid_BxL, ((0, 0), (0, 1)))
    take = lambda places_TxD: padded_BxL[:, jnp.minimum(places_TxD, valid_BxL.shape[1])]
    return take(places_TxD) & (take(places_TxD + 1) | (delay_D == jnp.floor(delay_D)))


def search(
    train: Sequence[tuple[np.ndarray, np.ndarray]], dev: Sequence[tuple[np.ndarray, np.ndarray]], longest: int
) -> np.ndarray:
    """How well the labels at each delay can be read from the signals: a ridge regression, frame by frame.

    It is fitted on the training recordings and scored on the development ones. A network with a memory can also learn
    to wait, so its own score hardly tells the delay; a reading without memory does (our choice). All is taken relative
    to its mean over the recording, since a delay concerns what moves.

    Args:
        train: Inputs TxF and labels TxD of each recording; NaN in the inputs is what is not known.
        dev: The same.
        longest: The longest delay, in frames.

    Returns:
        Pearson correlation within the development recordings at delays 0 … longest, (longest + 1)xD float64; the best
        delays are its `argmax(0)`.

    Raises:
        ValueError: If a recording is no longer than the longest delay.
    """
    shortest = min(len(labels) for _, labels in [*train, *dev])
    if shortest <= longest + 1:
        raise ValueError(f"the shortest recording has {shortest} frames, too few for a delay of {longest} frames")
    prepared = [[(_even(inputs), labels) for inputs, labels in part] for part in (train, dev)]
    inputs_NxF = np.concatenate([inputs for inputs, _ in prepared[0]])
    scale_F = np.sqrt(np.mean(inputs_NxF**2, axis=0)) + 1e-6
    scaled_train, scaled_dev = [[(inputs / scale_F, labels) for inputs, labels in part] for part in prepared]
    # Of all frames, once: the few that a delay leaves out at the end hardly change it.
    covariance_FxF = (inputs_NxF / scale_F).T @ (inputs_NxF / scale_F) + RIDGE * len(inputs_NxF) * np.eye(len(scale_F))

    def correlation(delay: int) -> np.ndarray:
        x_NxF, y_NxD = _pairs(scaled_train, delay)
        weights_FxD = np.linalg.solve(covariance_FxF, x_NxF.T @ y_NxD)
        x_NxF, y_NxD = _pairs(scaled_dev, delay)
        read_NxD = x_NxF @ weights_FxD
        spread_D = np.sqrt((read_NxD**2).sum(0) * (y_NxD**2).sum(0))
        return np.divide((read_NxD * y_NxD).sum(0), spread_D, out=np.zeros_like(spread_D), where=spread_D > 0)

    return np.array([correlation(delay) for delay in range(longest + 1)])


def _even(inputs_TxF: np.ndarray) -> np.ndarray:
    """Without what is not known, and without jitter."""
    known = np.isfinite(inputs_TxF)
    mean_F = np.where(known, inputs_TxF, 0).sum(0) / np.maximum(known.sum(0), 1)
    return gaussian_filter1d(np.where(known, inputs_TxF - mean_F, 0.0), SMOOTHING_FRAMES, axis=0, mode="nearest")


def _pairs(recordings: Sequence[tuple[np.ndarray, np.ndarray]], delay: int) -> tuple[np.ndarray, np.ndarray]:
    """All frames' inputs NxF and their labels NxD at a delay, each relative to its mean over the recording."""
    centre = lambda values: values - values.mean(0)
    pairs = [(centre(x[: len(x) - delay]), centre(y[delay:].astype(np.float64))) for x, y in recordings]
    inputs, labels = zip(*pairs, strict=True)
    return np.concatenate(inputs), np.concatenate(labels)
