"""What a builder must know of a corpus: which items there are, and what becomes of one."""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_pipelines.processes import OrderedMap
from data_pipelines.records import serialized
from data_pipelines.releases.items import Skip
from data_pipelines.synthetic.corpus import TRUTH_FILE


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Attributes:
        records: A dict of features for each record that it gives, as `records.serialized` takes them.
        skips: What of it was left out.
        counts: What is to be counted; names as in `Recipe.counted`.
        near_duplicates: (its key, key of the face that it resembles, distance).
    """

    records: Sequence[Mapping[str, Any]] = ()
    skips: Sequence[Skip] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    near_duplicates: Sequence[tuple[str, str, int]] = ()


class Recipe(ABC):
    """How one dataset is made. Instances go to other processes and other machines, so they are small.

    Attributes:
        name: Name of the dataset, its folder among the prepared datasets.
        description: One sentence on what a record is.
        unit: What its items are called, for the progress bar.
        counted: Names of all counts.
        items_per_chunk: Items that a process takes at once: many, where one takes little time.
        source: The folder or list that is read.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    unit: ClassVar[str]
    counted: ClassVar[tuple[str, ...]] = ()
    items_per_chunk: ClassVar[int] = 32
    source: Path

    @property
    def synthetic(self) -> bool:
        """Whether the source was drawn: a `truth.json` lies in its folder, see `data_pipelines.synthetic`."""
        return ((self.source if self.source.is_dir() else self.source.parent) / TRUTH_FILE).is_file()

    @abstractmethod
    def preparation(self) -> dict[str, Any]:
        """Every setting that the result depends on, as it goes into the metadata."""

    @abstractmethod
    def features(self) -> dict[str, Any]:
        """The features of a record, in TFDS's terms."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """The splits; each gives at least one record, or preparing fails."""

    @abstractmethod
    def items(self, split: str) -> Iterator[Any]:
        """The items of a split in order: dataclasses, among them a `Skip` for what can't even be tried."""

    @abstractmethod
    def prepare(self, split: str, item: Any) -> Outcome:
        """What becomes of an item of a split, if it is no `Skip`; runs in another process."""

    def total(self, split: str) -> int | None:
        """How many items a split has, if that can be told quickly."""
        return None

    def files(self, item: Any) -> Sequence[Path]:
        """The files that an item is made from, apart from lists."""
        return ()

    def without_split(self) -> Iterator[tuple[str, Skip]]:
        """What can't be used and is in none of the splits: (the split where it is accounted for, the skip)."""
        return iter(())

    def metadata(self) -> dict[str, Any]:
        """What else is told of the whole dataset."""
        return {}

    def with_overview(self, map_: OrderedMap) -> "Recipe":
        """The recipe with what must be known of all items before any of them is prepared."""
        return self


def chunks(recipe: Recipe, split: str) -> Iterator[list[Any]]:
    """The items of a split in order, as many at once as a process takes."""
    items = iter(recipe.items(split))
    return iter(lambda: list(itertools.islice(items, recipe.items_per_chunk)), [])


@dataclass(frozen=True)
class Cooked:
    """What became of a chunk of items.

    Attributes:
        records: Serialized records.
        notes: "items" (how many), "skipped" (key, reason), "counts" and "near_duplicates", fit for JSON.
    """

    records: list[bytes]
    notes: dict[str, Any]


def cook(recipe: Recipe, split: str, items: Sequence[Any]) -> Cooked:
    """Prepares a chunk of items of a split: the unit of work of a process."""
    outcomes = [Outcome(skips=[item]) if isinstance(item, Skip) else recipe.prepare(split, item) for item in items]
    counts = {name: sum(outcome.counts.get(name, 0) for outcome in outcomes) for name in recipe.counted}
    return Cooked(
        records=[serialized(record) for outcome in outcomes for record in outcome.records],
        notes={
            "items": len(items),
            "skipped": [[skip.key, skip.reason] for outcome in outcomes for skip in outcome.skips],
            "counts": counts,
            "near_duplicates": [list(row) for outcome in outcomes for row in outcome.near_duplicates],
        },
    )


def digest(recipe: Recipe, items: Sequence[Any]) -> bytes:
    """Changes when the items do, or the files they are made from (as sizes and times tell); 32 bytes."""
    found = hashlib.sha256()
    for item in items:
        for member in fields(item):
            value = getattr(item, member.name)
            found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode("utf-8", "replace"))
        for path in () if isinstance(item, Skip) else recipe.files(item):
            found.update(_state(path))
    return found.digest()


def _state(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:
        return b"absent"
    return f"{status.st_size} {status.st_mtime_ns}".encode()
