"""Traces: labels at 25 Hz, by several raters (CSV) or as a gold standard (ARFF or CSV)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avemo.labels import FRAME_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.releases.arff import read_arff
from data_pipelines.releases.csv_lists import csv_rows


@dataclass(frozen=True, eq=False)
class Traces:
    """The traces of one dimension in one recording.

    Attributes:
        path: The file they come from.
        columns: Who gave each: the raters' names.
        first: Number of the first label: 0 where it lies at 0 s, 1 where it lies at 0.04 s.
        values: float64, N×R, in [-1, 1]; NaN where a label is missing.
    """

    path: Path
    columns: tuple[str, ...]
    first: int
    values: np.ndarray


def read_ratings(path: Path) -> Traces:
    """Reads the traces of several raters.

    Args:
        path: CSV with ";" or "," between cells and the header time;rater;rater…; blanks around cells and empty cells
            at the end of a row say nothing. "?" and "nan" stand for a missing label.

    Returns:
        Their traces.

    Raises:
        DataError: The file is not as it must be.
    """
    header, rows = _read_csv(path)
    raters = header[1:]
    if not raters or header[0].lower() != "time" or "" in raters or len(set(raters)) < len(raters):
        raise DataError(f"{path}: the header must be time;rater;rater…, not {';'.join(header) or 'empty'}")
    return _traces(path, raters, rows)


def read_gold_standard(path: Path, name: str) -> Traces:
    """Reads a released gold standard.

    Args:
        path: ARFF or, by its suffix, CSV. The columns "frameTime" (or "time") and "GoldStandard" are found by name.
        name: The recording; a column "Instance_name", where there is one, must hold nothing else.

    Returns:
        One trace.

    Raises:
        DataError: The file is not as it must be.
    """
    header, rows = _read_csv(path) if path.suffix.lower() == ".csv" else read_arff(path)
    columns = [column.lower() for column in header]
    time = "frametime" if "frametime" in columns else "time"
    if columns.count(time) != 1 or columns.count("goldstandard") != 1:
        raise DataError(f"{path}: looked for columns frameTime and GoldStandard, found {', '.join(header) or 'none'}")
    _check_widths(path, rows, len(header))
    if "instance_name" in columns:
        place = columns.index("instance_name")
        if others := {row[place] for row in rows} - {name}:
            raise DataError(f"{path}: must hold only {name}, holds {min(others)[:40]!r} too; fetch the file anew")
    places = columns.index(time), columns.index("goldstandard")
    return _traces(path, ("GoldStandard",), [[row[place] for place in places] for row in rows])


def stack_dimensions(valence: Traces, arousal: Traces) -> np.ndarray:
    """The traces of both dimensions as float64, N×R×2; raises DataError where they have different raters."""
    if valence.columns != arousal.columns:
        raise DataError(
            f"{arousal.path}: raters {', '.join(arousal.columns)}, but {valence.path} has {', '.join(valence.columns)}"
        )
    return np.stack([valence.values, arousal.values], axis=-1)


def check_same_labels(one: Traces, other: Traces) -> None:
    """Raises DataError unless two traces have their labels at the same times."""
    if one.first != other.first or len(one.values) != len(other.values):
        raise DataError(f"{other.path}: {_extent(other)}, but {one.path} has {_extent(one)}; fetch both files anew")


def _extent(traces: Traces) -> str:
    return f"{len(traces.values)} labels from {traces.first / FRAME_RATE_HZ} s on"


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows, without empty lines and without empty cells at the end."""
    with path.open("rb") as file:
        delimiter = ";" if b";" in file.readline(10_000) else ","
    rows = [row for row in map(_without_last_blanks, csv_rows(path, delimiter)) if row]
    return tuple(rows[0]) if rows else (), rows[1:]


def _without_last_blanks(cells: list[str]) -> list[str]:
    """The cells of a row up to the last that isn't empty."""
    return cells[: 1 + max((place for place, cell in enumerate(cells) if cell), default=-1)]


def _check_widths(path: Path, rows: list[list[str]], width: int) -> None:
    if any(len(row) != width for row in rows):
        raise DataError(f"{path}: a row is not {width} values; fetch the file anew")


def _traces(path: Path, columns: tuple[str, ...], rows: list[list[str]]) -> Traces:
    """Traces from rows of times and labels, after checking times and range."""
    width = 1 + len(columns)
    try:
        if any(len(row) != width for row in rows):
            raise ValueError("rows differ in length")
        table = np.array([["nan" if cell == "?" else cell for cell in row] for row in rows], np.float64)
    except ValueError as error:
        raise DataError(f"{path}: a row is not {width} numbers; fetch the file anew") from error
    if len(table) < 2:
        raise DataError(f"{path}: {len(table)} labels; a recording has at least two")
    times, values = table[:, 0], table[:, 1:]
    first = 0 if abs(times[0]) < 0.5 / FRAME_RATE_HZ else 1
    if not np.allclose(times, (first + np.arange(len(times))) / FRAME_RATE_HZ, atol=0.005):
        raise DataError(
            f"{path}: labels must lie {1 / FRAME_RATE_HZ} s apart and begin at 0 s or {1 / FRAME_RATE_HZ} s; "
            "resample them first"
        )
    if (np.abs(values) > 1).any():
        raise DataError(f"{path}: ratings must lie in [-1, 1]; this file has other values")
    return Traces(path, columns, first, values)
