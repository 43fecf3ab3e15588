"""Prepared datasets on disk: where they lie, what their metadata says, and their records by position.

Records are serialized and parsed here rather than by TFDS: it is slower, doesn't write the same bytes every time, and
can't return a sequence of images without TensorFlow.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

from data_pipelines.errors import DataError

VERSION = "2.0.0"
"""Version of the prepared form: it changes when records of the same release come out different."""

_BLOCK_BYTES = 1 << 24


class Records:
    """A split as a random-access sequence of records: parsed, images still encoded.

    A record is a dict of lists (of bytes, ints or floats) by feature name, as TFDS stores them. Open it with
    `open_split`. Instances are cheap to pickle: files are opened on first use.
    """

    def __init__(self, files: Sequence[str], count: int) -> None:
        self._files = list(files)
        self._source = ArrayRecordDataSource(self._files)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Sequence[Any]]:
        return _parsed(self._source[index])

    def read(self, indices: Sequence[int], names: Sequence[str]) -> list[tuple[tuple[Any, ...], ...]]:
        """Some features of the records at those positions, many times faster than one by one.

        Args:
            indices: Positions.
            names: Of the features.

        Returns:
            For each record the values of each of them.
        """
        parsed = (Example.FromString(data).features.feature for data in self._source.__getitems__(indices))
        return [tuple(tuple(_values(features[name])) for name in names) for features in parsed]

    @property
    def bytes_on_disk(self) -> int:
        """Size of all its files."""
        return sum(Path(file).stat().st_size for file in self._files)

    def __iter__(self) -> Iterator[dict[str, Sequence[Any]]]:
        """All records in order."""
        return map(_parsed, _serialized(self._files))


def _parsed(data: bytes) -> dict[str, Sequence[Any]]:
    features = Example.FromString(data).features.feature
    return {name: _values(feature) for name, feature in features.items()}


def _values(feature: Any) -> Sequence[Any]:
    return getattr(feature, feature.WhichOneof("kind")).value


def _serialized(files: Sequence[str]) -> Iterator[bytes]:
    """All records of some files in order, read in blocks of a fixed size."""
    source = ArrayRecordDataSource(list(files))
    bytes_per_record = sum(Path(file).stat().st_size for file in files) // len(source) + 1
    at_once = max(1, _BLOCK_BYTES // bytes_per_record)
    for start in range(0, len(source), at_once):
        yield from source.__getitems__(range(start, min(start + at_once, len(source))))


def serialized(record: Mapping[str, Any]) -> bytes:
    """A record as it is stored: what TFDS makes of it, in a fixed order of features, and many times faster.

    Args:
        record: Features by name: str, bytes, sequences of bytes, bools, numbers and arrays of numbers. What TFDS
            stores as bytes has to be bytes already.

    Returns:
        A serialized tf.train.Example; the same record always gives the same bytes.
    """
    example = Example()
    for name, value in record.items():
        feature = example.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        elif isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, list):
            feature.bytes_list.value.extend(value)
        else:
            numbers = np.asarray(value).ravel()
            if numbers.dtype.kind == "f":
                feature.float_list.value.extend(numbers.tolist())
            else:
                feature.int64_list.value.extend(numbers.astype(np.int64).tolist())
    return example.SerializeToString(deterministic=True)


def open_split(data_dir: Path, name: str, split: str) -> Records:
    """Opens a split of a prepared dataset.

    Args:
        data_dir: The folder of prepared datasets, as given to the `prepare_…` functions.
        name: "affectnet", "fec/faces", "fec/triplets", "recola", "faces" or "clips".
        split: One of the dataset's splits.

    Returns:
        Its records.

    Raises:
        DataError: The dataset isn't prepared, or has no such split.
    """
    builder = tfds.builder_from_directory(prepared_folder(data_dir, name))
    if split not in builder.info.splits:
        raise DataError(f"{builder.data_dir}: no split {split}; there are {', '.join(sorted(builder.info.splits))}")
    info = builder.info.splits[split]
    return Records([str(path) for path in info.filepaths], info.num_examples)


class Fingerprint:
    """A digest of all records of a dataset: the same for the same records in the same order, in whatever files."""

    def __init__(self) -> None:
        """Begins with none."""
        self._hash = hashlib.sha256()

    def taking(self, split: str, records: Iterable[bytes]) -> Iterator[bytes]:
        """Hands on the serialized records of a split, and takes them in on the way."""
        self._hash.update(f"{split}:".encode())
        for record in records:
            self._hash.update(f"{len(record)}:".encode())
            self._hash.update(record)
            yield record

    def hexdigest(self) -> str:
        """SHA-256 of what was taken in, hexadecimal."""
        return self._hash.hexdigest()


def stored_records(folder: Path, split: str) -> Iterator[bytes]:
    """Reads the serialized records of a split from the files in a dataset's folder, in order."""
    return _serialized([str(path) for path in sorted(folder.glob(f"*-{split}.array_record-*"))])


def fingerprint_of(folder: Path, splits: Iterable[str]) -> str:
    """The fingerprint of a dataset, from its files.

    Args:
        folder: The dataset's folder.
        splits: The names of its splits, in their order.

    Returns:
        What its metadata should say, see `Fingerprint`.
    """
    fingerprint = Fingerprint()
    for split in splits:
        for _ in fingerprint.taking(split, stored_records(folder, split)):
            pass
    return fingerprint.hexdigest()


def dataset_folder(data_dir: Path, name: str) -> Path:
    """Where a dataset of that name lies, or will lie, among the prepared datasets."""
    return data_dir / name / VERSION


def prepared_folder(data_dir: Path, name: str) -> Path:
    """As `dataset_folder`; raises DataError where nothing is prepared."""
    folder = dataset_folder(data_dir, name)
    if not (folder / "dataset_info.json").is_file():
        corpus = name.split("/")[0]
        raise DataError(f"{folder}: {corpus} is not prepared; make it with: avemo prepare {corpus}")
    return folder


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads the metadata of a prepared dataset.

    Args:
        folder: The dataset's folder, see `prepared_folder`.

    Returns:
        "source", "preparation" (the settings), "splits" (counts, what was skipped, see `builders.account.Account`),
        "fingerprint" (see `fingerprint_of`), "synthetic" (whether people and voices are drawn), and what is peculiar
        to a corpus, such as RECOLA's "raters" (names, in the order of the ratings).

    Raises:
        DataError: The folder holds no prepared dataset.
    """
    path = folder / "metadata.json"
    if not path.is_file():
        raise DataError(f"{folder}: no prepared dataset here; remove the folder and prepare again")
    return json.loads(path.read_text(encoding="utf-8"))
