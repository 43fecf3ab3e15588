"""People's own data, listed in a CSV file: faces in pictures, and annotated recordings ("clips").

The first row of a list names its columns, in any order; cells that a short row lacks are blank, and blank rows say
nothing. Rows are numbered as in a spreadsheet: the header is row 1. Paths lie below one folder and can't leave it.
A list that is not as it must be is a `DataError`; every row of a list in order comes out exactly once, usable or
as a `Skip`.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np

from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows
from data_pipelines.releases.items import Face, Recording, Skip
from data_pipelines.releases.paths import is_file, stays_inside

FACE_SPLITS = ("train", "validation")
CLIP_SPLITS = ("train", "dev", "test")

_BOX = ("left", "top", "right", "bottom")
_VOTES = tuple(f"votes:{expression}" for expression in EXPRESSIONS)

FACE_COLUMNS = ("image", "split", "expression", *DIMENSIONS, *_BOX, *_VOTES)
"""What a list of faces may hold; it must hold the first."""

CLIP_COLUMNS = ("split", "annotation", "video", "audio", "name")
"""What a list of clips may hold; it must hold the first two, and video or audio."""

UNNAMED_RATER = "label"
"""Name of the only rater where an annotation names none."""

LATEST_START_S = 1.0
"""An annotation may begin this late; frames before take its first label (our choice)."""

LONGEST_S = 24 * 3600.0
"""No annotation is longer: this one's times are no seconds (our choice)."""


class _UnusableError(Exception):
    """Why a row can't be used: the reason of its `Skip`."""


def face_splits(path: Path) -> tuple[str, ...]:
    """The splits that a list of faces names.

    Args:
        path: The list.

    Returns:
        "train", "validation" or both, in this order.

    Raises:
        DataError: The list is absent, no CSV, empty, or has columns or splits that it can't have.
    """
    named = {_face_split(path, number, cells) for number, cells in _rows(path, FACE_COLUMNS, ("image",))}
    if not named:
        raise DataError(f"{path}: lists no faces; write one row for each below the header")
    return tuple(split for split in FACE_SPLITS if split in named)


def has_votes(path: Path) -> bool:
    """Whether a list of faces says how raters voted. Raises DataError as `face_splits`."""
    rows = list(_rows(path, FACE_COLUMNS, ("image",)))
    return any(cells[column] for _, cells in rows for column in _VOTES)


def read_faces(path: Path, root: Path, split: str) -> Iterator[Face | Skip]:
    """Reads one split of a list of faces, in the order of the list.

    Columns: image (path); split ("train" where blank, or "validation"); expression (one of `EXPRESSIONS` or its
    code 0 to 7; blank for none); valence and arousal in [-1, 1] (missing where either is blank); left, top, right,
    bottom of the face in pixels of the picture (all blank where the whole picture is the face); votes:neutral to
    votes:contempt, how many raters, or what share of them, chose each expression (all blank or zero for none).

    The key of a face is its path as written. Where a picture is listed again, "#" and the row's number follow. The same
    box of the same picture counts once, in whatever split it stands first.

    Args:
        path: The list.
        root: The folder that the paths of the pictures start from.
        split: "train" or "validation".

    Yields:
        A `Face` or a `Skip` for every row of that split.

    Raises:
        DataError: The list is absent, no CSV, or has columns or splits that it can't have.
    """
    keys = {""}
    listed: set[tuple[Path, tuple[float, ...] | None]] = set()
    for number, cells in _rows(path, FACE_COLUMNS, ("image",)):
        key = cells["image"]
        while key in keys:
            key += f"#{number}"
        keys.add(key)
        try:
            face = _face(key, cells, root)
            if (face.image, face.box) in listed:
                raise _UnusableError("listed twice")
            listed.add((face.image, face.box))
            item: Face | Skip = face
        except _UnusableError as error:
            item = Skip(key, str(error))
        if _face_split(path, number, cells) == split:
            yield item


