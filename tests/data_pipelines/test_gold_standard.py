"""Gold standards by hand, and what they do with raters who agree, contradict each other or are missing."""

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.gold_standard import (
    avec_gold_standard,
    evaluator_weighted_estimator,
    gold_standard,
    pairwise_ccc,
)


def test_ccc_by_hand() -> None:
    # means 1, 2; variances 2/3, 2/3; covariance 2/3: 2 · 2/3 / (4/3 + 1) = 4/7
    np.testing.assert_allclose(pairwise_ccc(np.array([[0.0, 1], [1, 2], [2, 3]])), [[1, 4 / 7], [4 / 7, 1]])


def test_avec_gold_standard_by_hand() -> None:
    # Raters x, x + 1, -x with x = (0, 1, 2): CCCs 4/7 (1, 2), and with means m = (1, 2, -1):
    # (1, 3): -4/3 / (4/3 + 4) = -1/4; (2, 3): -4/3 / (4/3 + 9) = -4/31
    x = np.array([0.0, 1, 2])
    w = np.array([4 / 7 - 1 / 4, 4 / 7 - 4 / 31, -1 / 4 - 4 / 31]) / 2
    m = np.array([1.0, 2, -1])
    expected = (x + x + 1 - x) / 3 - m.mean() + (m * w).sum() / w.sum()
    np.testing.assert_allclose(avec_gold_standard(np.stack([x, x + 1, -x], axis=1)), expected)


def test_ewe_by_hand() -> None:
    # Raters (0, 1, 2), (0, 2, 1), (1, 1, 1). Mean of all: (1, 4, 4) / 3, deviations (-2, 1, 1) / 3, norm √6 / 3.
    # First rater: deviations (-1, 0, 1), norm √2: r = (2 + 1) / 3 / (√2 · √6 / 3) = 3 / √12 = √3 / 2.
    # Second: (-1, 1, 0), the same r. Third: constant, so 0. Weights are equal: the mean of the first two.
    traces = np.array([[0.0, 0, 1], [1, 2, 1], [2, 1, 1]])
    np.testing.assert_allclose(evaluator_weighted_estimator(traces), [0, 1.5, 1.5])


def test_ewe_with_unequal_weights_by_hand() -> None:
    # Raters a = (0, 1, 2), b = (0, 3, 0), c = (2, 2, 2) - a = (2, 1, 0). Mean of all: (2, 5, 2) / 3, deviations
    # (-1, 2, -1) / 3. a: (-1, 0, 1) gives r = 0; so does c; b: (-1, 2, -1) gives r = 1. Only b counts.
    np.testing.assert_allclose(evaluator_weighted_estimator(np.array([[0.0, 0, 2], [1, 3, 1], [2, 0, 0]])), [0, 3, 0])
    # a twice and -a: mean a / 3; r = 1, 1, -1, the last counts as 0.
    x = np.array([0.0, 1, 2])
    np.testing.assert_allclose(evaluator_weighted_estimator(np.stack([x, x, -x], axis=1)), x)


@pytest.mark.parametrize("kind", ["mean", "avec", "ewe"])
def test_agreeing_raters_give_their_mean(kind) -> None:
    ratings = np.random.default_rng(0).uniform(-1, 1, (50, 1, 2)).repeat(6, axis=1)
    labels = gold_standard(ratings, kind)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels, ratings[:, 0], atol=1e-6)


@pytest.mark.parametrize("formula", [avec_gold_standard, evaluator_weighted_estimator])
def test_contradicting_raters_fall_back_to_the_mean(formula) -> None:
    traces = np.stack([np.arange(5.0), -np.arange(5.0)], axis=1)
    np.testing.assert_allclose(formula(traces), 0, atol=1e-12)
    np.testing.assert_allclose(formula(np.tile([0.1, 0.2, 0.6], (5, 1))), 0.3)


def test_the_order_of_raters_doesnt_matter() -> None:
    traces = np.random.default_rng(1).uniform(-1, 1, (40, 6))
    for formula in (avec_gold_standard, evaluator_weighted_estimator):
        np.testing.assert_allclose(formula(traces), formula(traces[:, ::-1]))


def test_released_is_taken_as_it_is() -> None:
    released = np.random.default_rng(2).uniform(-1, 1, (5, 2)).astype(np.float32)
    np.testing.assert_array_equal(gold_standard(np.zeros((5, 0, 2)), "released", released), released)
    np.testing.assert_array_equal(gold_standard(np.zeros((5, 3, 2)), "mean", released), 0)


@pytest.mark.parametrize(
    ("kind", "raters", "released", "message"),
    [
        ("released", 6, None, "no gold standard of its own; choose mean, avec or ewe"),
        ("mean", 0, np.zeros((5, 2)), "mean needs the traces of raters, here are 0; choose released"),
        ("ewe", 0, np.zeros((5, 2)), "ewe needs the traces of raters, here are 0; choose released"),
        ("avec", 0, np.zeros((5, 2)), "avec needs at least two raters, here are 0; choose released"),
        ("avec", 1, None, "avec needs at least two raters, here are 1; choose mean"),
    ],
)
def test_what_cant_be_had_is_told(kind, raters: int, released, message: str) -> None:
    with pytest.raises(DataError, match=message):
        gold_standard(np.zeros((5, raters, 2)), kind, released)
