"""Google FEC as ArrayRecord: the faces, each once, and the triplets that point into them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from avemo.labels import TRIPLET_KINDS
from data_pipelines.builders.dataset_builder import Workers, prepare
from data_pipelines.builders.labelled_faces import jpeg
from data_pipelines.builders.recipe import Outcome, Recipe
from data_pipelines.errors import DataError
from data_pipelines.faces import Box, CropConfig, crop_box, encode_jpeg, longer_side, read_picture
from data_pipelines.records import open_split, read_metadata
from data_pipelines.releases import fec
from data_pipelines.releases.items import Skip


@dataclass(frozen=True)
class FecPreparation(CropConfig):
    """How FEC is prepared; the first four as in `CropConfig`.

    Attributes:
        consensus: Share of the annotators' answers that must name the same face.
        ties: What becomes of answers that name two faces equally often: "drop" the triplet, or take the face that was
            named "first".
    """

    consensus: float = 2 / 3
    ties: fec.Ties = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.consensus <= 1:
            raise ValueError(f"consensus must lie in (0, 1], not {self.consensus}")


def prepare_fec(source: Path, out: Path, config: FecPreparation, workers: Workers) -> Path:
    """Prepares FEC: `out/fec/faces/<version>` holds every face once, `out/fec/triplets/<version>` positions in it.

    Both have the splits "train" and "test"; a triplet's faces lie in the split of the same name. The triplets name the
    fingerprint of the faces that they were made for and are used only beside those.

    Args:
        source: The folder with the lists and the photographs; only read.
        out: The folder for prepared datasets.
        config: How to prepare.
        workers: Who does the work.

    Returns:
        `out/fec`, where both lie; what was prepared before, in the same way, from the same photographs, is used again.

    Raises:
        DataError: The source isn't FEC, or `out` holds it prepared in another way, or triplets of other faces.
    """
    fec.check_source(source)
    faces = prepare(FecFaces(source, config), out, workers)
    fingerprint = read_metadata(faces)["fingerprint"]
    prepare(FecTriplets(source, config, out, fingerprint), out, workers)
    return out / "fec"


@dataclass(frozen=True)
class Photograph:
    """A photograph with the faces that are wanted of it.

    Attributes:
        url: Where it was published.
        path: Its file.
        boxes: (left, top, right, bottom) of each face as fractions of width and height.
    """

    url: str
    path: Path
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class FecFaces(Recipe):
    """How FEC's faces are made: every face of a triplet with consensus, once.

    Attributes:
        source: The lists and photographs.
        config: How to prepare.
    """

    source: Path
    config: FecPreparation

    name = "fec/faces"
    description = "Google FEC: one cut face per record."
    unit = "photographs"

    def preparation(self) -> dict[str, Any]:
        """The settings, and which photographs were there."""
        return asdict(self.config) | {"photographs": fec.photographs_fingerprint(self.source)}

    def features(self) -> dict[str, Any]:
        """A picture with its name."""
        return {
            "key": tfds.features.Text(),
            "image": jpeg(self.config.size),
            "face_size_px": tfds.features.Scalar(np.float32),
        }

    def splits(self) -> Sequence[fec.Split]:
        """Those of the release."""
        return fec.SPLITS

    def items(self, split: Any) -> Iterator[Photograph]:
        """The photographs in the order in which the list first needs them."""
        photographs: dict[str, dict[Box, None]] = {}
        skipped: Counter[str] = Counter()
        for triplet in fec.read_split(self.source, split, self.config.consensus, self.config.ties):
            if isinstance(triplet, Skip):
                skipped[triplet.reason] += 1
                continue
            for face in triplet.faces:
                photographs.setdefault(face.url, {})[face.box] = None
        if not photographs:
            raise DataError(
                f"{self.source}: no triplet of split {split} can be used; skipped: {dict(skipped) or 'nothing'}"
            )
        for url, boxes in photographs.items():
            yield Photograph(url, fec.photograph_path(self.source, url), tuple(boxes))

    def files(self, item: Photograph) -> Sequence[Path]:
        """The photograph."""
        return (item.path,)

    def prepare(self, split: str, item: Photograph) -> Outcome:
        """A record for each face."""
        image = read_picture(item.path) if item.path.is_file() else "photograph absent"
        if isinstance(image, str):
            return Outcome(skips=[Skip(face_key(item.url, box), image) for box in item.boxes])
        records, skips = [], []
        height, width = image.shape[:2]
        for box in item.boxes:
            key = face_key(item.url, box)
            in_pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
            crop = crop_box(image, in_pixels, self.config)
            if crop is None:
                skips.append(Skip(key, "box outside the picture"))
            else:
                jpeg_bytes = encode_jpeg(crop, self.config.jpeg_quality)
                records.append(
                    {"key": key, "image": jpeg_bytes, "face_size_px": np.float32(longer_side(image, in_pixels))}
                )
        return Outcome(records, skips)

    def metadata(self) -> dict[str, Any]:
        """How far the pictures of train and test are disjoint."""
        return {"shared_photographs": fec.shared_photographs(self.source)}


@dataclass(frozen=True)
class Places:
    """A triplet as positions among the prepared faces.

    Attributes:
        key: Its line in the list.
        faces: Positions; the odd one out comes last.
        kind: One of `avemo.labels.TRIPLET_KINDS`.
    """

    key: str
    faces: tuple[int, int, int]
    kind: str


@dataclass(frozen=True)
class FecTriplets(Recipe):
    """How FEC's triplets are made, once its faces are there.

    Attributes:
        source: The lists.
        config: How to prepare.
        out: The folder for prepared datasets.
        faces_fingerprint: Of the faces that the triplets point at.
    """

    source: Path
    config: FecPreparation
    out: Path
    faces_fingerprint: str

    name = "fec/triplets"
    description = "Google FEC: triplets of positions in fec/faces."
    unit = "triplets"
    counted = TRIPLET_KINDS
    items_per_chunk = 1024

    def preparation(self) -> dict[str, Any]:
        """The settings, and the faces."""
        return asdict(self.config) | {"faces_fingerprint": self.faces_fingerprint}

    def features(self) -> dict[str, Any]:
        """Three positions and the kind."""
        return {
            "key": tfds.features.Text(),
            "faces": tfds.features.Tensor(shape=(3,), dtype=np.int64),
            "kind": tfds.features.ClassLabel(names=TRIPLET_KINDS),
        }

    def splits(self) -> Sequence[fec.Split]:
        """Those of the release."""
        return fec.SPLITS

    def items(self, split: Any) -> Iterator[Places | Skip]:
        """The triplets, as far as all their faces were prepared."""
        faces = open_split(self.out, "fec/faces", split)
        positions = {face["key"][0].decode(): index for index, face in enumerate(faces)}
        for triplet in fec.read_split(self.source, split, self.config.consensus, self.config.ties):
            if isinstance(triplet, Skip):
                yield triplet
                continue
            first, second, last = (positions.get(face_key(face.url, face.box)) for face in triplet.faces)
            if first is None or second is None or last is None:
                yield Skip(triplet.key, f"a face is missing ({triplet.kind})")
            else:
                yield Places(triplet.key, (first, second, last), triplet.kind)

    def prepare(self, split: str, item: Places) -> Outcome:
        """A record."""
        kind = TRIPLET_KINDS.index(item.kind)
        record = {"key": item.key, "faces": np.array(item.faces, np.int64), "kind": kind}
        return Outcome([record], counts=Counter([item.kind]))


def face_key(url: str, box: Box) -> str:
    """The name of a face: photograph and box together."""
    return " ".join([url, *map(repr, box)])
