"""Prepared datasets: what the readers yield, cut, encoded and written as ArrayRecord by TFDS builders.

`prepare_affectnet`, `prepare_fec` and `prepare_recola` are the way in. A prepared dataset lies in
`out/<name>/<version>/` with its metadata: how the faces were cut, what was counted, what was skipped and why,
and a fingerprint of the records. TFDS writes into a folder of another name and renames it at the end, so a
dataset whose folder exists is complete. FEC is two of them: its triplets, written last, point into its faces and
are used only beside those whose fingerprint they name.

Records lie in the order of the release's list and don't depend on the number of processes. Images are handed
to TFDS as encoded bytes, so TensorFlow is needed neither to write nor to read.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer
from tqdm import tqdm

from avemo.labels import EXPRESSIONS, TRIPLET_KINDS
from data_pipelines.errors import DataError
from data_pipelines.faces import Box, CropConfig, FaceFinder, crop_file
from data_pipelines.gold_standard import GoldStandard, gold_standard
from data_pipelines.processes import worker_pool
from data_pipelines.records import VERSION, dataset_folder, open_split, read_metadata
from data_pipelines.releases import affectnet, fec, recola
from data_pipelines.sound import fit_to_frames, has_voice, load_sound, to_int16
from data_pipelines.video import black_jpeg, face_crops, frames, track_face

SKIPPED_FILE = "skipped.csv"
"""Beside the records: everything that was skipped, one row each (split, key, reason)."""

_log = logging.getLogger(__name__)

_LISTED_IN_METADATA = 100
_TASKS_PER_CHUNK = 16


def _processors() -> int:
    return os.cpu_count() or 1


@dataclass(frozen=True)
class AffectNetPreparation(CropConfig):
    """How AffectNet is prepared; size, margin and jpeg_quality as in `CropConfig`.

    The pictures of the 2021 release are cut to the face already: a margin around them repeats their edge.

    Attributes:
        release: The form that the source folder has; "auto" finds out by looking.
        processes: Number of processes that decode, cut and encode; doesn't change the result.
    """

    release: Literal["auto", "2017", "2021"] = "auto"
    processes: int = field(default_factory=_processors)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_processes(self.processes)


def prepare_affectnet(source: Path, out: Path, config: AffectNetPreparation) -> Path:
    """Prepares AffectNet as `out/affectnet/1.0.0`, splits "train" and "validation".

    Args:
        source: The folder that the release was unpacked into; only read.
        out: The folder for prepared datasets.
        config: How to prepare.

    Returns:
        The folder of the prepared dataset; one that was prepared before, in the same way, is used again.

    Raises:
        DataError: The source is no AffectNet release, or `out` holds it prepared in another way.
    """
    release = affectnet.detect_release(source) if config.release == "auto" else config.release
    affectnet.check_source(source, release)
    preparation = _settings(config) | {"release": release}
    return _prepare(source, out, "affectnet", preparation, AffectNet, config)


@dataclass(frozen=True)
class FecPreparation(CropConfig):
    """How FEC is prepared; size, margin and jpeg_quality as in `CropConfig`.

    Attributes:
        consensus: Share of the annotators' answers that must name the same face; ties never count.
        processes: Number of processes that decode, cut and encode; doesn't change the result.
    """

    consensus: float = 2 / 3
    processes: int = field(default_factory=_processors)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_processes(self.processes)
        if not 0 < self.consensus <= 1:
            raise ValueError(f"consensus must lie in (0, 1], not {self.consensus}")


def prepare_fec(source: Path, out: Path, config: FecPreparation) -> Path:
    """Prepares FEC: `out/fec/faces/1.0.0` holds every face once, `out/fec/triplets/1.0.0` positions in it.

    Both have the splits "train" and "test"; a triplet's faces lie in the split of the same name.

    Args:
        source: The folder with the lists and the photographs; only read.
        out: The folder for prepared datasets.
        config: How to prepare.

    Returns:
        `out/fec`, where both lie; what was prepared before, in the same way, is used again.

    Raises:
        DataError: The source isn't FEC, or `out` holds it prepared in another way, or triplets of other faces.
    """
    fec.check_source(source)
    faces = _prepare(source, out, "fec/faces", _settings(config), FecFaces, config)
    preparation = _settings(config) | {"faces_fingerprint": read_metadata(faces)["fingerprint"]}
    _prepare(source, out, "fec/triplets", preparation, FecTriplets, config)
    return out / "fec"


@dataclass(frozen=True)
class RecolaPreparation(CropConfig):
    """How RECOLA is prepared; size, margin and jpeg_quality as in `CropConfig`.

    Attributes:
        partition: Who is in which split, see `releases.recola.PARTITIONS`.
        gold_standard: How several raters become one, see `gold_standard`.
        detect_every: Faces are looked for in every n-th frame and followed in between.
        processes: Number of processes, each working on one recording; doesn't change the result.
    """

    partition: recola.Partition = "A"
    gold_standard: GoldStandard = "mean"
    detect_every: int = 1
    processes: int = field(default_factory=_processors)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_processes(self.processes)
        if self.detect_every < 1:
            raise ValueError(f"detect_every must be at least 1, not {self.detect_every}")


def prepare_recola(source: Path, out: Path, config: RecolaPreparation) -> Path:
    """Prepares RECOLA as `out/recola/1.0.0`: one record per recording, splits "train", "dev" and "test".

    A split that has no recording is left out. Videos shorter than their annotation are filled up with frames
    without a face, longer ones are cut; so is the sound. How much was missing or cut is counted.

    Args:
        source: The folder that the release was unpacked into; only read.
        out: The folder for prepared datasets.
        config: How to prepare.

    Returns:
        The folder of the prepared dataset; one that was prepared before, in the same way, is used again.

    Raises:
        DataError: The source is no RECOLA release, has too few raters for the gold standard, or `out` holds it
            prepared in another way.
    """
    recola.check_source(source)
    return _prepare(source, out, "recola", _settings(config), Recola, config)


def summarize(folder: Path) -> dict[str, Any]:
    """What a prepared dataset holds, at one look.

    Args:
        folder: The dataset's folder, see `dataset_folder`.

    Returns:
        For every split the number of records, other counts and the number of things skipped, by reason.
    """
    splits = read_metadata(folder)["splits"]
    return {
        split: {key: value for key, value in counts.items() if key != "first_skipped"}
        for split, counts in splits.items()
    }


class _Builder(tfds.core.GeneratorBasedBuilder):
    """What the builders share: the account of what was written and skipped, and the fingerprint."""

    VERSION = tfds.core.Version(VERSION)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Not for TFDS's own catalogue, which wants every name once: FEC's two parts share theirs.
        super().__init_subclass__(skip_registration=True, **kwargs)  # type: ignore[call-arg]

    code_path = None  # Nothing is downloaded, so TFDS need not look for checksums beside this file.

    def __init__(self, source: Path, preparation: dict[str, Any], config: Any, **kwargs: Any) -> None:
        self._source = source
        self._preparation = preparation
        self._config = config
        super().__init__(file_format="array_record", **kwargs)

    def _dataset_info(self, features: dict[str, Any], description: str, **metadata: Any) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                source=str(self._source.resolve()),
                preparation=self._preparation,
                splits={},
                fingerprint="",
                **metadata,
            ),
        )

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers the examples of a split and closes its account when they are through."""
        account = self._account(split)
        index = -1
        for index, example in enumerate(self._examples(split, account)):
            account.add(example)
            yield index, {name: _as_feature(value) for name, value in example.items()}
        if index < 0:
            reasons = account.reasons() or "nothing"
            raise DataError(f"{self._source}: nothing usable in split {split}; skipped: {reasons}")
        self._close(account, records=index + 1)

    def _account(self, split: str | None) -> "_Account":
        """Opens the account of a split, or of what belongs to none."""
        return _Account(split or "unassigned")

    def _close(self, account: "_Account", records: int) -> None:
        """Writes an account into the metadata and the list of what was skipped."""
        metadata = self.info.metadata
        metadata["splits"][account.split] = {"records": records, **account.summary()}
        metadata["fingerprint"] = hashlib.sha256(f"{metadata['fingerprint']}{account.fingerprint}".encode()).hexdigest()
        account.append_skipped(Path(self.data_dir) / SKIPPED_FILE)

    def _examples(self, split: str, account: "_Account") -> Iterator[dict[str, Any]]:
        """Examples of a split in order; what is left out goes to the account."""
        raise NotImplementedError


