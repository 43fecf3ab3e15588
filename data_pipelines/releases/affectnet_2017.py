"""AffectNet as released in 2017: CSV lists, whole pictures, a box and 68 landmarks for every face."""

import math
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.releases.affectnet_annotation import Annotation, Part, five_points, number
from data_pipelines.releases.csv_lists import csv_rows
from data_pipelines.releases.paths import folders, is_file, stays_inside

COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
"""Columns that a list must have; others may stand beside them."""

LOOKED_FOR = "training.csv in Manually_Annotated_file_lists"

_LISTS: dict[Part, str] = {
    "train": "training.csv",
    "validation": "validation.csv",
    "automatic": "automatically_annotated.csv",
}


def is_here(root: Path) -> bool:
    """Whether the release lies in that folder or in one of its folders."""
    return _find_list(root, "train") is not None


def check(root: Path, part: Part) -> None:
    """Raises DataError unless a part's list, its columns and the folder of its pictures are there."""
    path, _ = _list_and_images(root, part)
    _header(csv_rows(path), path)


def count(root: Path, part: Part) -> int:
    """The number of rows of a part's list."""
    path, _ = _list_and_images(root, part)
    return max(sum(1 for cells in csv_rows(path) if cells) - 1, 0)


def annotations(root: Path, part: Part, landmarks: bool) -> Iterator[Annotation]:
    """Reads a part's list.

    Args:
        root: The folder that the release was unpacked into.
        part: Which list.
        landmarks: Whether to read the landmarks.

    Yields:
        One annotation for every row, in the list's order. A backslash in a path separates folders (our choice).

    Raises:
        DataError: The list, a column or the folder of the pictures is missing, or the list is no CSV.
    """
    path, images = _list_and_images(root, part)
    rows = csv_rows(path)
    header = _header(rows, path)
    used = itemgetter(*map(header.index, COLUMNS))
    seen: set[str] = set()
    for cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            yield Annotation(cells[0], fault="row has not as many cells as the header")
            continue
        annotation = _annotation(used(cells), images, landmarks, seen)
        seen.add(annotation.key)
        yield annotation


def _annotation(cells: tuple[str, ...], images: Path, landmarks: bool, seen: set[str]) -> Annotation:
    key, left, top, width, height, points, expression, valence, arousal = cells
    box, fault = _box(number(left), number(top), number(width), number(height))
    image = None
    if not stays_inside(key):
        fault = "path leaves the source folder"
    elif key in seen:
        fault = "listed twice"
    else:
        image = images / key.replace("\\", "/")
    return Annotation(
        key=key,
        image=image if image and is_file(image) else None,
        box=box,
        expression=number(expression),
        valence=number(valence),
        arousal=number(arousal),
        landmarks=five_points(points.split(";")) if landmarks else None,
        fault=fault,
    )


def _box(
    left: float, top: float, width: float, height: float
) -> tuple[tuple[float, float, float, float] | None, str | None]:
    """The box or what is the matter with it."""
    right, bottom = left + width, top + height
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return None, "box is not four numbers"
    if width <= 0 or height <= 0:
        return None, "box has no area"
    return (left, top, right, bottom), None


def _list_and_images(root: Path, part: Part) -> tuple[Path, Path]:
    """A part's list and the folder of its pictures."""
    manner = "Automatically" if part == "automatic" else "Manually"
    path = _find_list(root, part)
    if path is None:
        raise DataError(f"{root}: no {_LISTS[part]} found in {manner}_Annotated_file_lists; is it unpacked?")
    name = f"{manner}_Annotated_Images"
    for folder in folders(root):
        if _singular(folder) == name.lower().removesuffix("s"):
            return path, folder
    raise DataError(f"{root}: no folder {name} found; are its archives unpacked?")


def _find_list(root: Path, part: Part) -> Path | None:
    """A part's list: the name of its folder differs between copies."""
    for folder in folders(root):
        path = folder / _LISTS[part]
        if is_file(path) and _singular(folder).startswith("automatic") == (part == "automatic"):
            return path
    return None


def _singular(folder: Path) -> str:
    return folder.name.lower().removesuffix("s")


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    """The names in the first row, of which some copies begin with `#`."""
    header = next(rows, [])
    if header:
        header[0] = header[0].removeprefix("#").strip()
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path}: column {', '.join(missing)} is missing; the file has {', '.join(header) or 'none'}")
    return header
