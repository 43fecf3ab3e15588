"""AffectNet as released: the 2017 form (CSV lists, whole pictures) and the 2021 form (224×224 crops, .npy labels).

Everything that a release lists comes out of `read_split` exactly once, either as a `Face` or as a `Skip` with
its reason. Nothing is decoded here: whether a file really is a picture is found out by whoever decodes it.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows

Release = Literal["2017", "2021"]
Split = Literal["train", "validation"]

SPLITS: tuple[Split, ...] = ("train", "validation")
"""The official validation set serves as the test set: its test labels were never public."""

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
"""Columns that a list of the 2017 release must have."""

UNUSED_EXPRESSIONS = {8: "expression none", 9: "expression uncertain", 10: "expression non-face"}
"""Codes that name no expression, and the reason under which their rows are counted as skipped."""

_LISTS_2017: dict[Split, str] = {"train": "training.csv", "validation": "validation.csv"}
_FOLDERS_2021: dict[Split, str] = {"train": "train_set", "validation": "val_set"}
_MISSING = -2.0


@dataclass(frozen=True, eq=False)
class Face:
    """One labelled face.

    Attributes:
        key: Name within its split: the path in the CSV list (2017) or the image's id (2021).
        image: The picture file.
        box: (left, top, right, bottom) in pixels of the picture, not yet clipped to it; None where the
            picture is itself the crop (2021).
        expression: Code 0 to 7, in the order of `avemo.labels.EXPRESSIONS`.
        valence_arousal: (valence, arousal), each in [-1, 1]; None where either is -2, blank or NaN.
    """

    key: str
    image: Path
    box: tuple[float, float, float, float] | None
    expression: int
    valence_arousal: tuple[float, float] | None


@dataclass(frozen=True)
class Skip:
    """Something that the release lists and that can't be used, with the reason."""

    key: str
    reason: str


def detect_release(root: Path) -> Release:
    """Tells the form of a release by looking at its folder.

    Args:
        root: The folder that the release was unpacked into.

    Returns:
        "2017" or "2021".

    Raises:
        DataError: The folder is absent, is neither release (AffectNet+ isn't), or holds both.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that AffectNet was unpacked into")
    found: list[Release] = []
    if _find_lists(root) is not None:
        found.append("2017")
    if _find_crops(root) is not None:
        found.append("2021")
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: holds both the 2017 and the 2021 release; say which one with the release setting")
    raise _unknown_form(root)


def check_source(root: Path, release: Release) -> None:
    """Raises DataError unless both splits are there: folders, lists and their columns."""
    for split in SPLITS:
        if release == "2017":
            path, _ = _list_and_images(root, split)
            _header(csv_rows(path), path)
        else:
            _images_and_annotations(root, split)


def read_split(root: Path, release: Release, split: Split) -> Iterator[Face | Skip]:
    """Reads one split of a release, in the order of its list (2017) or of its ids (2021).

    Args:
        root: The folder that the release was unpacked into.
        release: The release's form, see `detect_release`.
        split: "train" or "validation".

    Yields:
        A `Face` or a `Skip` for every row of the list (2017), or for every id that has an image or an
        annotation (2021).

    Raises:
        DataError: A folder, a list or a column of the release is missing, or a list is no CSV.
    """
    return _read_2017(root, split) if release == "2017" else _read_2021(root, split)


def _read_2017(root: Path, split: Split) -> Iterator[Face | Skip]:
    path, images = _list_and_images(root, split)
    seen: set[str] = set()
    for row in _rows(path):
        face = _face_2017(row, images)
        yield Skip(face.key, "listed twice") if face.key in seen else face
        seen.add(face.key)


def _list_and_images(root: Path, split: Split) -> tuple[Path, Path]:
    """A split's list and the folder of all pictures (2017)."""
    lists, images = _find_lists(root), _find_folder(root, "manually_annotated_image")
    if lists is None or not (lists / _LISTS_2017[split]).is_file():
        raise DataError(f"{root}: no {_LISTS_2017[split]} found in Manually_Annotated_file_lists; is it unpacked?")
    if images is None:
        raise DataError(f"{root}: no folder Manually_Annotated_Images found; are its archives unpacked?")
    return lists / _LISTS_2017[split], images


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV list as dictionaries; cells that a short row lacks are empty."""
    rows = csv_rows(path)
    header = _header(rows, path)
    for cells in rows:
        if cells:
            yield dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    """The names in the first row; raises DataError where a column is missing."""
    header = next(rows, [])
    if header:
        header[0] = header[0].removeprefix("#").strip()
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path}: column {', '.join(missing)} is missing; the file has {', '.join(header) or 'none'}")
    return header


def _face_2017(row: dict[str, str], images: Path) -> Face | Skip:
    key = row["subDirectory_filePath"]
    if not _stays_inside(key):
        return Skip(key, "path leaves the source folder")
    expression = _number(row["expression"])
    if expression in UNUSED_EXPRESSIONS:
        return Skip(key, UNUSED_EXPRESSIONS[int(expression)])
    if expression not in range(8):
        return Skip(key, "expression code unknown")
    left, top, width, height = (_number(row[name]) for name in COLUMNS[1:5])
    if not np.isfinite([left, top, width, height]).all():
        return Skip(key, "box is not four numbers")
    if width <= 0 or height <= 0:
        return Skip(key, "box has no area")
    valence_arousal = _valence_arousal(row["valence"], row["arousal"])
    if isinstance(valence_arousal, str):
        return Skip(key, valence_arousal)
    image = images / key
    if not _is_file(image):
        return Skip(key, "listed but absent")
    return Face(
        key=key,
        image=image,
        box=(left, top, left + width, top + height),
        expression=int(expression),
        valence_arousal=valence_arousal,
    )


def _read_2021(root: Path, split: Split) -> Iterator[Face | Skip]:
    images, annotations = _images_and_annotations(root, split)
    pictures = {path.stem: path for path in sorted(images.iterdir()) if path.is_file()}
    labelled = {path.stem.rsplit("_", 1)[0] for path in annotations.glob("*_*.npy")}
    for key in sorted(pictures.keys() | labelled, key=lambda key: (len(key), key)):
        yield _face_2021(key, pictures.get(key), annotations)


def _images_and_annotations(root: Path, split: Split) -> tuple[Path, Path]:
    """A split's folders (2021)."""
    crops = _find_crops(root)
    if crops is None:
        raise _unknown_form(root)
    images, annotations = (crops / _FOLDERS_2021[split] / name for name in ("images", "annotations"))
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; is the 2021 release unpacked completely?")
    if not _holds(annotations, "_exp.npy"):
        raise DataError(f"{annotations}: no annotations (*_exp.npy) here; is the 2021 release unpacked completely?")
    return images, annotations


