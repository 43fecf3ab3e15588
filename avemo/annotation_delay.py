"""Raters react late: labels lag what they describe by seconds. How to take labels at a delay, and how to find it.

A delay is in frames of 40 ms and may be a fraction; valence and arousal each have their own.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.ndimage import gaussian_filter1d

SMOOTHING_FRAMES = 10.0
"""Standard deviation, in frames, of what evens out the inputs of `search`; symmetric, so that it moves nothing."""

Recordings = Sequence[tuple[np.ndarray, np.ndarray]]
"""Inputs TxF and labels TxD of each."""

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


def search(train: Recordings, dev: Recordings, longest: int) -> np.ndarray:
    """How well the labels at each delay can be read from the signals: a ridge regression, frame by frame.

    It is fitted on the training recordings and scored on the development ones, and the other way round, since one
    recording tells the delay to a few frames only. A network with a memory can also learn to wait, so its own score
    hardly tells the delay; a reading without memory does (our choice). All is taken relative to its mean over the
    recording, since a delay concerns what moves.

    Args:
        train: Inputs TxF and labels TxD of each recording; NaN in the inputs is what is not known.
        dev: The same.
        longest: The longest delay, in frames.

    Returns:
        Pearson correlation within the recordings at delays 0 … longest, the mean of both ways, (longest + 1)xD float64;
        the best delays are its `argmax(0)`.

    Raises:
        ValueError: If a recording is no longer than the longest delay.
    """
    shortest = min(len(labels) for _, labels in [*train, *dev])
    if shortest <= longest + 1:
        raise ValueError(f"the shortest recording has {shortest} frames, too few for a delay of {longest} frames")
    train, dev = [[(_even(inputs), labels) for inputs, labels in part] for part in (train, dev)]
    return (_read(train, dev, longest) + _read(dev, train, longest)) / 2


def _read(fitted: Recordings, scored: Recordings, longest: int) -> np.ndarray:
    """Pearson correlation at each delay of what is read by a regression that was fitted on other recordings."""
    inputs_NxF = np.concatenate([inputs for inputs, _ in fitted])
    scale_F = np.sqrt(np.mean(inputs_NxF**2, axis=0)) + 1e-6
    fitted, scored = [[(inputs / scale_F, labels) for inputs, labels in part] for part in (fitted, scored)]
    # Of all frames, once: the few that a delay leaves out at the end hardly change it.
    covariance_FxF = (inputs_NxF / scale_F).T @ (inputs_NxF / scale_F) + RIDGE * len(inputs_NxF) * np.eye(len(scale_F))

    def correlation(delay: int) -> np.ndarray:
        weights_FxD = np.linalg.solve(covariance_FxF, sum(x.T @ y for x, y in _pairs(fitted, delay)))
        pairs = [(_centred(x @ weights_FxD), y) for x, y in _pairs(scored, delay)]
        read_NxD, noted_NxD = (np.concatenate(part) for part in zip(*pairs, strict=True))
        spread_D = np.sqrt((read_NxD**2).sum(0) * (noted_NxD**2).sum(0))
        return np.divide((read_NxD * noted_NxD).sum(0), spread_D, out=np.zeros_like(spread_D), where=spread_D > 0)

    return np.array([correlation(delay) for delay in range(longest + 1)])


def _centred(values_TxD: np.ndarray) -> np.ndarray:
    return values_TxD - values_TxD.mean(0)


def _even(inputs_TxF: np.ndarray) -> np.ndarray:
    """Without what is not known, and without jitter."""
    known = np.isfinite(inputs_TxF)
    mean_F = np.where(known, inputs_TxF, 0).sum(0) / np.maximum(known.sum(0), 1)
    return gaussian_filter1d(np.where(known, inputs_TxF - mean_F, 0.0), SMOOTHING_FRAMES, axis=0, mode="nearest")


def _pairs(recordings: Recordings, delay: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each recording's inputs, and its labels at a delay relative to their mean: products need no more than that."""
    for inputs_TxF, labels_TxD in recordings:
        yield inputs_TxF[: len(inputs_TxF) - delay], _centred(labels_TxD[delay:].astype(np.float64))
