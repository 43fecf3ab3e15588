"""What a network said of prepared faces, kept beside them, so that others learn from it without running it.

`<data>/<purpose>/<corpus>/<key>/view-<v>.array_record` holds a record for each face of a split, in its order:
the network's outputs on that face as it is varied the v-th way, float32 numbers one after the other. `key` is a digest
of all they depend on, so that what another network said, or of other faces, is never read.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter


@dataclass(frozen=True)
class KeptOutputs:
    """One network's outputs on the faces of one corpus.

    Attributes:
        folder: Where they lie.
        sizes: How many numbers each output has, by name, in the order in which they are written.
        views: In how many ways the faces are varied.
    """

    folder: Path
    sizes: Mapping[str, int]
    views: int

    @classmethod
    def beside(
        cls, data_dir: Path, purpose: str, corpus: str, key: str, sizes: Mapping[str, int], views: int = 1
    ) -> "KeptOutputs":
        """Those of a key, written or not, in the folder of prepared datasets."""
        return cls(data_dir / purpose / corpus / key, sizes, views)

    def lacks(self, view: int) -> bool:
        """Whether a view isn't written yet."""
        return not self._path(view).exists()

    def write(self, view: int, outputs: Mapping[str, np.ndarray]) -> None:
        """Write a view: the outputs on all faces, in order. A part of it is never taken for all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._path(view).with_suffix(f".{os.getpid()}.partial")  # another process may be writing the same
        writer = ArrayRecordWriter(os.fspath(partial), "group_size:1,uncompressed")
        for row in np.concatenate([np.asarray(outputs[name], "<f4") for name in self.sizes], axis=1):
            writer.write(row.tobytes())
        writer.close()
        partial.replace(self._path(view))

    def read(self, faces_B: np.ndarray, epochs_B: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs on some faces as varied in some epochs, float32 B×D each, by name."""
        views_B = epochs_B % self.views
        rows = np.empty((len(faces_B), self._width), np.float32)
        for view in np.unique(views_B).tolist():
            chosen = views_B == view
            rows[chosen] = self._view(view)[faces_B[chosen]]
        ends = np.cumsum([*self.sizes.values()])[:-1]
        return dict(zip(self.sizes, np.split(rows, ends, axis=1), strict=True))

    @functools.cached_property
    def _view(self) -> Callable[[int], np.ndarray]:
        """Reads a view as a whole, N×width, and keeps the last two: an epoch takes one, all of it, in any order."""

        @functools.lru_cache(maxsize=2)
        def read(view: int) -> np.ndarray:
            source = ArrayRecordDataSource([os.fspath(self._path(view))])
            return np.frombuffer(b"".join(source.__getitems__(range(len(source)))), "<f4").reshape(-1, self._width)

        return read

    @property
    def _width(self) -> int:
        return sum(self.sizes.values())

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view:03d}.array_record"
