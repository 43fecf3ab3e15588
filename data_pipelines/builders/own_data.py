"""People's own pictures and clips, listed in a CSV file, as records like AffectNet's and RECOLA's."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipelines.builders import labelled_faces
from data_pipelines.builders.dataset_builder import Workers, prepare
from data_pipelines.builders.recipe import Outcome, Recipe
from data_pipelines.builders.recordings import Overview, RecordingsRecipe, overview
from data_pipelines.faces import CropConfig
from data_pipelines.gold_standard import check_available
from data_pipelines.recordings import ClipConfig
from data_pipelines.releases import manifest
from data_pipelines.releases.items import Face, Recording, Skip


def prepare_faces(source: Path, out: Path, config: CropConfig, workers: Workers) -> Path:
    """Prepares the pictures of a list as `out/faces/<version>`.

    Args:
        source: The list, see `releases.manifest`; paths in it start at its folder.
        out: The folder for prepared datasets.
        config: How to prepare.
        workers: Who does the work.

    Returns:
        The folder of the prepared dataset; one that was prepared before, in the same way, is used again.

    Raises:
        DataError: The list isn't as it must be, or `out` holds it prepared in another way.
    """
    return prepare(FacesRecipe(source, config, manifest.face_splits(source), manifest.has_votes(source)), out, workers)


def prepare_clips(source: Path, out: Path, config: ClipConfig, workers: Workers) -> Path:
    """Prepares the clips of a list as `out/clips/<version>`; otherwise as `prepare_faces`."""
    found = overview(source, manifest.read_clips(source, source.parent), manifest.CLIP_SPLITS)
    check_available(config.gold_standard, len(found.raters), released=False)
    return prepare(ClipsRecipe(source, config, found), out, workers)


@dataclass(frozen=True)
class FacesRecipe(Recipe):
    """How people's own pictures are made.

    Attributes:
        source: The list.
        config: How to prepare.
        named_splits: The splits that the list names.
        has_votes: Whether it says how raters voted.
    """

    source: Path
    config: CropConfig
    named_splits: tuple[str, ...]
    has_votes: bool

    name = "faces"
    description = "Own pictures: one cut face per record."
    unit = "faces"
    counted = labelled_faces.COUNTED

    def preparation(self) -> dict[str, Any]:
        """The settings, and which list it was."""
        return asdict(self.config) | {"list": _digest(self.source)}

    def features(self) -> dict[str, Any]:
        """Those of a labelled face."""
        return labelled_faces.features(self.config.size, soft_label=self.has_votes)

    def splits(self) -> Sequence[str]:
        """Those of the list."""
        return self.named_splits

    def items(self, split: str) -> Iterator[Face | Skip]:
        """The faces of a split."""
        return manifest.read_faces(self.source, self.source.parent, split)

    def files(self, item: Face) -> Sequence[Path]:
        """The picture."""
        return (item.image,)

    def prepare(self, split: str, item: Face) -> Outcome:
        """A record, unless there is no picture."""
        found = labelled_faces.cut(item, self.config, align=False)
        if isinstance(found, str):
            return Outcome(skips=[Skip(item.key, found)])
        record, counts = labelled_faces.record(item, *found, self.config, self.has_votes)
        return Outcome([record], counts=counts)


@dataclass(frozen=True)
class ClipsRecipe(RecordingsRecipe):
    """How people's own clips are made.

    Attributes:
        source: The list.
        config: How to prepare.
        overview: What is known of all of them.
    """

    source: Path
    config: ClipConfig
    overview: Overview

    name = "clips"
    description = "Own clips: one recording per record."

    def preparation(self) -> dict[str, Any]:
        """The settings, which list it was, and which labels."""
        return asdict(self.config) | {"list": _digest(self.source), "labels": self.overview.labels}

    def listed(self) -> Iterator[tuple[str | None, Recording | Skip]]:
        """The clips of the list."""
        return manifest.read_clips(self.source, self.source.parent)


def _digest(path: Path) -> str:
    """Another list makes another dataset."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