def read_clips(path: Path, root: Path) -> Iterator[tuple[str | None, Recording | Skip]]:
    """Reads a list of clips, in its order.

    Columns: split ("train", "dev" or "test"); annotation (path); video and audio (paths; at least one, and the video's
    own sound serves where audio is blank); name (that of the video's or audio's file, without its ending, where blank).
    A name, and a pair of video and audio, counts once, in whatever split it stands first.

    An annotation is a CSV file with the header `time,valence,arousal` (one gold standard, whose only rater is called
    `UNNAMED_RATER`) or `time,valence:R1,arousal:R1,valence:R2,…` (raters R1, R2, …). Times are seconds from the start
    of the recording and increase. Frame k shows k / 25 s, up to the frame nearest to the last label; its rating is
    interpolated linearly between the labels around it, however far apart they are.

    Args:
        path: The list.
        root: The folder that all its paths start from.

    Yields:
        The split and a `Recording` or a `Skip` for every row; no split for a row that names none of the three.

    Raises:
        DataError: The list is absent, no CSV, or has columns that it can't have.
    """
    listed: set[object] = set()
    for number, cells in _clip_rows(path):
        split = cells["split"].lower()
        name = cells["name"] or PurePosixPath(cells["video"] or cells["audio"]).stem or f"row {number}"
        try:
            if split not in CLIP_SPLITS:
                raise _UnusableError("split is not train, dev or test")
            recording = _recording(name, split, cells, root)
            if name in listed:
                raise _UnusableError("name listed twice")
            if (recording.video, recording.audio) in listed:
                raise _UnusableError("recording listed twice")
            listed |= {name, (recording.video, recording.audio)}
            item: Recording | Skip = recording
        except _UnusableError as error:
            item = Skip(name, str(error))
        yield split if split in CLIP_SPLITS else None, item


def _face(key: str, cells: dict[str, str], root: Path) -> Face:
    """The face of a row. Raises _UnusableError where a cell is not as it must be."""
    return Face(
        key=key,
        image=_listed_file(cells, "image", root),
        box=_box([cells[side] for side in _BOX]),
        expression=_expression(cells["expression"]),
        valence_arousal=_valence_arousal([cells[dimension] for dimension in DIMENSIONS]),
        soft_label=_shares([cells[column] for column in _VOTES]),
    )


def _face_split(path: Path, number: int, cells: dict[str, str]) -> str:
    split = cells["split"].lower() or FACE_SPLITS[0]
    if split not in FACE_SPLITS:
        raise DataError(f"{path}: row {number} names split {split!r}; a face is in {' or '.join(FACE_SPLITS)}")
    return split


def _box(cells: list[str]) -> tuple[float, float, float, float] | None:
    if not any(cells):
        return None
    left, top, right, bottom = map(_number, cells)
    if not np.isfinite([left, top, right, bottom]).all():
        raise _UnusableError("box is not four numbers")
    if left >= right or top >= bottom:
        raise _UnusableError("box has no area")
    return left, top, right, bottom


def _expression(cell: str) -> int | None:
    if not cell:
        return None
    if cell.lower() in EXPRESSIONS:
        return EXPRESSIONS.index(cell.lower())
    code = _number(cell)
    if code not in range(len(EXPRESSIONS)):
        raise _UnusableError("expression unknown")
    return int(code)


def _valence_arousal(cells: list[str]) -> tuple[float, float] | None:
    pair = [_number(cell) for cell in cells if cell]
    if not all(-1 <= value <= 1 for value in pair):
        raise _UnusableError("valence or arousal is no number in [-1, 1]")
    return (pair[0], pair[1]) if len(pair) == 2 else None


def _shares(cells: list[str]) -> tuple[float, ...] | None:
    """The share of each expression among all votes; None where there is no vote."""
    votes = [_number(cell) if cell else 0.0 for cell in cells]
    if min(votes) < 0 or not np.isfinite(sum(votes)):
        raise _UnusableError("votes are not numbers from 0 on")
    return tuple(vote / sum(votes) for vote in votes) if sum(votes) else None