class AffectNet(_Builder):
    """AffectNet's faces with expression and valence/arousal."""

    name = "affectnet"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "key": tfds.features.Text(),
            "image": _image(self._config.size),
            "expression": tfds.features.ClassLabel(names=EXPRESSIONS),
            "valence_arousal": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "valence_arousal_valid": tfds.features.Scalar(np.bool_),
        }
        return self._dataset_info(features, "AffectNet: one cut face per record.")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in affectnet.SPLITS}

    def _examples(self, split: Any, account: "_Account") -> Iterator[dict[str, Any]]:
        def faces() -> Iterator[affectnet.Face]:
            for item in affectnet.read_split(self._source, self._preparation["release"], split):
                if isinstance(item, affectnet.Skip):
                    account.skip(item.key, item.reason)
                else:
                    yield item

        classes = [0] * len(EXPRESSIONS)
        without_affect = 0
        crops = _ordered_map(_crop_face, ((face, self._config) for face in faces()), self._config.processes)
        for (face, _), image in tqdm(crops, desc=f"affectnet {split}", unit=" faces", disable=None):
            if isinstance(image, str):
                account.skip(face.key, image)
                continue
            classes[face.expression] += 1
            without_affect += face.valence_arousal is None
            yield {
                "key": face.key,
                "image": image,
                "expression": face.expression,
                "valence_arousal": np.array(face.valence_arousal or (0, 0), np.float32),
                "valence_arousal_valid": face.valence_arousal is not None,
            }
        account.counts = {"classes": classes, "without_valence_arousal": without_affect}


