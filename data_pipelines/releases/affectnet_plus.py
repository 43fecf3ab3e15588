"""AffectNet+ (2025): AffectNet's pictures with soft labels (Fard et al., arXiv:2410.22506), one JSON file for each.

Little is published about the files, so the first annotation of every part is held against what is expected. The
files also tell age, gender and race: that isn't needed here and is sensitive, so it is never kept or shown. No
boxes are released: the whole picture is taken as the crop.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avemo.labels import EXPRESSIONS
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

LOOKED_FOR = "train_set/images with train_set/annotations/*.json"

_FOLDERS: dict[Part, str] = {"train": "train_set", "validation": "validation_set", "automatic": "no_human_annotated"}
_ENDING = ".json"
_LARGEST_BYTES = 1 << 20


class _UnexpectedError(Exception):
    """An annotation lacks something or has it in another shape; says what."""


def is_here(root: Path) -> bool:
    """Whether the release lies in that folder or not far below it."""
    return find_part(root, _FOLDERS["train"], _ENDING) is not None


def check(root: Path, part: Part) -> None:
    """Raises DataError unless a part's pictures and annotations are there, the first one as expected."""
    images, folder = images_and_annotations(root, _FOLDERS[part], _ENDING)
    _check_first(_pictures(images, folder), folder, part, landmarks=False)


def count(root: Path, part: Part) -> int:
    """The number of ids in a part."""
    return len(_pictures(*images_and_annotations(root, _FOLDERS[part], _ENDING)))


def annotations(root: Path, part: Part, landmarks: bool) -> Iterator[Annotation]:
    """Reads a part of the release.

    The part without human labels takes the position of the largest soft label as its expression, the first of
    several equal ones (our choice).

    Args:
        root: The folder that the release was unpacked into.
        part: Which part.
        landmarks: Whether to read the landmarks.

    Yields:
        One annotation for every id that has a picture or an annotation, in the order of the ids.

    Raises:
        DataError: A folder is missing, or the first annotation isn't as expected.
    """
    images, folder = images_and_annotations(root, _FOLDERS[part], _ENDING)
    pictures = _pictures(images, folder)
    _check_first(pictures, folder, part, landmarks)
    for key, name in pictures:
        image = images / name if name else None
        try:
            annotation = _annotation(key, image, _load(folder / (key + _ENDING)), part, landmarks)
        except UnreadableError as error:
            annotation = Annotation(key, image, fault=str(error))
        except _UnexpectedError:
            annotation = Annotation(key, image, fault="annotation incomplete")
        yield annotation


def _pictures(images: Path, folder: Path) -> list[tuple[str, str | None]]:
    annotated = {name.removesuffix(_ENDING) for name in file_names(folder) if name.endswith(_ENDING)}
    return pictures_by_id(images, annotated)


def _check_first(pictures: list[tuple[str, str | None]], folder: Path, part: Part, landmarks: bool) -> None:
    """Raises DataError unless the first annotation that can be read is as expected."""
    for key, _ in pictures:
        path = folder / (key + _ENDING)
        with contextlib.suppress(UnreadableError):
            content = _load(path)
            break
    else:
        return
    try:
        _annotation(key, None, content, part, landmarks)
        if landmarks:
            points = content["meta-data"].get("landmark-68", _ABSENT)
            _expect(points is None or _is_list(points, 68, 136), "landmark-68", "136 numbers or null", points)
    except _UnexpectedError as error:
        raise DataError(
            f"{path}: {error}; the file has the keys {', '.join(map(repr, content))}. If the release is unpacked "
            "whole, this is an edition of AffectNet+ that isn't known here: please report it"
        ) from error


def _load(path: Path) -> dict[str, Any]:
    """The object that a file holds."""
    try:
        content = json.loads(read_small_file(path, _LARGEST_BYTES))
    except (ValueError, RecursionError) as error:  # No JSON, no Unicode, a number too long, or nested too deep.
        raise UnreadableError("annotation unreadable") from error
    if not isinstance(content, dict):
        raise UnreadableError("annotation unreadable")
    return content


def _annotation(key: str, image: Path | None, content: dict[str, Any], part: Part, landmarks: bool) -> Annotation:
    """What an annotation says; raises `_UnexpectedError`."""
    soft_label = _soft_label(content.get("soft-label", _ABSENT))
    meta_data = content.get("meta-data", _ABSENT)
    _expect(isinstance(meta_data, dict), "meta-data", "an object", meta_data)
    return Annotation(
        key,
        image,
        expression=soft_label.index(max(soft_label)) if part == "automatic" else _human_label(content),
        valence=_valence_or_arousal(meta_data, "valence"),
        arousal=_valence_or_arousal(meta_data, "arousal"),
        landmarks=five_points(meta_data.get("landmark-68")) if landmarks else None,
        soft_label=soft_label,
    )


def _soft_label(value: Any) -> tuple[float, ...]:
    usable = _is_list(value, len(EXPRESSIONS)) and all(_is_number(share) and 0 <= share <= 1 for share in value)
    _expect(usable and any(value), "soft-label", f"{len(EXPRESSIONS)} numbers from 0 to 1, not all 0", value)
    return tuple(map(number, value))


def _human_label(content: dict[str, Any]) -> float:
    value = content.get("human-label", _ABSENT)
    _expect(_is_number(value), "human-label", "a number", value)
    return number(value)


def _valence_or_arousal(meta_data: dict[str, Any], key: str) -> float:
    value = meta_data.get(key, _ABSENT)
    _expect(value is None or _is_number(value), key, "a number or null", value)
    return number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any, *lengths: int) -> bool:
    return isinstance(value, list) and len(value) in lengths


_ABSENT = object()
"""Stands for a key that an object lacks; null is something else."""


def _expect(fulfilled: bool, key: str, expected: str, found: Any) -> None:
    if not fulfilled:
        raise _UnexpectedError(f"{key!r} should be {expected}, but is {_described(found)}")


def _described(value: Any) -> str:
    """What kind of value it is: the value itself may be nobody's business."""
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    return {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
