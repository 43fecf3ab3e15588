"""Recordings as ArrayRecord: faces, sound, ratings and the gold standard; RECOLA's and people's own."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders.labelled_faces import jpeg
from data_pipelines.builders.recipe import Outcome, Recipe
from data_pipelines.errors import DataError
from data_pipelines.recordings import COUNTED, ClipConfig, prepare_recording
from data_pipelines.releases.items import Recording, Skip


@dataclass(frozen=True)
class Overview:
    """What is known of all recordings before any is prepared.

    Attributes:
        splits: The splits that have a recording.
        raters: The raters' names, the same for every recording.
        without_split: What can't be used and is in none of those splits: (split or "unassigned", the skip).
        labels: Digest (SHA-256, hexadecimal) of all labels.
    """

    splits: tuple[str, ...]
    raters: tuple[str, ...]
    without_split: tuple[tuple[str, Skip], ...]
    labels: str


def overview(source: Path, listed: Iterator[tuple[str | None, Recording | Skip]], splits: Sequence[str]) -> Overview:
    """Looks through a list of recordings.

    Args:
        source: Where it comes from, for messages.
        listed: Recordings and what can't be used, with their split.
        splits: All splits that there may be, in order.

    Returns:
        The overview.

    Raises:
        DataError: There is no recording, or two have different raters.
    """
    present: dict[str, Recording] = {}
    skips: list[tuple[str, Skip]] = []
    labels = hashlib.sha256()
    for split, item in listed:
        if isinstance(item, Skip):
            skips.append((split or "unassigned", item))
            continue
        first = next(iter(present.values()), item)
        if item.raters != first.raters:
            raise DataError(f"{source}: {item.name} and {first.name} have different raters")
        present.setdefault(item.split, item)
        for traces in (item.ratings, item.gold_standard):
            labels.update(b"none" if traces is None else traces.tobytes())
    if not present:
        reasons = dict(Counter(skip.reason for _, skip in skips))
        raise DataError(f"{source}: no recording can be used; skipped: {reasons or 'nothing'}")
    return Overview(
        tuple(split for split in splits if split in present),
        next(iter(present.values())).raters,
        tuple(row for row in skips if row[0] not in present),
        labels.hexdigest(),
    )


class RecordingsRecipe(Recipe):
    """How a dataset of recordings is made.

    Attributes:
        config: How to prepare.
        overview: What is known of all of them.
    """

    config: ClipConfig
    overview: Overview

    unit = "recordings"
    counted = COUNTED
    items_per_chunk = 1

    def listed(self) -> Iterator[tuple[str | None, Recording | Skip]]:
        """All recordings, and what can't be used, with their split."""
        raise NotImplementedError

    def features(self) -> dict[str, Any]:
        """One recording."""
        return {
            "name": tfds.features.Text(),
            "frames": tfds.features.Sequence(jpeg(self.config.size)),
            "face_valid": _array((None,), np.bool_),
            "face_size_px": _array((None,), np.float32),
            "waveform": _array((None,), np.int16),
            "voice_valid": tfds.features.Scalar(np.bool_),
            "ratings": _array((None, len(self.overview.raters), 2), np.float32),
            "gold_standard": _array((None, 2), np.float32),
        }

    def splits(self) -> Sequence[str]:
        """Those that have a recording."""
        return self.overview.splits

    def items(self, split: str) -> Iterator[Recording | Skip]:
        """The recordings of a split."""
        return (item for where, item in self.listed() if where == split)

    def total(self, split: str) -> int:
        """How many of them."""
        return sum(1 for _ in self.items(split))

    def files(self, item: Recording) -> Sequence[Path]:
        """Picture and sound."""
        return [path for path in (item.video, item.audio) if path is not None]

    def prepare(self, split: str, item: Recording) -> Outcome:
        """A record, unless there is neither face nor sound to be had."""
        found = prepare_recording(item, self.config)
        if isinstance(found, str):
            return Outcome(skips=[Skip(item.name, found)])
        record, counts = found
        stored = {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in record.items()}
        return Outcome([stored], counts=counts)

    def without_split(self) -> Iterator[tuple[str, Skip]]:
        """What belongs to no split, or to one without a recording."""
        return iter(self.overview.without_split)

    def metadata(self) -> dict[str, Any]:
        """Who rated."""
        return {"raters": list(self.overview.raters)}


def _array(shape: tuple[int | None, ...], dtype: Any) -> tfds.features.Tensor:
    """An array stored as its bytes: long ones are slow to parse as lists of numbers."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
