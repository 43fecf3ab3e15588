"""RECOLA's public release: recordings with sound, video and the traces of six raters.

A trace has one label more than the recording has frames (7,501 against 7,500). The label at t = k · 0.04 s
belongs to frame k, which begins then; the last label, at the very end, belongs to no frame and is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from avemo.labels import DIMENSIONS, FRAME_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.releases.csv_lists import csv_rows

Partition = Literal["A", "B"]
Split = Literal["train", "dev", "test"]

SPLITS: tuple[Split, ...] = ("train", "dev", "test")

PARTITIONS: dict[Partition, dict[Split, tuple[int, ...]]] = {
    "A": {
        "train": (45, 46, 48, 56, 58, 62, 64, 65),
        "dev": (28, 30, 34, 37, 39, 41, 42, 43),
        "test": (16, 17, 19, 21, 23, 25, 26),
    },
    "B": {
        "train": (17, 43, 30, 28, 46, 19, 41, 26, 62, 39, 25, 56),
        "dev": (64, 48, 16, 58, 34, 45, 23),
        "test": (42, 65, 21, 37),
    },
}
"""Participants per split in the two partitions in use. Results on different partitions are not comparable."""

_ANNOTATIONS = Path("RECOLA-Annotation") / "emotional_behaviour"
_AUDIO = Path("RECOLA-Audio-recordings")
_VIDEO = Path("RECOLA-Video-recordings")


@dataclass(frozen=True, eq=False)
class Recording:
    """One participant's recording.

    Attributes:
        name: P16 … P65.
        split: Where the partition puts it.
        audio: The sound file.
        video: The video file.
        raters: The raters' names, in the order of the ratings.
        ratings: float32, T×R×2: every rater's trace at 25 Hz, in the order of `avemo.labels.DIMENSIONS`.
    """

    name: str
    split: Split
    audio: Path
    video: Path
    raters: tuple[str, ...]
    ratings: np.ndarray


@dataclass(frozen=True)
class Skip:
    """A recording that can't be used.

    Attributes:
        key: Its name.
        split: Where the partition puts it; None if nowhere.
        reason: Why it can't be used.
    """

    key: str
    split: Split | None
    reason: str


def check_source(root: Path) -> None:
    """Raises DataError unless the folder is a RECOLA release."""
    for folder in (*(_ANNOTATIONS / dimension for dimension in DIMENSIONS), _AUDIO, _VIDEO):
        if not (root / folder).is_dir():
            raise DataError(f"{root}: no RECOLA release here; looked for {folder}")


def read_recordings(root: Path, partition: Partition) -> Iterator[Recording | Skip]:
    """Reads all recordings of a release, sorted by name.

    Args:
        root: The folder that the release was unpacked into.
        partition: "A" or "B", see `PARTITIONS`.

    Yields:
        A `Recording`, or a `Skip` where a file is missing or the partition doesn't know the name, for every
        name that occurs in the partition or among annotations, sound files and videos.

    Raises:
        DataError: The folder is no RECOLA release, or an annotation file is not as it must be.
    """
    check_source(root)
    splits = {f"P{number}": split for split, numbers in PARTITIONS[partition].items() for number in numbers}
    files = {
        "valence annotation": _files(root / _ANNOTATIONS / "valence", ".csv"),
        "arousal annotation": _files(root / _ANNOTATIONS / "arousal", ".csv"),
        "sound": _files(root / _AUDIO, ".wav"),
        "video": _files(root / _VIDEO, ".mp4"),
    }
    for name in sorted(set(splits).union(*files.values())):
        missing = [kind for kind, found in files.items() if name not in found]
        if name not in splits:
            yield Skip(name, None, f"not in partition {partition}")
        elif missing:
            yield Skip(
                name,
                splits[name],
                "absent" if len(missing) == len(files) else f"without {', '.join(missing)}",
            )
        else:
            raters, ratings = _read_ratings(files["valence annotation"][name], files["arousal annotation"][name])
            yield Recording(name, splits[name], files["sound"][name], files["video"][name], raters, ratings)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix}


def _read_ratings(valence: Path, arousal: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The traces of both dimensions as T×R×2, without the last label."""
    raters, valence_traces = _read_traces(valence)
    other_raters, arousal_traces = _read_traces(arousal)
    if raters != other_raters:
        raise DataError(f"{arousal}: raters {', '.join(other_raters)}, but {valence} has {', '.join(raters)}")
    if len(valence_traces) != len(arousal_traces):
        raise DataError(f"{arousal}: {len(arousal_traces)} labels, but {valence} has {len(valence_traces)}")
    return raters, np.stack([valence_traces, arousal_traces], axis=-1)[:-1].astype(np.float32)


def _read_traces(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The raters' names and their traces of one dimension (N+1 × R), after checking times and range."""
    rows = [row for row in map(_without_last_blanks, csv_rows(path, delimiter=";")) if row]
    header = rows[0] if rows else []
    if len(header) < 2 or header[0] != "time" or "" in header:
        raise DataError(f"{path}: the header must be time;rater;rater…, not {';'.join(header) or 'empty'}")
    raters = tuple(header[1:])
    try:
        if any(len(row) != len(header) for row in rows):
            raise ValueError("rows differ in length")
        table = np.array(rows[1:], np.float64)
    except ValueError as error:
        raise DataError(f"{path}: a row is not {len(header)} numbers; fetch the file anew") from error
    if len(table) < 2:
        raise DataError(f"{path}: {len(table)} labels; a recording has at least two")
    times, traces = table[:, 0], table[:, 1:]
    if not np.allclose(times, np.arange(len(times)) / FRAME_RATE_HZ, atol=0.005):
        raise DataError(f"{path}: labels must lie {1 / FRAME_RATE_HZ} s apart and begin at 0 s; resample them first")
    if not (np.abs(traces) <= 1).all():
        raise DataError(f"{path}: ratings must lie in [-1, 1]; this file has other values")
    return raters, traces


def _without_last_blanks(cells: list[str]) -> list[str]:
    """The cells of a row up to the last that isn't empty."""
    return cells[: 1 + max((place for place, cell in enumerate(cells) if cell), default=-1)]
