"""AffectNet in every form: the 2017 release, the 2021 release and AffectNet+ (2025).

Everything that a release lists comes out of `read_split` exactly once, either as a `Face` or as a `Skip` with
its reason. Nothing is decoded here: whether a file really is a picture is found out by whoever decodes it.
"""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal

from avemo.labels import EXPRESSIONS
from data_pipelines.errors import DataError
from data_pipelines.releases import affectnet_2017, affectnet_2021, affectnet_plus
from data_pipelines.releases.affectnet_annotation import Annotation
from data_pipelines.releases.items import Face, Skip

Release = Literal["2017", "2021", "plus"]
"""The forms; "plus" is AffectNet+ (2025)."""

Split = Literal["train", "validation", "unlabelled", "automatic"]
"""The official validation set serves as the test set: its test labels were never public."""

Unlabelled = Literal["none", "uncertain", "non-face"]
"""What annotators said of a picture that shows none of the eight expressions: AffectNet's codes 8, 9 and 10."""

SPLITS: tuple[Split, ...] = ("train", "validation")
"""Those that every release has."""

COLUMNS = affectnet_2017.COLUMNS
"""Columns that a list of the 2017 release must have."""

_FORMS: dict[Release, ModuleType] = {"2017": affectnet_2017, "2021": affectnet_2021, "plus": affectnet_plus}
_CODES: dict[float, Unlabelled] = {8: "none", 9: "uncertain", 10: "non-face"}
_MISSING = -2.0


def count(root: Path, release: Release, split: Split) -> int | None:
    """How many rows or pictures a split's folder or list holds, for a progress bar; "train" with "unlabelled".

    Args:
        root: The folder that the release was unpacked into.
        release: The release's form.
        split: None is returned for "unlabelled": that takes reading.

    Raises:
        DataError: As `read_split`.
    """
    return None if split == "unlabelled" else _FORMS[release].count(root, split)


def detect_release(root: Path) -> Release:
    """Tells the form of a release by looking at its folder.

    Args:
        root: The folder that the release was unpacked into.

    Returns:
        The form.

    Raises:
        DataError: The folder is absent, holds no form, or several.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that AffectNet was unpacked into")
    found = [release for release, form in _FORMS.items() if form.is_here(root)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: holds the releases {' and '.join(found)}; say which one with the release setting")
    looked_for = "; ".join(f"{form.LOOKED_FOR} ({release})" for release, form in _FORMS.items())
    raise DataError(f"{root}: no AffectNet release here; looked for {looked_for}")


def check_source(root: Path, release: Release, automatic: bool) -> None:
    """Checks what a release consists of before anything is read: folders, lists, columns, keys.

    Args:
        root: The folder that the release was unpacked into.
        release: The release's form, see `detect_release`.
        automatic: Whether the automatically annotated part must be there, too.

    Raises:
        DataError: Something is missing.
    """
    for part in ("train", "validation", "automatic") if automatic else ("train", "validation"):
        _FORMS[release].check(root, part)


def read_split(
    root: Path, release: Release, split: Split, unlabelled: Collection[Unlabelled] = (), landmarks: bool = False
) -> Iterator[Face | Skip]:
    """Reads one split of a release, in the order of its list (2017) or of its ids (2021, plus).

    "train" and "unlabelled" are read from the same list and share it out: "unlabelled" are the pictures of the
    classes that `unlabelled` names, "train" everything else. Validation pictures never come without an expression:
    they must not get into training.

    Args:
        root: The folder that the release was unpacked into.
        release: The release's form, see `detect_release`.
        split: "automatic" is what no human annotated; the 2021 release has no such part. There AffectNet+ has only
            soft labels: the expression is the position of the largest (our choice).
        unlabelled: Classes without an expression whose pictures are kept, in "unlabelled" and "automatic".
        landmarks: Whether faces come with their landmarks, where there are any.

    Yields:
        A `Face` or a `Skip` for everything that belongs to the split. The key is the path in the list (2017) or the
        picture's id.

    Raises:
        DataError: A folder, a list, a column or a key is missing, or a list is no CSV.
    """
    part = "train" if split == "unlabelled" else split
    kept = () if split == "validation" else unlabelled
    for annotation in _FORMS[release].annotations(root, part, landmarks):
        without_expression = _CODES.get(annotation.expression) in kept
        if split == "automatic" or without_expression == (split == "unlabelled"):
            yield _face(annotation, without_expression)


def _face(annotation: Annotation, without_expression: bool) -> Face | Skip:
    """The face, or the first reason why it can't be used."""
    key, code = annotation.key, annotation.expression
    valence_arousal = annotation.valence, annotation.arousal
    if code in _CODES and not without_expression:
        return Skip(key, f"expression {_CODES[code]}")
    if annotation.fault is not None:
        return Skip(key, annotation.fault)
    if code not in range(len(EXPRESSIONS)) and not without_expression:
        return Skip(key, "expression code unknown")
    missing = _MISSING in valence_arousal or any(map(math.isnan, valence_arousal))
    if not missing and not all(-1 <= value <= 1 for value in valence_arousal):
        return Skip(key, "valence or arousal outside [-1, 1]")
    if annotation.image is None:
        return Skip(key, "listed but absent")
    return Face(
        key=key,
        image=annotation.image,
        box=annotation.box,
        landmarks=annotation.landmarks,
        expression=None if without_expression else int(code),
        valence_arousal=None if missing else valence_arousal,
        soft_label=annotation.soft_label,
    )
