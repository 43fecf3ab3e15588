"""Grain loaders: prepared datasets in, batches of numpy arrays out.

The iterators for training are endless, shuffled anew in every epoch, and can say and resume their position
(`get_state`, `set_state`). The order depends on the seed alone, never on the number of threads. Hosts share every
batch by `shard_index` and `shard_count`: together they see what one host would see with a batch `shard_count` times as
large. Evaluation goes once over everything, in order, and fills the last batch up with repetitions whose `valid` is
False.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np
import psutil
import simplejpeg

from avemo.labels import EXPRESSIONS, SAMPLES_PER_FRAME
from data_pipelines.errors import DataError
from data_pipelines.kept_outputs import KeptOutputs
from data_pipelines.records import Records, open_split, prepared_folder, read_metadata
from data_pipelines.sound import voiced_frames

FaceSet = Literal["affectnet", "faces"]
"""Prepared datasets of labelled faces: AffectNet's, and people's own."""

PictureSet = Literal["affectnet", "fec", "faces"]
"""Prepared datasets whose faces teach without labels: see `PICTURES`."""

PICTURES: dict[PictureSet, tuple[str, str]] = {
    "affectnet": ("affectnet", "unlabelled"),
    "fec": ("fec/faces", "train"),
    "faces": ("faces", "train"),
}
"""Dataset and split of each: AffectNet's that have no expression, FEC's photographs, and people's own."""

ClipSet = Literal["recola", "clips"]
"""Prepared datasets of annotated recordings: RECOLA's, and people's own."""

_ENDLESS = 1 << 40
_FEC_PARTS = ("fec/faces", "fec/triplets")


def class_counts(data_dir: Path, name: FaceSet = "affectnet", split: str = "train") -> tuple[int, ...]:
    """Faces per expression class, in the order of `avemo.labels.EXPRESSIONS`; not those without a class.

    Raises:
        DataError: The dataset isn't prepared, or has no such split.
    """
    counts = _counts(data_dir, name, split)
    return tuple(counts[expression] for expression in EXPRESSIONS)


def has_valence_arousal(data_dir: Path, name: FaceSet) -> bool:
    """Whether any training face of a prepared dataset is labelled with valence and arousal."""
    counts = _counts(data_dir, name, "train")
    return counts["without_valence_arousal"] < counts["records"]


def _counts(data_dir: Path, name: FaceSet, split: str) -> dict[str, int]:
    """What was counted of a split. Raises DataError where it isn't prepared."""
    folder = prepared_folder(data_dir, name)
    splits = read_metadata(folder)["splits"]
    if split not in splits:
        raise DataError(f"{folder}: no split {split}; there are {', '.join(sorted(splits))}")
    return splits[split]


def corpus_of(dataset: str) -> str:
    """The corpus that a prepared dataset is a part of, or all of: "fec" of "fec/faces"."""
    return dataset.partition("/")[0]