def _number(cell: str) -> float:
    """The number that a cell holds; NaN where it holds none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _clip_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    return _rows(path, CLIP_COLUMNS, CLIP_COLUMNS[:2])


def _recording(name: str, split: str, cells: dict[str, str], root: Path) -> Recording:
    """The recording of a row. Raises _UnusableError where a cell or the annotation is not as it must be."""
    if not cells["video"] and not cells["audio"]:
        raise _UnusableError("neither video nor audio")
    video, audio = (_listed_file(cells, column, root) if cells[column] else None for column in ("video", "audio"))
    raters, ratings = _read_annotation(_listed_file(cells, "annotation", root))
    return Recording(name, split, video, audio, raters, ratings)


def _read_annotation(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The raters' names and their ratings at 25 Hz (float32, T×R×2). Raises _UnusableError."""
    try:
        rows = [cells for cells in map(_without_last_blanks, csv_rows(path)) if cells]
    except (DataError, OSError) as error:
        raise _UnusableError("annotation is no CSV in UTF-8") from error
    raters, columns = _rating_columns(rows[0] if rows else [])
    table = _table(rows)
    times_s, ratings = table[:, 0], table[:, columns]
    if not (np.abs(ratings) <= 1).all():
        raise _UnusableError("annotation has ratings outside [-1, 1]")
    if times_s[0] < 0 or not (times_s[1:] > times_s[:-1]).all():
        raise _UnusableError("annotation times don't increase from 0 s on")
    if times_s[0] > LATEST_START_S:
        raise _UnusableError(f"annotation begins later than {LATEST_START_S:g} s")
    if times_s[-1] > LONGEST_S:
        raise _UnusableError("annotation ends after 24 h; its times must be seconds")
    frames_s = np.arange(int(times_s[-1] * FRAME_RATE_HZ + 0.5) + 1) / FRAME_RATE_HZ
    traces = [np.interp(frames_s, times_s, trace) for trace in ratings.T]
    return raters, np.stack(traces, axis=1).reshape(len(frames_s), -1, 2).astype(np.float32)


def _rating_columns(header: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """The raters' names, and where every rater's valence and arousal stand."""
    raters = [column.partition(":")[2] for column in header if column.partition(":")[0] == DIMENSIONS[0]]
    names = [f"{dimension}:{rater}" if rater else dimension for rater in raters for dimension in DIMENSIONS]
    named_or_alone = "" not in raters or len(raters) == 1
    if not raters or header[0] != "time" or sorted(header[1:]) != sorted(set(names)) or not named_or_alone:
        raise _UnusableError("annotation header is not time,valence,arousal or time,valence:RATER,arousal:RATER,…")
    return tuple(rater or UNNAMED_RATER for rater in raters), [header.index(name) for name in names]


def _table(rows: list[list[str]]) -> np.ndarray:
    """The numbers below the header, float64."""
    if len(rows) < 3:
        raise _UnusableError("annotation has fewer than two labels")
    table = [[_number(cell) for cell in row] for row in rows[1:]]
    if any(len(row) != len(rows[0]) for row in table) or not np.isfinite(table).all():
        raise _UnusableError("annotation has rows that are not a number for each column")
    return np.array(table)


def _listed_file(cells: dict[str, str], column: str, root: Path) -> Path:
    """The file that a cell names."""
    if not cells[column]:
        raise _UnusableError(f"no {column} named")
    if not stays_inside(cells[column]):
        raise _UnusableError("path leaves the source folder")
    if not is_file(root / cells[column]):
        raise _UnusableError(f"{column} listed but absent")
    return root / cells[column]


def _rows(path: Path, known: tuple[str, ...], required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a list with their numbers: every known column's cell, blank where the list has no such column."""
    if not is_file(path):
        raise DataError(f"{path}: no such file; give a CSV file with the columns {', '.join(known)}")
    with closing(csv_rows(path)) as listed:
        rows = map(_without_last_blanks, listed)
        header = next(rows, [])
        _check_header(path, header, known, required)
        for number, cells in enumerate(rows, start=2):
            if len(cells) > len(header):
                raise DataError(f"{path}: row {number} is longer than the header; quote a cell that has a comma in it")
            if cells:
                yield number, dict.fromkeys(known, "") | dict(zip(header, cells, strict=False))


def _check_header(path: Path, header: list[str], known: tuple[str, ...], required: tuple[str, ...]) -> None:
    columns = f"the columns are {', '.join(known)}"
    if unknown := [column for column in header if column not in known]:
        raise DataError(f"{path}: unknown column {unknown[0]!r}; {columns}")
    if missing := [column for column in required if column not in header]:
        raise DataError(f"{path}: no column {', '.join(missing)}; {columns}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column stands twice in {', '.join(header)}")
    for group in (DIMENSIONS, _BOX, _VOTES):
        if 0 < len({*group} & {*header}) < len(group):
            raise DataError(f"{path}: the columns {', '.join(group)} go together; give all of them or none")


def _without_last_blanks(cells: list[str]) -> list[str]:
    """The cells of a row up to the last that isn't empty."""
    return cells[: 1 + max((place for place, cell in enumerate(cells) if cell), default=-1)]
