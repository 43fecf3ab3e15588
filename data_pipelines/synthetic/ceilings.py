"""Scores of an observer who knows the truth, against noisy labels: about what the best model can reach.

A model can exceed them by chance, the more easily the smaller the test set, and by learning the labels' own habits.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from avemo.labels import EXPRESSIONS, EXPRESSIONS_7


def ccc(predicted: np.ndarray, labelled: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989) of two series, with population moments."""
    covariance = np.mean((predicted - predicted.mean()) * (labelled - labelled.mean()))
    spread = predicted.var() + labelled.var() + (predicted.mean() - labelled.mean()) ** 2
    return float(2 * covariance / spread)


def expression_ceiling(true: np.ndarray, labelled: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of the true classes against the labelled ones.

    Args:
        true: Codes 0 to 7, shape (N,).
        labelled: Codes 0 to 7, shape (N,).

    Returns:
        `accuracy_8`, `macro_f1_8`, `accuracy_7`, `macro_f1_7`; the latter without those labelled contempt.
    """
    seven = labelled < len(EXPRESSIONS_7)
    scores = {}
    for count, rows in ((len(EXPRESSIONS), np.ones_like(seven)), (len(EXPRESSIONS_7), seven)):
        scores[f"accuracy_{count}"] = float(accuracy_score(labelled[rows], true[rows]))
        scores[f"macro_f1_{count}"] = float(
            f1_score(labelled[rows], true[rows], labels=list(range(count)), average="macro", zero_division=0.0)
        )
    return scores


def recording_ceiling(predicted: Sequence[np.ndarray], labelled: Sequence[np.ndarray]) -> dict[str, float]:
    """CCC of one series per recording against its gold standard.

    Returns:
        `ccc_concatenated` over all recordings as one, and `ccc_per_file`, the mean of the recordings' own.
    """
    return {
        "ccc_concatenated": ccc(np.concatenate(predicted), np.concatenate(labelled)),
        "ccc_per_file": float(np.mean([ccc(p, g) for p, g in zip(predicted, labelled, strict=True)])),
    }
