"""What others load the same faces with: a PyTorch DataLoader and tf.data (extra "benchmark").

Both give what `data_pipelines.loaders.face_batches` gives: endless shuffled batches of uint8 RGB images and labels.
Each is imported only by the process that runs it.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

SEED = 0
SHUFFLED_BATCHES = 16
"""Batches that tf.data's shuffle buffer holds: it can't shuffle everything, as the others do."""


class Faces:
    """A map-style data set for PyTorch, as most write it: one record at a time, decoded by OpenCV."""

    def __init__(self, files: Sequence[str]) -> None:
        # Without threads of its own: there is a process for every core, and it would abort at its end.
        self._source = ArrayRecordDataSource(list(files), reader_options={"max_parallelism": "0"})

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _face(self._source[index], _by_opencv)


class FacesTuned(Faces):
    """The same with what makes our own loader fast: the records of a batch are read at once, simplejpeg decodes."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The faces of a batch; PyTorch looks for this method."""
        return [_face(record, simplejpeg.decode_jpeg) for record in self._source.__getitems__(indices)]


def torch_batches(files: Sequence[str], tuned: bool, batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    """A PyTorch DataLoader over ArrayRecord.

    Args:
        files: The ArrayRecord files of a split.
        tuned: Whether over `FacesTuned`.
        batch_size: Faces per batch.
        workers: Number of its processes, which stay between epochs.

    Returns:
        Its endless iterator, over dicts of tensors.
    """
    from torch.utils.data import DataLoader

    faces = (FacesTuned if tuned else Faces)(files)
    loader: Any = DataLoader(
        faces,  # type: ignore[arg-type]
        batch_sampler=_shuffled(len(faces), batch_size),  # type: ignore[arg-type]
        num_workers=workers,
        worker_init_fn=_begin,
        persistent_workers=True,
        multiprocessing_context="spawn",  # ArrayRecord's threads don't survive forking
    )
    return iter(loader)


def write_tfrecord(files: Sequence[str], path: Path) -> None:
    """Writes the records of ArrayRecord files, as they are, to a TFRecord file: tf.data can't read ArrayRecord."""
    tf = _tensorflow()
    source = ArrayRecordDataSource(list(files))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index in range(len(source)):
            writer.write(source[index])


def tf_data_batches(path: Path, dct_method: str, batch_size: int, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """A tf.data pipeline over TFRecord.

    Args:
        path: What `write_tfrecord` wrote.
        dct_method: Of `tf.io.decode_jpeg`. "INTEGER_ACCURATE" gives the very pixels that OpenCV and simplejpeg
            give; the default "" is faster and less exact.
        batch_size: Faces per batch.
        workers: Number of its threads, all in a pool of its own.

    Returns:
        Its endless iterator, over dicts of arrays.
    """
    tf = _tensorflow()
    tf.config.set_visible_devices([], "GPU")
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "expression": tf.io.FixedLenFeature([], tf.int64),
        "valence_arousal": tf.io.FixedLenFeature([2], tf.float32),
        "valence_arousal_valid": tf.io.FixedLenFeature([], tf.int64),
    }

    def decoded(record: Any) -> dict[str, Any]:
        face = tf.io.parse_single_example(record, features)
        return face | {"image": tf.io.decode_jpeg(face["image"], channels=3, dct_method=dct_method)}

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    batches = (
        tf.data.TFRecordDataset(str(path))
        .repeat()
        .shuffle(SHUFFLED_BATCHES * batch_size, seed=SEED)
        .map(decoded, num_parallel_calls=workers)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    return batches.as_numpy_iterator()


def _tensorflow() -> Any:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it has no part in this, and says at length that it's there
    import tensorflow

    return tensorflow


def _shuffled(count: int, batch_size: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(SEED)
    indices = itertools.chain.from_iterable(rng.permutation(count).tolist() for _ in itertools.count())
    while True:
        yield list(itertools.islice(indices, batch_size))


def _face(record: bytes, decode: Callable[[bytes], Any]) -> dict[str, Any]:
    features = Example.FromString(record).features.feature
    return {
        "image": decode(features["image"].bytes_list.value[0]),
        "expression": features["expression"].int64_list.value[0],
        "valence_arousal": np.array(features["valence_arousal"].float_list.value, np.float32),
        "valence_arousal_valid": bool(features["valence_arousal_valid"].int64_list.value[0]),
    }


def _by_opencv(jpeg: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)


def _begin(worker: int) -> None:
    cv2.setNumThreads(0)
