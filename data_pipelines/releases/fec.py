"""Google's facial expression comparison set (FEC): triplets of faces, of which annotators named the odd one out.

Lists are read from `faceexp-comparison-data-{train,test}-public.csv`: no header, ragged rows. The photographs are
fetched by the user (`data_pipelines.fetch`); they are looked for below the source folder as
`images/<first two hex digits of h>/<h>.jpg`, where h is the SHA-256 of the URL, whatever the kind of picture.
"""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from avemo.labels import TRIPLET_KINDS
from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows
from data_pipelines.releases.items import Skip

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")

Ties = Literal["drop", "first"]
"""What becomes of a tie for the first place among the answers: no answer, or the tied face that was answered first.

The published work doesn't say; both are our choice.
"""

_CELLS_PER_FACE = 5
_KIND_CELL = 3 * _CELLS_PER_FACE
_FACE_CELLS = range(0, _KIND_CELL, _CELLS_PER_FACE)
_ROUNDING = 1e-9
_ROWS_CHECKED = 100
_FARTHEST_FRACTION = 1.0
"""How far outside [0, 1] a fraction may lie: faces are cut off by the picture's edge, pixels would lie far outside."""

_WEB_URL = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)


@dataclass(frozen=True)
class FaceReference:
    """One face of one photograph: a photograph can hold several, so URL and box together are its name.

    Attributes:
        url: Where the photograph was published.
        box: (left, top, right, bottom) as fractions of the photograph's width and height. (The file itself
            has left, right, top, bottom.)
    """

    url: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Triplet:
    """Three faces; the last is the odd one out, least like the other two.

    Attributes:
        key: Number of the row in the list, from 1.
        faces: The two alike, in the list's order, then the odd one.
        kind: One of `avemo.labels.TRIPLET_KINDS`.
    """

    key: str
    faces: tuple[FaceReference, FaceReference, FaceReference]
    kind: str


def check_source(root: Path) -> None:
    """Raises DataError unless both lists are there."""
    for split in SPLITS:
        if not _list_path(root, split).is_file():
            raise DataError(f"{root}: no FEC here; looked for {_list_path(root, split).name}")


def photograph_path(root: Path, url: str) -> Path:
    """Where the photograph of a URL lies below the source folder."""
    digest = hashlib.sha256(url.encode()).hexdigest()
    return root / "images" / digest[:2] / f"{digest}.jpg"


def photographs(root: Path, split: Split) -> list[str]:
    """The distinct URLs that a list names, in its order, whatever the annotators answered.

    Args:
        root: The source folder.
        split: "train" or "test".

    Returns:
        The URLs; what is no http or https URL is left out (`read_split` yields it as a `Skip`).

    Raises:
        DataError: As `read_split`.
    """
    named = (cells[start] for cells in _rows(root, split) if len(cells) > _KIND_CELL for start in _FACE_CELLS)
    return list(dict.fromkeys(url for url in named if _WEB_URL.fullmatch(url)))


def shared_photographs(root: Path) -> int:
    """How many photographs both lists name; 0 means that no picture is in both train and test.

    Raises:
        DataError: As `read_split`.
    """
    return len(set(photographs(root, "train")) & set(photographs(root, "test")))


