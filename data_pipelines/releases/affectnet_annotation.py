"""What all forms of AffectNet say about a picture, and how their numbers and landmarks are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.releases.paths import file_names, folders, holds

Part = Literal["train", "validation", "automatic"]
"""Parts of a release, as they lie on disk."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What a release says about one picture, before anybody asked whether it makes sense.

    Attributes:
        key: Name within its part.
        image: The picture file; None where there is none.
        box: (left, top, right, bottom) in pixels of the picture; None where the picture is itself the crop.
        expression: The release's code; NaN where it is no number.
        valence: As released; NaN where it is no number.
        arousal: As released; NaN where it is no number.
        landmarks: See `five_points`.
        soft_label: Share of each expression, where the release has it.
        fault: Why it can't be used, if that is known already.
    """

    key: str
    image: Path | None = None
    box: tuple[float, float, float, float] | None = None
    expression: float = float("nan")
    valence: float = float("nan")
    arousal: float = float("nan")
    landmarks: np.ndarray | None = None
    soft_label: tuple[float, ...] | None = None
    fault: str | None = None


class UnreadableError(Exception):
    """An annotation file can't be read; says why in the words of a `Skip`."""


_FIVE_OF_68 = np.zeros((5, 68))
_FIVE_OF_68[0, 36:42] = _FIVE_OF_68[1, 42:48] = 1 / 6
_FIVE_OF_68[[2, 3, 4], [30, 48, 54]] = 1


def number(value: Any) -> float:
    """A cell or a JSON value as a number; NaN where it is none, such as NULL."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
    except OverflowError:  # A whole number too large for a float.
        return float("inf")


def five_points(values: Any) -> np.ndarray | None:
    """The five landmarks that faces are aligned by, out of the 68 that AffectNet comes with.

    The 68 are numbered as by iBUG (Sagonas et al. 2013), from 0: an eye is the mean of its six points (36 to 41, 42
    to 47), the nose tip is 30, the corners of the mouth are 48 and 54.

    Args:
        values: 136 numbers or texts of numbers, x and y in turn, or 68 pairs of them.

    Returns:
        float64, 5×2, in the order of `faces.FACE_TEMPLATE`; None where the values are no such landmarks, or where
        these five span less than a pixel or lie more than 100,000 pixels away (our choice: no face is aligned by them).
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            points = np.array(values, np.float64).reshape(68, 2)
            five = _FIVE_OF_68 @ points
            usable = np.abs(five).max() <= 100_000 and np.ptp(five, axis=0).max() >= 1
    except (TypeError, ValueError, OverflowError):
        return None
    return five if usable else None


def find_part(root: Path, name: str, ending: str) -> tuple[Path, Path] | None:
    """A folder of that name with pictures and annotations (2021 and AffectNet+): its folders images and annotations.

    Args:
        root: Where to look; two folders deeper, too.
        name: The folder's name, such as train_set.
        ending: With which an annotation's name ends: it tells the forms apart.
    """
    for folder in folders(root):
        images, annotations = folder / name / "images", folder / name / "annotations"
        if images.is_dir() and holds(annotations, ending):
            return images, annotations
    return None


def images_and_annotations(root: Path, name: str, ending: str) -> tuple[Path, Path]:
    """As `find_part`, but raises DataError where there is no such folder."""
    found = find_part(root, name, ending)
    if found is None:
        raise DataError(
            f"{root}: no {name}/images with {name}/annotations/*{ending} found; is the release unpacked completely?"
        )
    return found


def read_small_file(path: Path, largest_bytes: int) -> bytes:
    """The content of a file; raises `UnreadableError` where it is absent, can't be read or is larger."""
    try:
        with path.open("rb") as handle:
            data = handle.read(largest_bytes + 1)
    except FileNotFoundError as error:
        raise UnreadableError("annotation absent") from error
    except OSError as error:
        raise UnreadableError("annotation unreadable") from error
    if len(data) > largest_bytes:
        raise UnreadableError("annotation unreadable")
    return data


def pictures_by_id(images: Path, annotated: set[str]) -> list[tuple[str, str | None]]:
    """Everything that has a picture or an annotation, in the order of the ids.

    Args:
        images: The folder of the pictures.
        annotated: The ids that have annotations.

    Returns:
        The ids and their pictures' names, None where there is no picture. A second picture of one id comes under its
        full name.
    """
    names: dict[str, str] = {}
    for name in sorted(file_names(images)):
        key = Path(name).stem
        names[name if key in names else key] = name
    return [(key, names.get(key)) for key in sorted(names.keys() | annotated, key=lambda key: (len(key), key))]