def _face_2021(key: str, image: Path | None, annotations: Path) -> Face | Skip:
    if image is None:
        return Skip(key, "listed but absent")
    try:
        expression = _scalar(annotations / f"{key}_exp.npy")
        valence, arousal = _scalar(annotations / f"{key}_val.npy"), _scalar(annotations / f"{key}_aro.npy")
    except FileNotFoundError:
        return Skip(key, "annotation absent")
    except Exception:  # A broken header makes numpy raise almost anything.
        return Skip(key, "annotation unreadable")
    if _number(expression) in UNUSED_EXPRESSIONS:
        return Skip(key, UNUSED_EXPRESSIONS[int(_number(expression))])
    if _number(expression) not in range(8):
        return Skip(key, "expression code unknown")
    valence_arousal = _valence_arousal(valence, arousal)
    if isinstance(valence_arousal, str):
        return Skip(key, valence_arousal)
    return Face(key, image, None, int(_number(expression)), valence_arousal)


def _scalar(path: Path) -> str:
    """The one value of a .npy file, a number or a string, as text; pickled objects are refused (ValueError)."""
    with path.open("rb") as handle:
        value = np.lib.format.read_array(handle, allow_pickle=False).item()
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(text: str) -> float:
    """The number that a cell holds; NaN where it holds none, such as NULL."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _valence_arousal(valence: str, arousal: str) -> tuple[float, float] | str | None:
    """The pair, None where either is missing (-2 or no number), or the reason why it can't be used."""
    pair = _number(valence), _number(arousal)
    if _MISSING in pair or any(map(math.isnan, pair)):
        return None
    if not all(-1 <= value <= 1 for value in pair):
        return "valence or arousal outside [-1, 1]"
    return pair


def _is_file(path: Path) -> bool:
    """Whether there is such a file; no file has a name that the system refuses."""
    try:
        return path.is_file()
    except OSError:
        return False


def _stays_inside(path: str) -> bool:
    """Whether a relative path from a data file stays below the folder it is joined to."""
    depth = 0
    for part in PurePosixPath(path).parts:
        depth += -1 if part == ".." else 1
        if depth < 1 or part == "/":
            return False
    return depth > 0 and "\0" not in path


def _find_lists(root: Path) -> Path | None:
    """The folder with the lists of the manually annotated part; its name differs between copies."""
    for folder in _folders(root):
        if (folder / "training.csv").is_file() and not folder.name.lower().startswith("automatic"):
            return folder
    return None


def _find_crops(root: Path) -> Path | None:
    """The folder that holds train_set and val_set, annotated in the 2021 form."""
    return _find_train_set(root, "_exp.npy")


def _find_train_set(root: Path, ending: str) -> Path | None:
    """The folder that holds a train_set with pictures and with annotations of that ending."""
    for folder in _folders(root):
        train_set = folder / "train_set"
        if (train_set / "images").is_dir() and _holds(train_set / "annotations", ending):
            return folder
    return None


def _holds(folder: Path, ending: str) -> bool:
    """Whether a folder has a file with that ending; doesn't list it to its end, as it may hold a million."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(ending) for entry in entries)


def _unknown_form(root: Path) -> DataError:
    """The error that says which forms are read."""
    if _find_train_set(root, ".json") is not None:
        return DataError(f"{root}: this is AffectNet+, a form that isn't supported yet; give the 2017 or 2021 release")
    return DataError(
        f"{root}: no AffectNet release here; looked for training.csv in Manually_Annotated_file_lists (2017) "
        "and for train_set/images with train_set/annotations/*_exp.npy (2021)"
    )


def _find_folder(root: Path, name: str) -> Path | None:
    """The folder of that name, whatever its case and whether singular or plural."""
    return next((folder for folder in _folders(root) if folder.name.lower().removesuffix("s") == name), None)


def _folders(root: Path) -> Iterator[Path]:
    """The root, its folders, and theirs, in a fixed order."""
    children = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    yield root
    yield from children
    for child in children:
        # The pictures' own folder holds a thousand folders of pictures and nothing to look for.
        if not child.name.lower().removesuffix("s").endswith("image"):
            yield from sorted(path for path in child.iterdir() if path.is_dir())