class FecFaces(_Builder):
    """FEC's faces: every face of a triplet with consensus, once."""

    name = "fec"
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="faces")]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"key": tfds.features.Text(), "image": _image(self._config.size)}
        return self._dataset_info(features, "Google FEC: one cut face per record.")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in fec.SPLITS}

    def _examples(self, split: Any, account: "_Account") -> Iterator[dict[str, Any]]:
        photographs: dict[str, dict[fec.FaceReference, None]] = {}
        for triplet in fec.read_split(self._source, split, self._config.consensus):
            for face in triplet.faces if isinstance(triplet, fec.Triplet) else ():
                photographs.setdefault(face.url, {})[face] = None
        tasks = [
            (fec.photograph_path(self._source, url), [face.box for face in faces], self._config)
            for url, faces in photographs.items()
        ]
        results = _ordered_map(_crop_photograph, tasks, self._config.processes)
        progress = tqdm(results, desc=f"fec faces {split}", unit=" photographs", total=len(tasks), disable=None)
        for faces, (_, images) in zip(photographs.values(), progress, strict=True):
            for face, image in zip(faces, images, strict=True):
                if isinstance(image, str):
                    account.skip(_face_key(face), image)
                else:
                    yield {"key": _face_key(face), "image": image}


class FecTriplets(_Builder):
    """FEC's triplets with consensus, as positions in the prepared faces; the odd one out comes last."""

    name = "fec"
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="triplets")]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "key": tfds.features.Text(),
            "faces": tfds.features.Tensor(shape=(3,), dtype=np.int64),
            "kind": tfds.features.ClassLabel(names=TRIPLET_KINDS),
        }
        return self._dataset_info(features, "Google FEC: triplets of positions in fec/faces.")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in fec.SPLITS}

    def _examples(self, split: Any, account: "_Account") -> Iterator[dict[str, Any]]:
        faces = open_split(Path(self._data_dir_root), "fec/faces", split)
        positions = {faces[index]["key"][0].decode(): index for index in range(len(faces))}
        kinds = [0] * len(TRIPLET_KINDS)
        for triplet in fec.read_split(self._source, split, self._config.consensus):
            if isinstance(triplet, fec.Skip):
                account.skip(triplet.key, triplet.reason)
                continue
            found = [positions.get(_face_key(face)) for face in triplet.faces]
            if None in found:
                account.skip(triplet.key, f"a face is missing ({triplet.kind})")
                continue
            kind = TRIPLET_KINDS.index(triplet.kind)
            kinds[kind] += 1
            yield {"key": triplet.key, "faces": np.array(found, np.int64), "kind": kind}
        account.counts = {"kinds": kinds}


