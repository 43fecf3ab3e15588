"""What the records of a prepared dataset hold, found in one pass over them.

Pictures stay encoded but for the few that are shown. Of every face a few numbers are kept, so memory grows by some
16 bytes with each, not by its picture.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from avemo.labels import FRAME_RATE_HZ
from data_pipelines.gold_standard import pairwise_ccc
from data_pipelines.records import Records

T = TypeVar("T")

NO_LABEL = -1
"""Expression of a face without one."""


class Sample(Generic[T]):
    """So many items of a stream, each with the same chance (reservoir sampling: Vitter 1985, algorithm R)."""

    def __init__(self, count: int) -> None:
        self.items: list[T] = []
        self._count = count
        self._seen = 0
        self._random = np.random.default_rng(0)

    def offer(self, item: T) -> None:
        """Take the next item of the stream, or pass it over."""
        self._seen += 1
        if len(self.items) < self._count:
            self.items.append(item)
        elif self._count and (place := int(self._random.integers(self._seen))) < self._count:
            self.items[place] = item


@dataclass
class Faces:
    """One split of a dataset of faces.

    Attributes:
        sampled: how many pictures of each class are kept.
        wanted: keys of further pictures to keep.
        records: number of faces.
        classes: number of faces of each expression, by its position in `avemo.labels.EXPRESSIONS` or `NO_LABEL`;
            empty where the dataset has no expressions.
        valence: of the faces that have both.
        arousal: likewise.
        sizes_px: longer side of each face's box in the source picture.
        soft_labels: number of faces with a soft label and an expression.
        soft_labels_agreeing: number of those whose most probable expression is their expression.
        samples: pictures, JPEG, by expression.
        found: the wanted pictures, JPEG, by key.
    """

    sampled: int
    wanted: frozenset[str]
    records: int = 0
    classes: Counter[int] = field(default_factory=Counter)
    valence: array = field(default_factory=lambda: array("f"))
    arousal: array = field(default_factory=lambda: array("f"))
    sizes_px: array = field(default_factory=lambda: array("f"))
    soft_labels: int = 0
    soft_labels_agreeing: int = 0
    samples: dict[int, Sample[bytes]] = field(default_factory=dict)
    found: dict[str, bytes] = field(default_factory=dict)

    def add(self, record: Mapping[str, Sequence[Any]]) -> None:
        """Take one record into account."""
        self.records += 1
        expression = record["expression"][0] if "expression" in record else NO_LABEL
        if "expression" in record:
            self.classes[expression] += 1
        if "valence_arousal" in record and record["valence_arousal_valid"][0]:
            valence, arousal = record["valence_arousal"]
            self.valence.append(valence)
            self.arousal.append(arousal)
        if "face_size_px" in record:
            self.sizes_px.append(record["face_size_px"][0])
        if "soft_label" in record and expression != NO_LABEL:
            self.soft_labels += 1
            shares = list(record["soft_label"])
            self.soft_labels_agreeing += shares.index(max(shares)) == expression
        if expression not in self.samples:
            self.samples[expression] = Sample(self.sampled)
        self.samples[expression].offer(record["image"][0])
        if self.wanted and (key := record["key"][0].decode()) in self.wanted:
            self.found[key] = record["image"][0]


@dataclass
class Triplets:
    """One split of a dataset of triplets.

    Attributes:
        sampled: how many triplets of each kind are kept.
        records: number of triplets.
        kinds: number of triplets of each kind, by its position in `avemo.labels.TRIPLET_KINDS`.
        samples: positions of three faces in the split of the same name, by kind.
    """

    sampled: int
    records: int = 0
    kinds: Counter[int] = field(default_factory=Counter)
    samples: dict[int, Sample[tuple[int, ...]]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Sequence[Any]]) -> None:
        """Take one record into account."""
        self.records += 1
        kind = record["kind"][0]
        self.kinds[kind] += 1
        if kind not in self.samples:
            self.samples[kind] = Sample(self.sampled)
        self.samples[kind].offer(tuple(record["faces"]))


@dataclass(frozen=True)
class Recording:
    """One recording.

    Attributes:
        name: its name.
        split: where it is.
        frames: number of video frames (T).
        frames_with_face: number of those in which a face was found.
        voice_valid: whether a voice is heard.
        agreement: mean CCC of all pairs of raters, for each dimension; None with less than two raters.
        gold_standard: float32, S×2: means over each second, the last one maybe shorter.
        sizes_px: float32: longer side of the face box where there is a face; empty where the dataset doesn't say.
        samples: frames, JPEG, at equal distances over the recording.
    """

    name: str
    split: str
    frames: int
    frames_with_face: int
    voice_valid: bool
    agreement: tuple[float, ...] | None
    gold_standard: np.ndarray
    sizes_px: np.ndarray
    samples: list[bytes]

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.frames / FRAME_RATE_HZ


def survey_faces(
    folder: Path, sampled: int, wanted: Mapping[str, frozenset[str]] = defaultdict(frozenset)
) -> dict[str, Faces]:
    """Each split of a dataset of faces; `wanted` says by split which keys' pictures are to be kept."""
    surveys = {split: Faces(sampled, wanted.get(split, frozenset())) for split in open_splits(folder)}
    for split, record in read_records(folder):
        surveys[split].add(record)
    return surveys


