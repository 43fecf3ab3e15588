"""What the readers yield: a face, a recording, or something that can't be used, with the reason."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Skip:
    """Something that a release lists and that can't be used.

    Attributes:
        key: Its name within its split.
        reason: Why; the same words for every such case, so that cases can be counted.
    """

    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class Face:
    """One face of one picture.

    Attributes:
        key: Name within its split.
        image: The picture file.
        box: (left, top, right, bottom) in pixels of the picture, not yet clipped to it; None where the picture is
            itself the crop.
        landmarks: float64, 5×2, x and y in pixels of the picture, in the order of `faces.FACE_TEMPLATE`; None where
            the release gives none that can be used.
        expression: Position in `avemo.labels.EXPRESSIONS`; None for a face without such a label.
        valence_arousal: (valence, arousal), each in [-1, 1]; None where either is missing.
        soft_label: Share of each expression, in the order of `avemo.labels.EXPRESSIONS`, where the release has it.
    """

    key: str
    image: Path
    box: tuple[float, float, float, float] | None = None
    landmarks: np.ndarray | None = None
    expression: int | None = None
    valence_arousal: tuple[float, float] | None = None
    soft_label: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """One annotated recording of one person.

    Attributes:
        name: Its name, unique among all splits.
        split: Where the partition puts it.
        video: The video file; None where there is none.
        audio: The sound file; None where there is none: the video's own sound serves then.
        raters: The raters' names, in the order of the ratings; empty where only a gold standard is released.
        ratings: float32, T×R×2: every rater's trace at 25 Hz, in the order of `avemo.labels.DIMENSIONS`.
        gold_standard: float32, T×2: the gold standard that comes with the release; None where none does.
        labels_dropped: Labels at the end that belong to no frame and were dropped.
    """

    name: str
    split: str
    video: Path | None
    audio: Path | None
    raters: tuple[str, ...]
    ratings: np.ndarray
    gold_standard: np.ndarray | None = None
    labels_dropped: int = 0