class Recola(_Builder):
    """RECOLA's recordings: faces, sound, all ratings and the gold standard."""

    name = "recola"

    def __init__(self, source: Path, preparation: dict[str, Any], config: RecolaPreparation, **kwargs: Any) -> None:
        items = list(recola.read_recordings(source, config.partition))
        self._recordings = [item for item in items if isinstance(item, recola.Recording)]
        self._skipped = [item for item in items if isinstance(item, recola.Skip)]
        if not self._recordings:
            raise DataError(f"{source}: no recording is complete and in partition {config.partition}")
        for recording in self._recordings:
            if recording.raters != self._recordings[0].raters:
                raise DataError(f"{source}: {recording.name} and {self._recordings[0].name} have different raters")
        self._raters = self._recordings[0].raters
        if config.gold_standard == "avec" and len(self._raters) < 2:
            raise DataError(f"{source}: gold standard avec needs at least two raters; choose mean")
        super().__init__(source, preparation, config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "name": tfds.features.Text(),
            "frames": tfds.features.Sequence(_image(self._config.size)),
            "face_valid": _array((None,), np.bool_),
            "waveform": _array((None,), np.int16),
            "voice_valid": tfds.features.Scalar(np.bool_),
            "ratings": _array((None, len(self._raters), 2), np.float32),
            "gold_standard": _array((None, 2), np.float32),
        }
        return self._dataset_info(features, "RECOLA: one recording per record.", raters=list(self._raters))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        present = {recording.split for recording in self._recordings}
        # What belongs to no split, or to one without a record, is accounted for all the same.
        for split in sorted({skip.split for skip in self._skipped} - present, key=str):
            self._close(self._account(split), records=0)
        return {split: self._generate_examples(split) for split in recola.SPLITS if split in present}

    def _account(self, split: str | None) -> "_Account":
        account = super()._account(split)
        for skip in self._skipped:
            if skip.split == split:
                account.skip(skip.key, skip.reason)
        return account

    def _examples(self, split: str, account: "_Account") -> Iterator[dict[str, Any]]:
        tasks = [(recording, self._config) for recording in self._recordings if recording.split == split]
        results = _ordered_map(_prepare_recording, tasks, self._config.processes, per_chunk=1)
        counts: Counter[str] = Counter()
        for (recording, _), result in tqdm(
            results, desc=f"recola {split}", unit=" recordings", total=len(tasks), disable=None
        ):
            if isinstance(result, str):
                account.skip(recording.name, result)
                continue
            example, found = result
            counts.update(found)
            yield example
        account.counts = dict(counts)


def _crop_photograph(task: tuple[Path, Sequence[Box], CropConfig]) -> list[bytes | str]:
    path, boxes, crop = task
    if not path.is_file():
        return ["photograph absent"] * len(boxes)
    return crop_file(path, boxes, crop, fractions=True)


def _face_key(face: fec.FaceReference) -> str:
    return " ".join([face.url, *map(repr, face.box)])