def survey_triplets(folder: Path, sampled: int) -> dict[str, Triplets]:
    """Each split of a dataset of triplets."""
    surveys = {split: Triplets(sampled) for split in open_splits(folder)}
    for split, record in read_records(folder):
        surveys[split].add(record)
    return surveys


def survey_recordings(folder: Path, sampled: int) -> list[Recording]:
    """Every recording of a dataset of recordings."""
    return [recording_of(split, record, sampled) for split, record in read_records(folder)]


def recording_of(split: str, record: Mapping[str, Sequence[Any]], sampled: int) -> Recording:
    """What is told of one recording; `sampled` is the number of frames to keep."""
    frames = record["frames"]
    face_valid = np.frombuffer(record["face_valid"][0], np.bool_)
    sizes_px = np.frombuffer(record["face_size_px"][0], np.float32)[face_valid] if "face_size_px" in record else ()
    ratings = np.frombuffer(record["ratings"][0], np.float32)
    gold_standard = np.frombuffer(record["gold_standard"][0], np.float32).reshape(-1, 2)
    seconds = range(0, len(gold_standard), FRAME_RATE_HZ)
    return Recording(
        name=record["name"][0].decode(),
        split=split,
        frames=len(frames),
        frames_with_face=int(face_valid.sum()),
        voice_valid=bool(record["voice_valid"][0]),
        agreement=rater_agreement(ratings.reshape(len(frames), ratings.size // (2 * len(frames)), 2)),
        gold_standard=np.stack([gold_standard[start : start + FRAME_RATE_HZ].mean(axis=0) for start in seconds]),
        sizes_px=np.asarray(sizes_px, np.float32),
        samples=[frames[int((i + 0.5) * len(frames) / sampled)] for i in range(sampled)],
    )


def rater_agreement(ratings_TxRx2: np.ndarray) -> tuple[float, ...] | None:
    """Mean CCC of all pairs of raters, valence and arousal; None with less than two raters."""
    pairs = np.triu_indices(ratings_TxRx2.shape[1], k=1)
    if not len(pairs[0]):
        return None
    traces = ratings_TxRx2.astype(np.float64)
    return tuple(float(pairwise_ccc(traces[..., dimension])[pairs].mean()) for dimension in range(2))


def open_splits(folder: Path) -> dict[str, Records]:
    """The records of each split of the dataset in a folder."""
    splits = tfds.builder_from_directory(folder).info.splits
    return {name: Records([str(path) for path in info.filepaths], info.num_examples) for name, info in splits.items()}


def read_records(folder: Path) -> Iterator[tuple[str, Mapping[str, Sequence[Any]]]]:
    """All records in order, as `Records` gives them, with their split."""
    splits = open_splits(folder)
    total = sum(map(len, splits.values()))
    with tqdm(desc=f"reading {folder}", unit=" records", total=total, disable=None) as progress:
        for name, records in splits.items():
            for record in records:
                yield name, record
                progress.update()