def photographs_fingerprint(root: Path) -> str:
    """SHA-256 (hex) over names and sizes of the photographs that are present: cheap, no photograph is read.

    It changes when photographs are added, so that what was prepared before can be told to be stale.
    """
    digest = hashlib.sha256()
    for folder in _sorted_entries(root / "images"):
        if folder.is_dir():
            for file in _sorted_entries(Path(folder.path)):
                if file.name.endswith(".jpg") and file.is_file():
                    digest.update(f"{folder.name}/{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def read_split(root: Path, split: Split, consensus: float, ties: Ties) -> Iterator[Triplet | Skip]:
    """Reads the triplets of one split in the order of its list.

    Args:
        root: The source folder.
        split: "train" or "test".
        consensus: Share of the answers that must agree, see `odd_one_out`.
        ties: What becomes of ties, see `Ties`.

    Yields:
        A `Triplet` or a `Skip` for every row.

    Raises:
        DataError: The list is missing, or no CSV, or its boxes aren't fractions in the order left, right, top, bottom.
    """
    for number, cells in enumerate(_rows(root, split), start=1):
        yield _triplet(str(number), cells, consensus, ties)


def odd_one_out(answers: Sequence[str], consensus: float, ties: Ties) -> int | None:
    """The face that the annotators named, if enough of them agree.

    Answers other than 1, 2 and 3 count among all answers but for no face (our choice).

    Args:
        answers: "1", "2" or "3" by each annotator.
        consensus: Share of all answers that the winner must reach; the published work uses two thirds
            (Vemulapalli & Agarwala 2019).
        ties: What becomes of a tie for the first place. With more than half as the consensus there is none.

    Returns:
        0, 1 or 2, or None without consensus.
    """
    # Among equal counts, the one that was met first comes first.
    votes = Counter(answer for answer in answers if answer in ("1", "2", "3")).most_common(2)
    if not votes or (ties == "drop" and len(votes) == 2 and votes[0][1] == votes[1][1]):
        return None
    answer, count = votes[0]
    return int(answer) - 1 if count / len(answers) >= consensus - _ROUNDING else None


def _list_path(root: Path, split: Split) -> Path:
    return root / f"faceexp-comparison-data-{split}-public.csv"


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _rows(root: Path, split: Split) -> Iterator[list[str]]:
    check_source(root)
    rows = csv_rows(_list_path(root, split))
    first_rows = list(islice(rows, _ROWS_CHECKED))
    _check_boxes(_list_path(root, split), first_rows)
    return chain(first_rows, rows)


def _check_boxes(path: Path, rows: list[list[str]]) -> None:
    """Asserts that boxes are fractions in the order left, right, top, bottom; single faulty rows are let pass."""
    odd = [number for number, cells in enumerate(rows, start=1) if _has_odd_box(cells)]
    if len(odd) > len(rows) / 2:
        found = ", ".join(rows[odd[0] - 1][1:_CELLS_PER_FACE])
        raise DataError(
            f"{path}: expected left, right, top, bottom after each URL, as fractions of the photograph, but "
            f"{len(odd)} of the first {len(rows)} rows don't fit, the first being row {odd[0]} with {found}; "
            "fetch the list anew, and mend the order of its columns if it was released like this"
        )


def _has_odd_box(cells: list[str]) -> bool:
    boxes = [_numbers(cells[start + 1 : start + _CELLS_PER_FACE]) for start in _FACE_CELLS]
    return any(box is not None and (not _is_box(box) or _is_far_out(box)) for box in boxes)


def _numbers(cells: list[str]) -> tuple[float, float, float, float] | None:
    """Left, right, top, bottom as they stand in the list; None if these aren't four numbers."""
    try:
        left, right, top, bottom = map(float, cells)
    except ValueError:
        return None
    return left, right, top, bottom


def _is_box(numbers: tuple[float, float, float, float]) -> bool:
    left, right, top, bottom = numbers
    return all(map(math.isfinite, numbers)) and left < right and top < bottom


def _is_far_out(numbers: tuple[float, float, float, float]) -> bool:
    return min(numbers) < -_FARTHEST_FRACTION or max(numbers) > 1 + _FARTHEST_FRACTION


def _triplet(key: str, cells: list[str], consensus: float, ties: Ties) -> Triplet | Skip:
    if len(cells) <= _KIND_CELL:
        return Skip(key, "row too short")
    kind = cells[_KIND_CELL]
    if kind not in TRIPLET_KINDS:
        return Skip(key, "triplet kind unknown")
    answers = [cell for cell in cells[_KIND_CELL + 2 :: 2] if cell]
    odd = odd_one_out(answers, consensus, ties) if answers else None
    if odd is None:
        return Skip(key, f"no consensus ({kind})")
    if not all(_WEB_URL.fullmatch(cells[start]) for start in _FACE_CELLS):
        return Skip(key, f"no http or https URL ({kind})")
    faces = [_face(cells[start : start + _CELLS_PER_FACE]) for start in _FACE_CELLS]
    first, second, last = (*faces[:odd], *faces[odd + 1 :], faces[odd])
    if first is None or second is None or last is None:
        return Skip(key, f"face box malformed ({kind})")
    return Triplet(key, (first, second, last), kind)


def _face(cells: list[str]) -> FaceReference | None:
    numbers = _numbers(cells[1:])
    if numbers is None or not _is_box(numbers) or _is_far_out(numbers):
        return None
    left, right, top, bottom = numbers
    return FaceReference(cells[0], (left, top, right, bottom))
