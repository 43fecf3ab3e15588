"""Predictions of frames as files: one row per frame and face, written as they come."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avemo.labels import DIMENSIONS, EXPRESSIONS
from launch.errors import LaunchError
from launch.prediction import FaceTrace

FileFormat = Literal["csv", "parquet", "json"]

FILE_NAMES: dict[FileFormat, str] = {"csv": "frames.csv", "parquet": "frames.parquet", "json": "frames.jsonl"}

Columns = dict[str, np.ndarray]
"""Of successive rows: "time_s"; "face", its number; "left", "top", "right", "bottom", pixels of the upright picture;
"face_valid", "voice_valid"; the probability of each expression; "valence", "arousal", and the spread of each."""

_DIGITS = 4
"""After the decimal point, in text."""

_ROWS_AT_ONCE = 10_000
"""In a row group of a Parquet file."""


def columns_of(trace: FaceTrace) -> Columns:
    """The rows of a part of a trace."""
    return {
        "time_s": trace.time_s,
        "face": np.full(len(trace), trace.face),
        **dict(zip(("left", "top", "right", "bottom"), trace.box.T, strict=True)),
        "face_valid": trace.face_valid,
        "voice_valid": trace.voice_valid,
        **dict(zip(EXPRESSIONS, trace.expression.T, strict=True)),
        **dict(zip(DIMENSIONS, trace.valence_arousal.T, strict=True)),
        **dict(zip((f"{name}_spread" for name in DIMENSIONS), trace.spread.T, strict=True)),
    }


def _no_rows() -> Columns:
    """The columns alone, in the types of every row."""
    sizes = {"box": 4, "expression": len(EXPRESSIONS), "valence_arousal": len(DIMENSIONS), "spread": len(DIMENSIONS)}
    numbers = {name: np.zeros((0, size), np.float32) for name, size in sizes.items()}
    return columns_of(FaceTrace(0, 0, face_valid=np.zeros(0, bool), voice_valid=np.zeros(0, bool), **numbers))


def frame_file(path: Path, file_format: FileFormat) -> AbstractContextManager[Callable[[Columns], None]]:
    """Opens a file for rows; nothing lies under its name until all are written.

    Raises:
        LaunchError: the format needs a package that isn't there.
    """
    return _WRITERS[file_format](path)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written gets its name when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def growing_csv_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    """Opens a CSV file that holds every row as soon as it is written; empty cells where there is no figure."""
    with path.open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(_no_rows())

        def write(columns: Columns) -> None:
            rows.writerows(zip(*(_plain(column, "") for column in columns.values()), strict=True))

        yield write


@contextmanager
def _csv_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    with _whole(path) as partial, growing_csv_file(partial) as write:
        yield write


@contextmanager
def _json_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    """JSON Lines: an object per row, null where there is no figure."""
    with _whole(path) as partial, partial.open("w") as file:

        def write(columns: Columns) -> None:
            for row in zip(*(_plain(column, None) for column in columns.values()), strict=True):
                file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")

        yield write


@contextmanager
def _parquet_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    """Columns in the precision in which they were computed, null where there is no figure."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise LaunchError('Parquet files need pyarrow; in the project folder: pip install -e ".[parquet]"') from error

    def table_of(columns: Columns) -> Any:
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})

    waiting = [table_of(_no_rows())]
    with _whole(path) as partial, pq.ParquetWriter(partial, waiting[0].schema) as writer:

        def flush() -> None:
            writer.write_table(pa.concat_tables(waiting))
            waiting.clear()

        def write(columns: Columns) -> None:
            waiting.append(table_of(columns))
            if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                flush()

        yield write
        if waiting:
            flush()


_WRITERS = {"csv": _csv_file, "parquet": _parquet_file, "json": _json_file}


def _plain(column: np.ndarray, nothing: Any) -> list[Any]:
    """A column as Python's own numbers, rounded; `nothing` for what is no number."""
    if column.dtype.kind != "f":
        return column.astype(int).tolist() if column.dtype.kind == "b" else column.tolist()
    return [nothing if np.isnan(value) else round(value, _DIGITS) for value in column.tolist()]
