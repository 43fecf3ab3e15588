"""What became of everything that a corpus lists: counts by split, and the full lists beside the records."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.builders.recipe import Recipe
from data_pipelines.errors import DataError

SKIPPED_FILE = "skipped.csv"
"""Beside the records: everything that was skipped, one row each (split, key, reason)."""

NEAR_DUPLICATES_FILE = "near_duplicates.csv"
"""Beside the records, where there are any: split, key, key of the face it resembles, distance."""

_LISTED_IN_METADATA = 100


class Account:
    """Keeps the account of a dataset while it is written.

    Attributes:
        splits: For every split "items" and "records" (how many), the recipe's counts, "skipped" (how many for each
            reason) and "first_skipped" (key, reason).
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Opens an empty account.

        Args:
            recipe: How the dataset is made.
            folder: Where the lists are written.
        """
        self.splits: dict[str, dict[str, Any]] = {}
        self._recipe = recipe
        self._folder = folder

    def add(self, split: str, records: int, notes: Iterable[Mapping[str, Any]]) -> None:
        """Adds a split, or the rest of one.

        Args:
            split: Its name.
            records: How many it has.
            notes: Of all its chunks, see `Cooked`.

        Raises:
            DataError: A split of the recipe has no record.
        """
        entry = self.splits.setdefault(
            split, {"items": 0, "records": 0, **dict.fromkeys(self._recipe.counted, 0), "skipped": Counter()}
        )
        entry["records"] += records
        first = entry.pop("first_skipped", [])
        for chunk in notes:
            entry["items"] += chunk["items"]
            for name, count in chunk["counts"].items():
                entry[name] += count
            entry["skipped"].update(reason for _, reason in chunk["skipped"])
            first += chunk["skipped"][: _LISTED_IN_METADATA - len(first)]
            self._append(SKIPPED_FILE, split, chunk["skipped"])
            self._append(NEAR_DUPLICATES_FILE, split, chunk["near_duplicates"])
        entry["skipped"] = Counter(dict(sorted(entry["skipped"].items())))
        entry["first_skipped"] = first
        if not records and split in self._recipe.splits():
            reasons = dict(entry["skipped"]) or "nothing"
            raise DataError(f"{self._recipe.source}: nothing usable in split {split}; skipped: {reasons}")

    def add_without_split(self) -> None:
        """Adds what belongs to no split, or to one without a record."""
        for split, skip in self._recipe.without_split():
            notes = {"items": 1, "counts": {}, "skipped": [[skip.key, skip.reason]], "near_duplicates": []}
            self.add(split, 0, [notes])

    def _append(self, name: str, split: str, rows: Iterable[Iterable[Any]]) -> None:
        rows = [(split, *row) for row in rows]
        if rows:
            with (self._folder / name).open("a", newline="", encoding="utf-8", errors="replace") as handle:
                csv.writer(handle, lineterminator="\n").writerows(rows)