def fingerprint(data_dir: Path, name: str) -> str:
    """A digest (SHA-256, hexadecimal) of a prepared dataset's records.

    Args:
        data_dir: The folder of prepared datasets.
        name: "fec", a `FaceSet` or a `ClipSet`.

    Returns:
        The same text for the same records in the same order.

    Raises:
        DataError: The dataset isn't prepared.
    """
    if name != "fec":
        return read_metadata(prepared_folder(data_dir, name))["fingerprint"]
    parts = [read_metadata(prepared_folder(data_dir, part))["fingerprint"] for part in _FEC_PARTS]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def face_batches(
    data_dir: Path,
    *,
    batch_size: int,
    seed: int,
    name: FaceSet = "affectnet",
    split: str = "train",
    hold_out: float = 0.0,
    taught: Sequence[KeptOutputs] = (),
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> grain.DatasetIterator:
    """Labelled faces for training, without end.

    Args:
        data_dir: The folder of prepared datasets.
        batch_size: Faces per batch (B), on this host.
        seed: Determines the order.
        name: Which dataset.
        split: "train" or "validation".
        hold_out: Share of the faces that is left out; always the same ones.
        taught: What teachers said of these faces.
        shard_index: Which part of every batch this host takes.
        shard_count: How many hosts share the batches.
        threads: Threads that read and decode.

    Returns:
        An iterator over dicts: "image" uint8 B×H×W×3 (RGB), "expression" int32 B (zero where missing),
        "expression_valid" bool B, "valence_arousal" float32 B×2 (zeros where missing), "valence_arousal_valid" bool B,
        "index" int64 B (position in the split), "epoch" int32 B (how often the split was gone through before). Where
        the dataset has shares of raters also "soft_label" float32 B×8 and "soft_label_valid" bool B; with teachers
        "taught", a tuple of dicts of float32 B×D.

    Raises:
        DataError: The dataset isn't prepared.
    """
    source = _faces(open_split(data_dir, name, split))
    source = replace(source, positions=_parts(source.positions, hold_out)[0])
    add = functools.partial(_with_taught, taught, "index")
    return _training_iterator(source.shuffled, source.load, batch_size, seed, shard_index, shard_count, threads, add)


def face_eval_batches(
    data_dir: Path,
    *,
    batch_size: int,
    name: FaceSet = "affectnet",
    split: str = "validation",
    held_out: float = 1.0,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Labelled faces once, in order: as `face_batches`, with "valid" bool B.

    Every shard gives the same number of batches, all full; "valid" is True exactly once for every record: all of the
    split, or the share of it that `face_batches` holds out.
    """
    source = _faces(open_split(data_dir, name, split))
    source = replace(source, positions=_parts(source.positions, held_out)[1])
    return _evaluation_iterator(source, batch_size, shard_index, shard_count, threads)


def picture_batches(
    data_dir: Path,
    dataset: str,
    split: str,
    *,
    batch_size: int,
    seed: int,
    hold_out: float = 0.0,
    taught: Sequence[KeptOutputs] = (),
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> grain.DatasetIterator:
    """Faces whose labels, if any, nobody looks at, for training, without end.

    Args:
        data_dir: The folder of prepared datasets.
        dataset: Whose faces.
        split: Which of them, see `PICTURES`.
        batch_size: Faces per batch (B), on this host.
        seed: Determines the order.
        hold_out: Share of the faces that is left out, the same ones as by `face_batches`.
        taught: What teachers said of these faces.
        shard_index: Which part of every batch this host takes.
        shard_count: How many hosts share the batches.
        threads: Threads that read and decode.

    Returns:
        An iterator over dicts: "image" uint8 B×H×W×3 (RGB), "index" int64 B (position in the split), "epoch" int32 B
        (how often the split was gone through before); with teachers "taught", a tuple of dicts of float32 B×D.

    Raises:
        DataError: The dataset isn't prepared, or has no such faces.
    """
    source = _pictures(open_split(data_dir, dataset, split))
    source = replace(source, positions=_parts(source.positions, hold_out)[0])
    add = functools.partial(_with_taught, taught, "index")
    return _training_iterator(source.shuffled, source.load, batch_size, seed, shard_index, shard_count, threads, add)


def all_pictures(
    data_dir: Path,
    dataset: str,
    split: str,
    *,
    batch_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """All faces of a prepared dataset's split once, without their labels.

    Yields:
        "image" uint8 B×H×W×3 (RGB), "index" int64 B (position in the split), "valid" bool B, as `face_eval_batches`.
    """
    source = _pictures(open_split(data_dir, dataset, split))
    return _evaluation_iterator(source, batch_size, shard_index, shard_count, threads)


def triplet_batches(
    data_dir: Path,
    *,
    batch_size: int,
    seed: int,
    split: str = "train",
    taught: Sequence[KeptOutputs] = (),
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> grain.DatasetIterator:
    """FEC's triplets for training, without end.

    Args:
        data_dir: The folder of prepared datasets.
        batch_size: Triplets per batch (B), on this host.
        seed: Determines the order.
        split: "train" or "test".
        taught: What teachers said of FEC's faces.
        shard_index: Which part of every batch this host takes.
        shard_count: How many hosts share the batches.
        threads: Threads that read and decode.

    Returns:
        An iterator over dicts: "image" uint8 B×3×H×W×3 (RGB; the odd one out comes last), "kind" int32 B
        (position in `avemo.labels.TRIPLET_KINDS`), "index" int64 B (position in the split), "faces" int64 B×3
        (positions of the three among the faces), "epoch" int32 B (how often the split was gone through before). With
        teachers also "taught", a tuple of dicts of float32 B×3×D.

    Raises:
        DataError: FEC isn't prepared, its triplets weren't made for its faces.
    """
    source = _triplets(data_dir, split)

    add = functools.partial(_with_taught, taught, "faces")
    return _training_iterator(source.shuffled, source.load, batch_size, seed, shard_index, shard_count, threads, add)


def triplet_eval_batches(
    data_dir: Path,
    *,
    batch_size: int,
    split: str = "test",
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """FEC's triplets once, in order: as `triplet_batches`, with "valid" bool B.

    Every shard gives the same number of batches, all full; "valid" is True exactly once for every record.
    """
    source = _triplets(data_dir, split)
    return _evaluation_iterator(source, batch_size, shard_index, shard_count, threads)


def recordings(
    data_dir: Path, split: str, name: ClipSet = "recola", with_frames: bool = True
) -> Iterator[dict[str, Any]]:
    """Annotated recordings, one at a time, decoded.

    Args:
        data_dir: The folder of prepared datasets.
        split: "train", "dev" or "test".
        name: Which dataset.
        with_frames: Whether "frames" are decoded; they are left out otherwise.

    Yields:
        "name"; "frames" uint8 T×H×W×3 (RGB, black where no face was found); "face_valid" bool T; "waveform" float32,
        640·T samples at 16 kHz in [-1, 1); "voice_valid" bool T (see `sound.voiced_frames`); "ratings" float32 T×R×2
        and "gold_standard" float32 T×2, in the order of `avemo.labels.DIMENSIONS`.

    Raises:
        DataError: The dataset isn't prepared, or has no such split.
    """
    records = open_split(data_dir, name, split)
    return (_recording(records[index], with_frames) for index in range(len(records)))


def window_batches(
    recordings: Sequence[Mapping[str, Any]],
    *,
    window_frames: int,
    batch_size: int,
    seed: int,
    stride_frames: int | None = None,
    in_succession: bool = False,
    reaching: Collection[str] = (),
    reach_frames: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator:
    """Windows of recordings that lie in memory, for training, without end.

    In every epoch a recording is cut anew: its windows start a stride apart, the first less than a stride from the
    recording's beginning, drawn at random; the last is moved back where it would pass the end.

    In succession, row i of a batch goes on where row i of the batch before ended, until its recording has no whole
    window left and another begins. Recordings come in random order, and in every epoch some of their windows are left
    out: the last of a recording, so that the first can be anywhere, and those that don't fill a batch.

    Args:
        recordings: Dicts of arrays whose first axis is time: T rows, or 640·T samples under the key
            "waveform". Anything that is no array with such an axis is left out.
        window_frames: Frames per window (W).
        batch_size: Windows per batch (B), on this host.
        seed: Determines order and places.
        stride_frames: Frames from the start of a window to that of the next; None for W.
        in_succession: Whether the rows of batches go on, see above; for strides of W.
        reaching: Names of the arrays that are cut beyond the window's end.
        reach_frames: By how many frames; beyond the recording's end they are zero.
        shard_index: Which part of every batch this host takes.
        shard_count: How many hosts share the batches.

    Returns:
        An iterator over dicts: every array as B×W×…, "waveform" as B×(640·W), those that reach as B×(W + reach)×…,
        "begins" bool B (whether this row doesn't go on from the batch before), "index" int64 B×2 (position among the
        recordings, first frame), and "epoch" int32 B.

    Raises:
        DataError: No recording is as long as a window, or there are too few windows for a batch in succession.
    """
    arrays = [_timed_arrays(recording) for recording in recordings]
    lengths = np.array([_frame_count(recording) for recording in arrays], np.int64)
    if not (lengths >= window_frames).any():
        raise DataError(
            f"no recording is as long as a window of {window_frames} frames (longest: {lengths.max(initial=0)}); "
            "choose shorter windows"
        )
    for recording in arrays:
        for name in reaching:
            after = [(0, reach_frames)] + [(0, 0)] * (recording[name].ndim - 1)
            recording[name] = np.pad(recording[name], after)
    rows = batch_size * shard_count
    stride = stride_frames or window_frames
    draw = _rows_of_successive_windows if in_succession else _shuffled_windows

    def cut(windows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        def slices(name: str) -> Iterator[np.ndarray]:
            frame, beyond = _rows_per_frame(name), reach_frames if name in reaching else 0
            for which, start, _ in windows:
                yield arrays[which][name][start * frame : (start + window_frames) * frame + beyond]

        drawn = np.array(windows, np.int64)
        return {name: np.stack([*slices(name)]) for name in arrays[0]} | {
            "index": drawn[:, :2],
            "begins": drawn[:, 2] > 0,
        }

    # The arrays are in memory: threads would only contend for the interpreter.
    return _training_iterator(
        lambda rng: draw(rng, lengths, window_frames, stride, rows),
        *(cut, batch_size, seed, shard_index, shard_count),
        threads=0,
    )


def _shuffled_windows(
    rng: np.random.Generator, lengths: np.ndarray, window_frames: int, stride_frames: int, rows: int
) -> np.ndarray:
    """The windows of an epoch in random order: recording, first frame, and 1, since none goes on from another."""
    windows = []
    for which in np.flatnonzero(lengths >= window_frames).tolist():
        last = lengths[which] - window_frames
        starts = rng.integers(stride_frames) + stride_frames * np.arange(last // stride_frames + 1)
        starts = np.minimum(starts, last)
        windows.append(np.stack([np.full_like(starts, which), starts, np.ones_like(starts)], axis=1))
    return rng.permutation(np.concatenate(windows))


def _rows_of_successive_windows(
    rng: np.random.Generator, lengths: np.ndarray, window_frames: int, stride_frames: int, rows: int
) -> np.ndarray:
    """The windows of an epoch, batch by batch: recording, first frame, and whether it begins anew in its row."""
    windows = []
    for which in rng.permutation(np.flatnonzero(lengths >= window_frames)).tolist():
        count = max(lengths[which] // window_frames - 1, 1)
        starts = rng.integers(lengths[which] - count * window_frames + 1) + window_frames * np.arange(count)
        begins = np.arange(count) == 0
        windows.append(np.stack([np.full_like(starts, which), starts, begins], axis=1))
    drawn = np.concatenate(windows)
    batches = len(drawn) // rows
    if not batches:
        raise DataError(
            f"the recordings have {len(drawn)} windows of {window_frames} frames, too few for a batch of {rows} "
            "in succession: choose smaller batches or shorter windows"
        )
    in_rows = drawn[: batches * rows].reshape(rows, batches, 3)
    in_rows[:, 0, 2] = 1
    return in_rows.swapaxes(0, 1).reshape(-1, 3)


@dataclass(frozen=True)
class _Source:
    """Records by position, given a batch at a time."""

    positions: np.ndarray
    load: Callable[[Sequence[int]], dict[str, np.ndarray]]

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """All positions."""
        return rng.permutation(self.positions)


def _parts(positions: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The positions in two parts, of which the second is the given share, drawn the same way every time.

    Raises DataError where a part of them is to be held out, and one of the two is empty.
    """
    count = round(share * len(positions))
    if 0 < share < 1 and count in (0, len(positions)):
        left = "none to learn from" if count else "none to evaluate on"
        raise DataError(f"holding out {share:g} of {len(positions)} faces leaves {left}: choose another share")
    drawn = np.random.default_rng(0).permutation(positions)[:count]
    return np.setdiff1d(positions, drawn, assume_unique=True), np.sort(drawn)


def _faces(records: Records) -> _Source:
    rated = len(records) > 0 and "soft_label" in records[0]
    names = ("image", "expression", "valence_arousal", "valence_arousal_valid")
    features = _Features(records, (*names, "soft_label") if rated else names)

    def load(indices: Sequence[int]) -> dict[str, np.ndarray]:
        jpegs, expressions, valence_arousal, valid, *soft_labels = features.read(indices)
        expression = np.array(expressions, np.int32)[:, 0]
        batch = {
            "image": _decode(jpegs),
            "expression": np.maximum(expression, 0),
            "expression_valid": expression >= 0,
            "valence_arousal": np.array(valence_arousal, np.float32),
            "valence_arousal_valid": np.array(valid, np.bool_)[:, 0],
            "index": np.array(indices, np.int64),
        }
        if rated:
            shares = np.array(soft_labels[0], np.float32)
            batch |= {"soft_label": shares, "soft_label_valid": np.any(shares > 0, axis=-1)}
        return batch

    return _Source(np.arange(len(records)), load)


def _pictures(records: Records) -> _Source:
    features = _Features(records, ("image",))

    def load(indices: Sequence[int]) -> dict[str, np.ndarray]:
        (jpegs,) = features.read(indices)
        return {"image": _decode(jpegs), "index": np.array(indices, np.int64)}

    return _Source(np.arange(len(records)), load)


def _triplets(data_dir: Path, split: str) -> _Source:
    _check_pair(data_dir)
    faces, triplets = (open_split(data_dir, name, split) for name in _FEC_PARTS)
    faces_features, triplets_features = _Features(faces, ("image",)), _Features(triplets, ("faces", "kind"))

    def load(indices: Sequence[int]) -> dict[str, np.ndarray]:
        positions, kinds = triplets_features.read(indices)
        (jpegs,) = faces_features.read([position for three in positions for position in three])
        images = _decode(jpegs)
        return {
            "image": images.reshape(len(indices), 3, *images.shape[1:]),
            "kind": np.array(kinds, np.int32)[:, 0],
            "index": np.array(indices, np.int64),
            "faces": np.array(positions, np.int64),
        }

    return _Source(np.arange(len(triplets)), load)


def _with_taught(taught: Sequence[KeptOutputs], faces: str, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with what teachers said of those faces whose positions it has under that name."""
    if not taught:
        return batch
    positions = batch[faces]
    epochs = np.broadcast_to(batch["epoch"].reshape(-1, *[1] * (positions.ndim - 1)), positions.shape)
    said = (teacher.read(positions.reshape(-1), epochs.reshape(-1)) for teacher in taught)
    shaped = lambda rows: rows.reshape(*positions.shape, -1)
    return batch | {"taught": tuple({name: shaped(rows) for name, rows in each.items()} for each in said)}


class _Features:
    """Some features of records, by position, kept in memory once they were read, pictures encoded as they are.

    ArrayRecord can be read by one thread at a time, and reading takes about as long as decoding a small picture. Where
    the files are larger than a quarter of the machine's memory (our choice), nothing is kept.
    """

    def __init__(self, records: Records, names: Sequence[str]) -> None:
        self._records = records
        self._names = names
        self._kept: list[tuple[Any, ...] | None] = [None] * len(records)
        self._keeps = records.bytes_on_disk <= psutil.virtual_memory().total / 4

    def read(self, indices: Sequence[int]) -> list[Sequence[Any]]:
        """For each name, the values of the feature in those records."""
        if not self._keeps:
            return list(zip(*self._records.read(indices, self._names), strict=True))
        missing = [index for index in indices if self._kept[index] is None]
        for index, row in zip(missing, self._records.read(missing, self._names) if missing else (), strict=True):
            self._kept[index] = row
        return list(zip(*(self._kept[index] for index in indices), strict=True))  # type: ignore[misc]


def _check_pair(data_dir: Path) -> None:
    """Raises DataError unless FEC's triplets were made for the faces beside them."""
    faces, triplets = (prepared_folder(data_dir, part) for part in _FEC_PARTS)
    if read_metadata(triplets)["preparation"].get("faces_fingerprint") != read_metadata(faces)["fingerprint"]:
        raise DataError(
            f"{triplets}: made for other faces than those in {faces}; remove {data_dir / 'fec'} "
            "and prepare again with: avemo prepare fec"
        )


def _training_iterator(
    draw_epoch: Callable[[np.random.Generator], np.ndarray],
    load: Callable[[Sequence[Any]], dict[str, np.ndarray]],
    batch_size: int,
    seed: int,
    shard_index: int,
    shard_count: int,
    threads: int,
    add: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch,
) -> grain.DatasetIterator:
    """Batches without end: batch k of all hosts together is made of examples k·B … (k + 1)·B − 1 of successive epochs.

    Args:
        draw_epoch: The examples of an epoch in their order, as many in each.
        load: Makes a batch of examples.
        batch_size: Of this host.
        seed: Determines the epochs.
        shard_index: Which host this is.
        shard_count: How many there are.
        threads: Threads that load.
        add: Gives a batch with its "epoch" something more.
    """

    @functools.lru_cache(maxsize=2)
    def epoch(number: int) -> np.ndarray:
        return draw_epoch(np.random.default_rng((seed, number)))

    per_epoch = len(epoch(0))

    def batch(number: int) -> dict[str, Any]:
        places = (number * shard_count + shard_index) * batch_size + np.arange(batch_size)
        epochs, positions = np.divmod(places, per_epoch)
        parts = [epoch(which)[positions[epochs == which]] for which in range(epochs[0], epochs[-1] + 1)]
        return add(load(np.concatenate(parts).tolist()) | {"epoch": epochs.astype(np.int32)})

    # Grain's own order takes 16 µs for each record, during which no thread can do anything else.
    return iter(grain.MapDataset.range(_ENDLESS).map(batch).to_iter_dataset(_read_options(threads)))


def _evaluation_iterator(
    source: _Source, batch_size: int, shard_index: int, shard_count: int, threads: int
) -> Iterator[dict[str, np.ndarray]]:
    own = source.positions[shard_index::shard_count].tolist()
    batches = math.ceil(math.ceil(len(source.positions) / shard_count) / batch_size)

    def load(positions: np.ndarray) -> dict[str, np.ndarray]:
        valid = positions < len(own)
        batch = source.load([own[min(position, len(own) - 1)] if own else 0 for position in positions.tolist()])
        return {**batch, "valid": valid}

    dataset = grain.MapDataset.range(batches * batch_size).batch(batch_size).map(load)
    return iter(dataset.to_iter_dataset(_read_options(threads)))


def _read_options(threads: int) -> grain.ReadOptions:
    # The buffer counts batches, since batching comes before reading ahead.
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _recording(record: Mapping[str, Sequence[Any]], with_frames: bool) -> dict[str, Any]:
    count = len(record["frames"])
    frames = {"frames": _decode([[jpeg] for jpeg in record["frames"]])} if with_frames else {}
    waveform = np.frombuffer(record["waveform"][0], np.int16).astype(np.float32) / 32768
    ratings = np.frombuffer(record["ratings"][0], np.float32)
    return {
        "name": record["name"][0].decode(),
        **frames,
        "face_valid": np.frombuffer(record["face_valid"][0], np.bool_),
        "waveform": waveform,
        "voice_valid": voiced_frames(waveform)[0],
        "ratings": ratings.reshape(count, -1, 2),
        "gold_standard": np.frombuffer(record["gold_standard"][0], np.float32).reshape(count, 2),
    }


def _decode(jpegs: Sequence[Sequence[bytes]]) -> np.ndarray:
    """Pictures of one size, N×H×W×3, from features that hold one each."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpegs[0][0])
    images = np.empty((len(jpegs), height, width, 3), np.uint8)
    for (jpeg,), image in zip(jpegs, images, strict=True):
        simplejpeg.decode_jpeg(jpeg, buffer=image)
    return images


def _timed_arrays(recording: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: value for name, value in recording.items() if isinstance(value, np.ndarray) and value.ndim}


def _frame_count(arrays: Mapping[str, np.ndarray]) -> int:
    """The number of frames that a recording's arrays agree on."""
    counts = {name: len(array) / _rows_per_frame(name) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"a recording's arrays differ in their number of frames: {counts}")
    return int(next(iter(counts.values())))


def _rows_per_frame(name: str) -> int:
    return SAMPLES_PER_FRAME if name == "waveform" else 1
