import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, root_mean_squared_error

from avemo.metrics import Confusion, Regression, TripletAccuracy, expression_confusions, merge


def test_confusion_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(100, 8)).astype(np.float32), rng.integers(0, 8, 100)
    confusion = Confusion.of(jnp.array(logits), jnp.array(labels), jnp.ones(100, bool))
    predicted = logits.argmax(1)
    np.testing.assert_array_equal(confusion.counts_KxK, confusion_matrix(labels, predicted, labels=range(8)))
    assert confusion.accuracy() == pytest.approx(accuracy_score(labels, predicted))
    assert confusion.macro_f1() == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_padding_counts_for_nothing():
    logits, labels = jnp.eye(8)[:3], jnp.array([0, 1, 5])
    mask = jnp.array([True, True, False])
    assert Confusion.of(logits, labels, mask).accuracy() == 1.0


def test_seven_classes_leave_contempt_out_of_truth_and_choice():
    logits = jnp.zeros((2, 8)).at[0, 7].set(2.0).at[0, 1].set(1.0).at[1, 7].set(1.0)
    confusions = expression_confusions(logits, jnp.array([1, 7]), jnp.ones(2, bool))
    assert confusions["confusion_8"].accuracy() == 0.5
    assert confusions["confusion_7"].counts_KxK.sum() == 1
    assert confusions["confusion_7"].accuracy() == 1.0


def ccc(x, y):
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize("cuts", [[], [1], [3, 40, 41, 90]])
def test_regression_is_exact_however_the_rows_are_batched(cuts):
    rng = np.random.default_rng(1)
    x = rng.normal(3.0, 0.1, (100, 2)).astype(np.float32)
    y = (0.5 * x + rng.normal(1.0, 0.1, (100, 2))).astype(np.float32)
    parts = [
        Regression.of(jnp.array(a), jnp.array(b), jnp.ones(len(a), bool))
        for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    x, y = x.astype(np.float64), y.astype(np.float64)
    np.testing.assert_allclose(total.ccc(), [ccc(x[:, i], y[:, i]) for i in range(2)], rtol=1e-4)
    np.testing.assert_allclose(total.pearson(), [pearsonr(x[:, i], y[:, i])[0] for i in range(2)], rtol=1e-4)
    np.testing.assert_allclose(total.rmse(), [root_mean_squared_error(y[:, i], x[:, i]) for i in range(2)], rtol=1e-5)


def test_sign_agreement_by_hand():
    x = jnp.array([[0.1], [-0.1], [0.5], [9.0]])
    y = jnp.array([[0.2], [0.2], [0.1], [-9.0]])
    assert Regression.of(x, y, jnp.array([True, True, True, False])).sagr()[0] == pytest.approx(2 / 3)


def test_masked_rows_may_hold_anything():
    x, y = jnp.array([[0.1], [0.4], [jnp.nan]]), jnp.array([[0.2], [0.5], [jnp.inf]])
    masked = Regression.of(x, y, jnp.array([True, True, False]))
    whole = Regression.of(x[:2], y[:2], jnp.ones(2, bool))
    jax.tree.map(np.testing.assert_array_equal, masked, whole)


def test_merging_nothing_changes_nothing():
    x, y = jnp.array([[0.1], [0.4]]), jnp.array([[0.2], [0.3]])
    some, none = (Regression.of(x, y, jnp.full(2, keep)) for keep in (True, False))
    np.testing.assert_allclose(merge(some, none).ccc(), some.ccc(), rtol=1e-6)
    np.testing.assert_allclose(merge(none, some).ccc(), some.ccc(), rtol=1e-6)
    assert none.ccc()[0] == 0.0


def test_triplet_accuracy_is_strict_and_by_kind():
    near, far = [1.0, 0.0], [-1.0, 0.0]
    embeddings = jnp.array([[near, near, far], [near, far, near], [near, near, near], [near, near, far]])
    metric = TripletAccuracy.of(embeddings, jnp.array([0, 1, 2, 2]), jnp.array([True, True, True, False]))
    assert metric.accuracy() == pytest.approx(1 / 3)
    assert metric.accuracy_by_kind() == {
        "ONE_CLASS_TRIPLET": 1.0,
        "TWO_CLASS_TRIPLET": 0.0,
        "THREE_CLASS_TRIPLET": 0.0,
    }