def _prepare_recording(
    task: tuple[recola.Recording, RecolaPreparation],
) -> tuple[dict[str, Any], dict[str, int]] | str:
    """One recording as a record with what is counted of it, or the reason why it can't be used."""
    recording, config = task
    count = len(recording.ratings)
    try:
        sound = load_sound(recording.audio)
        if not len(sound):
            return "sound without samples"
        track = track_face(frames(recording.video), FaceFinder(), config.detect_every)
        crops = list(itertools.islice(face_crops(recording.video, track, config), count))
    except DataError as error:
        return str(error)
    except cv2.error as error:
        return f"finding faces failed ({' '.join(str(error).split())})"
    if not crops:
        return "video without a frame that can be decoded"
    waveform = fit_to_frames(sound, count)
    missing = count - len(crops)
    face_valid = np.pad(track.valid[:count], (0, missing))
    voice_valid = has_voice(waveform)
    record = {
        "name": recording.name,
        "frames": crops + [black_jpeg(config)] * missing,
        "face_valid": face_valid,
        "waveform": to_int16(waveform),
        "voice_valid": voice_valid,
        "ratings": recording.ratings,
        "gold_standard": gold_standard(recording.ratings, config.gold_standard),
    }
    return record, {
        "frames": count,
        "frames_without_face": int((~face_valid).sum()),
        "frames_missing": missing,
        "frames_cut": max(len(track.valid) - count, 0),
        "samples_missing": max(len(waveform) - len(sound), 0),
        "samples_cut": max(len(sound) - len(waveform), 0),
        "without_voice": int(not voice_valid),
    }


def _crop_face(task: tuple[affectnet.Face, CropConfig]) -> bytes | str:
    face, crop = task
    return crop_file(face.image, [face.box], crop)[0]


class _Account:
    """What became of everything in a split: counts, reasons, the full list on disk, a running fingerprint."""

    def __init__(self, split: str) -> None:
        self.counts: dict[str, Any] = {}
        self.split = split
        self._skipped: list[tuple[str, str]] = []
        self._hash = hashlib.sha256(split.encode())

    def skip(self, key: str, reason: str) -> None:
        """Notes something that was left out."""
        self._skipped.append((key, reason))

    def add(self, example: dict[str, Any]) -> None:
        """Takes a record into the fingerprint."""
        for name in sorted(example):
            for part in example[name] if isinstance(example[name], list) else [example[name]]:
                data = (
                    part
                    if isinstance(part, bytes)
                    else str(part).encode()
                    if isinstance(part, str)
                    else np.asarray(part).tobytes()
                )
                self._hash.update(f"{name}:{len(data)}:".encode())
                self._hash.update(data)

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def reasons(self) -> dict[str, int]:
        """How often each reason for leaving something out occurred."""
        return dict(sorted(Counter(reason for _, reason in self._skipped).items()))

    def summary(self) -> dict[str, Any]:
        """What the metadata says of this split, besides the number of records."""
        return {
            **self.counts,
            "skipped": self.reasons(),
            "first_skipped": self._skipped[:_LISTED_IN_METADATA],
        }

    def append_skipped(self, path: Path) -> None:
        """Appends the full list of what was left out to a CSV file: split, key, reason."""
        with path.open("a", newline="", encoding="utf-8") as handle:
            csv.writer(handle, lineterminator="\n").writerows((self.split, *row) for row in self._skipped)


def _prepare(
    source: Path,
    out: Path,
    name: str,
    preparation: dict[str, Any],
    builder: type[_Builder],
    config: CropConfig,
) -> Path:
    """Writes a dataset unless just that one is there already; returns its folder."""
    folder = dataset_folder(out, name)
    if _already_prepared(folder, source, preparation):
        _log.info("%s: already prepared in this way; using it", folder)
    else:
        _write(builder(source, preparation, config, data_dir=out))
    return folder


