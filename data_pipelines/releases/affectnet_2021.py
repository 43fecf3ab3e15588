"""AffectNet as released in 2021: crops of 224×224 pixels, and a small .npy file for every number."""

import io
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.releases.affectnet_annotation import (
    Annotation,
    Part,
    UnreadableError,
    find_part,
    five_points,
    images_and_annotations,
    number,
    pictures_by_id,
    read_small_file,
)
from data_pipelines.releases.paths import file_names

LOOKED_FOR = "train_set/images with train_set/annotations/*_exp.npy"

_FOLDERS: dict[Part, str] = {"train": "train_set", "validation": "val_set"}
_ENDING = "_exp.npy"
_LARGEST_BYTES = 1 << 16
_NUMBERS_AND_TEXTS = "iufSU"


def is_here(root: Path) -> bool:
    """Whether the release lies in that folder or not far below it."""
    return find_part(root, _FOLDERS["train"], _ENDING) is not None


def check(root: Path, part: Part) -> None:
    """Raises DataError unless a part's pictures and annotations are there."""
    _locate(root, part)


def count(root: Path, part: Part) -> int:
    """The number of ids in a part."""
    return len(_pictures(*_locate(root, part)))


def annotations(root: Path, part: Part, landmarks: bool) -> Iterator[Annotation]:
    """Reads a part of the release.

    Args:
        root: The folder that the release was unpacked into.
        part: "train" or "validation".
        landmarks: Whether to read the landmarks: one more file for every picture.

    Yields:
        One annotation for every id that has a picture or an annotation, in the order of the ids.

    Raises:
        DataError: A folder is missing, or the part is "automatic", which this release doesn't have.
    """
    images, folder = _locate(root, part)
    for key, name in _pictures(images, folder):
        yield _annotation(key, images / name if name else None, folder, landmarks)


def _locate(root: Path, part: Part) -> tuple[Path, Path]:
    if part == "automatic":
        raise DataError(f"{root}: the 2021 release has no automatically annotated part; leave that split out")
    return images_and_annotations(root, _FOLDERS[part], _ENDING)


def _pictures(images: Path, folder: Path) -> list[tuple[str, str | None]]:
    annotated = {name.rsplit("_", 1)[0] for name in file_names(folder) if "_" in name and name.endswith(".npy")}
    return pictures_by_id(images, annotated)


def _annotation(key: str, image: Path | None, folder: Path, landmarks: bool) -> Annotation:
    try:
        expression, valence, arousal = (_value(folder / f"{key}_{name}.npy") for name in ("exp", "val", "aro"))
    except UnreadableError as error:
        return Annotation(key, image, fault=str(error))
    points = _landmarks(folder / f"{key}_lnd.npy") if landmarks else None
    return Annotation(key, image, expression=expression, valence=valence, arousal=arousal, landmarks=points)


def _landmarks(path: Path) -> np.ndarray | None:
    try:
        return five_points(_values(path))
    except UnreadableError:
        return None


def _value(path: Path) -> float:
    """The one value of a file."""
    values = _values(path)
    if len(values) != 1:
        raise UnreadableError("annotation unreadable")
    return number(values[0])


def _values(path: Path) -> list[Any]:
    """The numbers or texts of a .npy file; its header is believed only as far as the file is long."""
    data = read_small_file(path, _LARGEST_BYTES)
    try:
        start = 10 + int.from_bytes(data[8:10], "little")
        shape, dtype = _shape_and_dtype(data[:start])
        values = np.frombuffer(data, dtype, offset=start).tolist()
    except Exception as error:  # A broken header makes numpy raise almost anything, and so do broken texts.
        raise UnreadableError("annotation unreadable") from error
    if dtype.kind not in _NUMBERS_AND_TEXTS or len(values) != math.prod(shape):
        raise UnreadableError("annotation unreadable")
    return values


@lru_cache(maxsize=64)
def _shape_and_dtype(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """What a header says. A million files share a few headers, and reading one takes longer than opening a file."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("later versions are for headers of more than 64 KiB")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype
