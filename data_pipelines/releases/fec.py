"""Google's facial expression comparison set (FEC): triplets of faces, of which annotators named the odd one out.

Lists are read from `faceexp-comparison-data-{train,test}-public.csv`. The photographs must be fetched by the
user; they are looked for below the source folder as `images/<first two hex digits of h>/<h>.jpg`, where h is
the SHA-256 of the URL, whatever the kind of picture.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avemo.labels import TRIPLET_KINDS
from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")

_CELLS_PER_FACE = 5
_KIND_CELL = 3 * _CELLS_PER_FACE
_ROUNDING = 1e-9


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
        key: Line number in the list, from 1.
        faces: The two alike, in the list's order, then the odd one.
        kind: One of `avemo.labels.TRIPLET_KINDS`.
    """

    key: str
    faces: tuple[FaceReference, FaceReference, FaceReference]
    kind: str


@dataclass(frozen=True)
class Skip:
    """A row that gives no triplet, with the reason."""

    key: str
    reason: str


def check_source(root: Path) -> None:
    """Raises DataError unless both lists are there."""
    for split in SPLITS:
        if not _list_path(root, split).is_file():
            raise DataError(f"{root}: no FEC here; looked for {_list_path(root, split).name}")


def photograph_path(root: Path, url: str) -> Path:
    """Where the photograph of a URL lies below the source folder."""
    digest = hashlib.sha256(url.encode()).hexdigest()
    return root / "images" / digest[:2] / f"{digest}.jpg"


def read_split(root: Path, split: Split, consensus: float) -> Iterator[Triplet | Skip]:
    """Reads the triplets of one split in the order of its list.

    Args:
        root: The source folder.
        split: "train" or "test".
        consensus: Share of the answers that must agree, see `odd_one_out`.

    Yields:
        A `Triplet` or a `Skip` for every row.

    Raises:
        DataError: The list is missing or no CSV.
    """
    check_source(root)
    for number, cells in enumerate(csv_rows(_list_path(root, split)), start=1):
        yield _triplet(str(number), cells, consensus)


def odd_one_out(answers: Sequence[str], consensus: float) -> int | None:
    """The face that the annotators named, if enough of them agree.

    Ties for the first place give no answer, whatever the threshold. Answers other than 1, 2 and 3 count among
    all answers but for no face.

    Args:
        answers: "1", "2" or "3" by each annotator.
        consensus: Share of all answers that the winner must reach; the published work uses two thirds.

    Returns:
        0, 1 or 2, or None without consensus.
    """
    votes = Counter(answer for answer in answers if answer in ("1", "2", "3")).most_common(2)
    if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]):
        return None
    answer, count = votes[0]
    return int(answer) - 1 if count / len(answers) >= consensus - _ROUNDING else None


def _list_path(root: Path, split: Split) -> Path:
    return root / f"faceexp-comparison-data-{split}-public.csv"


def _triplet(key: str, cells: list[str], consensus: float) -> Triplet | Skip:
    if len(cells) <= _KIND_CELL:
        return Skip(key, "row too short")
    kind = cells[_KIND_CELL]
    if kind not in TRIPLET_KINDS:
        return Skip(key, "triplet kind unknown")
    answers = [cell for cell in cells[_KIND_CELL + 2 :: 2] if cell]
    odd = odd_one_out(answers, consensus) if answers else None
    if odd is None:
        return Skip(key, f"no consensus ({kind})")
    faces = [_face(cells[start : start + _CELLS_PER_FACE]) for start in range(0, _KIND_CELL, _CELLS_PER_FACE)]
    first, second, last = (*faces[:odd], *faces[odd + 1 :], faces[odd])
    if first is None or second is None or last is None:
        return Skip(key, f"face box malformed ({kind})")
    return Triplet(key, (first, second, last), kind)


def _face(cells: list[str]) -> FaceReference | None:
    try:
        left, right, top, bottom = (float(cell) for cell in cells[1:])
    except ValueError:
        return None
    if not all(map(math.isfinite, (left, right, top, bottom))) or left >= right or top >= bottom or not cells[0]:
        return None
    return FaceReference(cells[0], (left, top, right, bottom))
