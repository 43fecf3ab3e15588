"""AffectNet as ArrayRecord: one cut face per record."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from data_pipelines.builders import labelled_faces
from data_pipelines.builders.dataset_builder import Workers, prepare
from data_pipelines.builders.recipe import Outcome, Recipe
from data_pipelines.faces import CropConfig
from data_pipelines.near_duplicates import KnownFaces, perceptual_hash
from data_pipelines.processes import OrderedMap
from data_pipelines.releases import affectnet
from data_pipelines.releases.items import Face, Skip

_FACES_AT_ONCE = 32


@dataclass(frozen=True)
class AffectNetPreparation(CropConfig):
    """How AffectNet is prepared; the first four as in `CropConfig`.

    The pictures of the 2021 release and of AffectNet+ are cut to the face already: a margin around them repeats their
    edge.

    Attributes:
        release: The form that the source folder has; "auto" finds out by looking.
        align: Turn and scale faces by the release's landmarks, instead of cutting along the box; faces without
            landmarks are skipped then.
        unlabelled: Classes without an expression (codes 8, 9, 10 of the training list) that are kept, as a split
            "unlabelled", to distil from; the others are skipped.
        automatic: Whether the automatically annotated part becomes a split "automatic".
        near_duplicates: What becomes of faces outside the validation split that nearly duplicate one inside: "report"
            only lists them, "drop" leaves them out as well.
    """

    release: Literal["auto", "2017", "2021", "plus"] = "auto"
    align: bool = False
    unlabelled: tuple[affectnet.Unlabelled, ...] = ()
    automatic: bool = False
    near_duplicates: Literal["report", "drop"] = "report"


def prepare_affectnet(source: Path, out: Path, config: AffectNetPreparation, workers: Workers) -> Path:
    """Prepares AffectNet as `out/affectnet/<version>`, splits "train" and "validation", and what else is asked for.

    Args:
        source: The folder that the release was unpacked into; only read.
        out: The folder for prepared datasets.
        config: How to prepare.
        workers: Who does the work.

    Returns:
        The folder of the prepared dataset; one that was prepared before, in the same way, is used again.

    Raises:
        DataError: The source is no AffectNet release, or `out` holds it prepared in another way.
    """
    release = affectnet.detect_release(source) if config.release == "auto" else config.release
    affectnet.check_source(source, release, config.automatic)
    return prepare(AffectNetRecipe(source, config, release), out, workers)


@dataclass(frozen=True)
class AffectNetRecipe(Recipe):
    """How AffectNet is made.

    Attributes:
        source: The release.
        config: How to prepare.
        release: Its form.
        validation: The faces that the others may duplicate.
    """

    source: Path
    config: AffectNetPreparation
    release: affectnet.Release
    validation: KnownFaces = field(default_factory=lambda: KnownFaces.of([]))

    name = "affectnet"
    description = "AffectNet: one cut face per record."
    unit = "faces"
    counted = (*labelled_faces.COUNTED, "near_duplicates")

    def preparation(self) -> dict[str, Any]:
        """The settings, with the release that was found."""
        return asdict(self.config) | {"release": self.release}

    def features(self) -> dict[str, Any]:
        """Those of a labelled face."""
        return labelled_faces.features(self.config.size, soft_label=self.release == "plus")

    def splits(self) -> Sequence[affectnet.Split]:
        """Two, and those asked for."""
        asked: dict[affectnet.Split, bool] = {
            "unlabelled": bool(self.config.unlabelled),
            "automatic": self.config.automatic,
        }
        return (*affectnet.SPLITS, *(split for split, wanted in asked.items() if wanted))

    def items(self, split: Any) -> Iterator[Face | Skip]:
        """The release's faces."""
        return affectnet.read_split(
            self.source, self.release, split, self.config.unlabelled, landmarks=self.config.align
        )

    def total(self, split: Any) -> int | None:
        """The number of rows, or of pictures."""
        return affectnet.count(self.source, self.release, split)

    def files(self, item: Face) -> Sequence[Path]:
        """The picture."""
        return (item.image,)

    def with_overview(self, map_: OrderedMap) -> "AffectNetRecipe":
        """The recipe that knows the validation faces."""
        faces = [item for item in self.items("validation") if isinstance(item, Face)]
        chunks = (faces[start : start + _FACES_AT_ONCE] for start in range(0, len(faces), _FACES_AT_ONCE))
        known: list[tuple[str, np.ndarray]] = []
        with tqdm(desc="affectnet validation overview", unit=" faces", total=len(faces), disable=None) as progress:
            for chunk in map_(partial(_hashes, self.config), chunks):
                known += chunk
                progress.update(_FACES_AT_ONCE)
        return replace(self, validation=KnownFaces.of(known))

    def prepare(self, split: str, item: Face) -> Outcome:
        """A record, unless there is no picture, or it is a duplicate and those are dropped."""
        found = labelled_faces.cut(item, self.config, self.config.align)
        if isinstance(found, str):
            return Outcome(skips=[Skip(item.key, found)])
        crop, size_px = found
        nearest = None if split == "validation" else self.validation.nearest(crop)
        near = [] if nearest is None else [(item.key, *nearest)]
        if near and self.config.near_duplicates == "drop":
            return Outcome(skips=[Skip(item.key, "near-duplicate of a validation face")], near_duplicates=near)
        record, counts = labelled_faces.record(item, crop, size_px, self.config, self.release == "plus")
        return Outcome([record], counts=counts | {"near_duplicates": len(near)}, near_duplicates=near)


def _hashes(config: AffectNetPreparation, faces: Sequence[Face]) -> list[tuple[str, np.ndarray]]:
    """Names and perceptual hashes of those faces that can be cut."""
    found = ((face, labelled_faces.cut(face, config, config.align)) for face in faces)
    return [(face.key, perceptual_hash(result[0])) for face, result in found if not isinstance(result, str)]