def _already_prepared(folder: Path, source: Path, preparation: dict[str, Any]) -> bool:
    """Whether a folder holds just what would be prepared; raises DataError where it holds something else."""
    if not folder.exists():
        return False
    found = read_metadata(folder)
    wanted = {"source": str(source.resolve()), "preparation": preparation}
    if {key: found.get(key) for key in wanted} == wanted:
        return True
    raise DataError(
        f"{folder}: already prepared in another way ({_differences(found, wanted)}); choose another --out or remove it"
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The settings that differ, in words."""
    before, now = ({"source": part.get("source"), **(part.get("preparation") or {})} for part in (found, wanted))
    return ", ".join(f"{key} was {before.get(key)}, is now {now[key]}" for key in now if before.get(key) != now[key])


def _write(builder: _Builder) -> None:
    """Generates and writes a dataset; on any failure nothing stays that looks finished."""
    tfds.disable_progress_bar()
    original = tfds_writer.Writer
    tfds_writer.Writer = _Writer  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    finally:
        tfds_writer.Writer = original  # type: ignore[misc]


class _Writer(tfds_writer.Writer):
    """TFDS's writer with two differences, for which it has no switch.

    The features of a record are serialized in a fixed order: else it differs between runs, and so do the files.
    And records wait on disk for their shards to be laid out: TFDS keeps a gigabyte of them in memory, and beyond that
    it wants TensorFlow.
    """

    def __init__(self, filename_template: Any, **kwargs: Any) -> None:
        super().__init__(filename_template=filename_template, **kwargs)
        self._shuffler = _Spool(Path(filename_template.data_dir))

    def write(self, key: int | bytes, example: Any) -> None:
        """Takes the next record."""
        self._shuffler.add(self._serializer.get_tf_example(example).SerializeToString(deterministic=True))


class _Spool:
    """Serialized records in the order in which they come, in a file without a name: gone when the process is.

    Attributes and iteration are those of TFDS's `Shuffler`, whose place it takes.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object
        self._lengths: list[int] = []
        self.size = 0

    def __del__(self) -> None:
        self._file.close()

    @property
    def num_examples(self) -> int:
        """Number of records."""
        return len(self._lengths)

    @property
    def bucket_lengths(self) -> list[int]:
        """All records in one."""
        return [self.num_examples]

    def add(self, data: bytes) -> None:
        """Takes the next record."""
        self._file.write(data)
        self._lengths.append(len(data))
        self.size += len(data)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        for index, length in enumerate(self._lengths):
            yield index, self._file.read(length)


def _image(size: int) -> tfds.features.Image:
    return tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg")


def _array(shape: tuple[int | None, ...], dtype: Any) -> tfds.features.Tensor:
    """An array stored as its bytes: long ones are slow to parse as lists of numbers."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def _as_feature(value: Any) -> Any:
    """Encoded images go to TFDS as files, since it takes bare bytes for something to encode."""
    if isinstance(value, list):
        return [_as_feature(part) for part in value]
    return io.BytesIO(value) if isinstance(value, bytes) else value


def _ordered_map(
    function: Callable[[Any], Any], tasks: Iterable[Any], processes: int, per_chunk: int = _TASKS_PER_CHUNK
) -> Iterator[tuple[Any, Any]]:
    """Yields (task, function(task)) in the order of the tasks, whatever the number of processes."""
    tasks = iter(tasks)
    chunks = iter(lambda: list(itertools.islice(tasks, per_chunk)), [])
    first = list(itertools.islice(chunks, 2))
    chunks = itertools.chain(first, chunks)
    if processes == 1 or len(first) < 2:  # A single chunk isn't worth starting processes.
        yield from ((task, function(task)) for chunk in chunks for task in chunk)
        return
    with worker_pool(processes) as pool:
        pending: deque[tuple[list[Any], Future[list[Any]]]] = deque()
        while True:
            for chunk in itertools.islice(chunks, 4 * processes - len(pending)):
                pending.append((chunk, pool.submit(_map_chunk, function, chunk)))
            if not pending:
                return
            chunk, results = pending.popleft()
            yield from zip(chunk, results.result(), strict=True)


def _map_chunk(function: Callable[[Any], Any], chunk: list[Any]) -> list[Any]:
    return [function(task) for task in chunk]


def _settings(config: CropConfig) -> dict[str, Any]:
    """The settings that the result depends on."""
    return {name: value for name, value in asdict(config).items() if name != "processes"}


def _check_processes(processes: int) -> None:
    if processes < 1:
        raise ValueError(f"processes must be at least 1, not {processes}")
