"""What classifiers are worth on labelled faces: accuracy with intervals, calibration, and how arms differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

from avemo.labels import EXPRESSIONS
from avemo.metrics import calibration_error
from data_pipelines import loaders
from data_pipelines.loaders import FaceSet
from launch.benchmarks.classifiers import Classifier

BATCH_SIZE = 128
LEVEL = 0.95
RESAMPLES = 10_000
CONTEMPT = EXPRESSIONS.index("contempt")


class Predictions(NamedTuple):
    """What a classifier says of faces.

    Attributes:
        probabilities: float64 N×8, in the order of `avemo.labels.EXPRESSIONS`; -1 for classes that it doesn't know.
        labels: int N.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    def of_seven(self) -> "Predictions":
        """Without contempt: its faces left out, and never chosen; the other probabilities add up to one again."""
        kept = self.labels != CONTEMPT
        probabilities = self.probabilities[kept].copy()
        if self.knows(8):
            probabilities[:, CONTEMPT] = 0
            rest = probabilities.sum(axis=1, keepdims=True)  # nothing, where contempt was certain
            probabilities = np.where(rest > 0, probabilities / np.where(rest > 0, rest, 1), 1 / 7)
        probabilities[:, CONTEMPT] = -1
        return Predictions(probabilities, self.labels[kept])

    def knows(self, classes: int) -> bool:
        """Whether it tells so many classes, 8 or 7."""
        known = self.probabilities.max(axis=0, initial=-1) >= 0
        known[CONTEMPT] |= classes == 7
        return bool(known.all())

    def right(self) -> np.ndarray:
        """1.0 for each face whose label is the most probable class, else 0.0."""
        return (self.probabilities.argmax(axis=1) == self.labels).astype(np.float64)


def predict(classifiers: Mapping[str, Classifier], data: Path, faces: FaceSet) -> dict[str, Predictions]:
    """What each says of the same faces: all of the validation split that have an expression."""
    built = {name: each.build(BATCH_SIZE, None) for name, each in classifiers.items()}
    said: dict[str, list[np.ndarray]] = {name: [] for name in classifiers}
    labels = []
    batches = loaders.face_eval_batches(data, batch_size=BATCH_SIZE, name=faces)
    for batch in tqdm(batches, desc=f"score {len(classifiers)} networks on {faces}", unit="batch"):
        kept = batch["valid"] & batch["expression_valid"]
        labels.append(batch["expression"][kept])
        for name, each in classifiers.items():
            said[name].append(built[name].probabilities(each.prepare(batch["image"]))[kept])
    label_N = np.concatenate(labels)
    found = {}
    for name, each in classifiers.items():
        probabilities = np.full((len(label_N), len(EXPRESSIONS)), -1.0)
        probabilities[:, each.classes] = np.concatenate(said[name])
        found[name] = Predictions(probabilities, label_N)
    return found


def figures(predictions: Predictions) -> dict[str, Any]:
    """Accuracy with its interval for 8 and for 7 classes, calibration, and each class alone.

    Returns:
        "accuracy_8", "interval_8", "calibration_error_8", and the same for 7, where the classifier knows these
        classes; "classes", for each expression its number of faces, recall and precision, over 8 classes if it knows
        them.
    """
    found: dict[str, Any] = {}
    for classes, part in ((8, predictions), (7, predictions.of_seven())):
        if part.knows(classes):
            right = part.right()
            found |= {
                f"accuracy_{classes}": right.mean(),
                f"interval_{classes}": interval_over_faces(right),
                f"calibration_error_{classes}": calibration_error(part.probabilities.max(axis=1), right),
            }
    scored = predictions if predictions.knows(8) else predictions.of_seven()
    chosen = scored.probabilities.argmax(axis=1)
    found["classes"] = {
        expression: {
            "faces": int((scored.labels == code).sum()),
            "recall": _share(chosen[scored.labels == code] == code),
            "precision": _share(scored.labels[chosen == code] == code),
        }
        for code, expression in enumerate(EXPRESSIONS)
    }
    return found


def interval_over_faces(values: np.ndarray) -> tuple[float, float]:
    """Where the mean over other faces of this kind would lie: bootstrap over faces (percentiles)."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile", batch=100, rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean over other seeds would lie, by Student's t; nothing for a single seed."""
    if len(values) < 2:
        return None
    spread = stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
    return float(np.mean(values) - spread), float(np.mean(values) + spread)


def difference(ours: Sequence[Predictions], against: Sequence[Predictions]) -> dict[str, Any]:
    """How much more accurate some trainings are than others with the same seeds, on the same faces, 8 classes.

    Returns:
        "seeds", the difference for each; "mean"; "interval_over_seeds", which asks how other seeds would do;
        "interval_over_faces", which asks how these trainings would do on other faces.
    """
    gained = np.array([mine.right() - other.right() for mine, other in zip(ours, against, strict=True)])
    by_seed = gained.mean(axis=1).tolist()
    return {
        "seeds": by_seed,
        "mean": float(np.mean(by_seed)),
        "interval_over_seeds": interval_over_seeds(by_seed),
        "interval_over_faces": interval_over_faces(gained.mean(axis=0)),
    }


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if len(hits) else None
