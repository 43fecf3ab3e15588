"""RECOLA in the three forms in which it was released: recordings with sound, video and labels at 25 Hz.

The forms differ in where things lie and in what is released: the public one has the traces of six raters, those of
the AVEC challenges a gold standard and, beside it, usually the raters' traces.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from avemo.labels import DIMENSIONS
from data_pipelines.errors import DataError
from data_pipelines.releases.items import Recording, Skip
from data_pipelines.releases.traces import check_same_labels, read_gold_standard, read_ratings, stack_dimensions

Form = Literal["public", "avec2016", "avec2018"]
Split = Literal["train", "dev", "test"]

FORMS: tuple[Form, ...] = get_args(Form)
SPLITS: tuple[Split, ...] = get_args(Split)

LABEL_RULE = (
    "labels that begin at 0 s: the label at k/25 s belongs to frame k, which begins then; the last label lies at the "
    "very end, belongs to no frame and is dropped (7,501 labels, 7,500 frames). Labels that begin at 0.04 s: the label "
    "at (k+1)/25 s belongs to frame k, which ends then; none is dropped"
)
"""Which label belongs to which frame. The second half is our choice: every trace known to us begins at 0 s."""

PARTITIONS: dict[Literal["A", "B"], dict[Split, tuple[int, ...]]] = {
    "A": {
        "train": (45, 46, 48, 56, 58, 62, 64, 65),
        "dev": (28, 30, 34, 37, 39, 41, 42, 43),
        "test": (16, 17, 19, 21, 23, 25, 26),
    },
    "B": {
        "train": (17, 43, 30, 28, 46, 19, 41, 26, 62, 39, 25, 56),
        "dev": (64, 48, 16, 58, 34, 45, 23),
        "test": (42, 65, 21, 37),
    },
}
"""Participants per split in the two partitions of the public release in use; results on them aren't comparable."""


@dataclass(frozen=True)
class Partition:
    """Who is in which split.

    Attributes:
        name: "A", "B", "avec", or "custom: …" with the name of the file.
        members: The names of the recordings in each split.
    """

    name: str
    members: Mapping[Split, tuple[str, ...]]


def load_partition(text: str) -> Partition:
    """The partition of that name, or that of a file.

    Args:
        text: "A" or "B", see `PARTITIONS`; "avec", the challenges' own: train_1 … train_9, dev_1 … dev_9,
            test_1 … test_9; or the path of a JSON file {"train": ["P16", …], "dev": […], "test": […]}, in which a
            split may be left out.

    Returns:
        The partition.

    Raises:
        DataError: It is none of these, the file is not as it must be, or a name stands in it twice.
    """
    if text in ("A", "B"):
        numbers = PARTITIONS["A" if text == "A" else "B"]
        return Partition(text, {split: tuple(f"P{number}" for number in numbers[split]) for split in SPLITS})
    if text == "avec":
        return Partition(text, {split: tuple(f"{split}_{number}" for number in range(1, 10)) for split in SPLITS})
    return _read_partition(Path(text))


def detect_form(root: Path) -> Form:
    """Which form of the release a folder holds, by looking.

    Raises:
        DataError: None or several.
    """
    found = [form for form in FORMS if (root / _LAYOUTS[form].must_have).is_dir()]
    if not found:
        wanted = ", ".join(f"{_LAYOUTS[form].must_have} ({form})" for form in FORMS)
        raise DataError(f"{root}: no RECOLA release here; looked for {wanted}")
    if len(found) > 1:
        raise DataError(f"{root}: holds several forms of RECOLA ({', '.join(found)}); say which to take")
    return found[0]


def check_source(root: Path, form: Form) -> None:
    """Raises DataError unless the folder holds a RECOLA release of that form."""
    layout = _LAYOUTS[form]
    _dimension_folders(root / layout.must_have)
    if not (root / layout.audio).is_dir() and not (root / layout.video).is_dir():
        raise DataError(f"{root}: no recordings here; looked for {layout.audio} and {layout.video}")


def read_recordings(root: Path, form: Form, partition: Partition) -> Iterator[tuple[Split | None, Recording | Skip]]:
    """Reads all recordings of a release, sorted by name.

    A recording without a sound file or without a video is one all the same. Missing labels are not filled in.

    Args:
        root: The folder that the release was unpacked into.
        form: What the folder holds, see `detect_form`.
        partition: Who is in which split.

    Yields:
        Split (None: in no split of the partition) and a `Recording`, or a `Skip` where it can't be used, for every
        name that occurs in the partition or among annotations, sound files and videos.

    Raises:
        DataError: The folder holds no such release, or nothing of the partition, or a file of labels is not as it
            must be.
    """
    check_source(root, form)
    splits: dict[str, Split] = {name: split for split in SPLITS for name in partition.members.get(split, ())}
    files = _find_files(root, _LAYOUTS[form])
    names = set().union(*files.labels.values(), files.audio, files.video)
    if not names & set(splits):
        found = ", ".join([*sorted(names)[:3], "…"]) if names else "nothing"
        raise DataError(f"{root}: no recording of partition {partition.name} here, found {found}; choose another one")
    for name in sorted(names | set(splits)):
        split = splits.get(name)
        if split is None:
            yield None, Skip(name, f"not in partition {partition.name}")
        elif name not in names:
            yield split, Skip(name, "absent")
        else:
            yield split, _read_recording(name, split, files)


@dataclass(frozen=True)
class _Layout:
    """Where things lie in one form of the release. Folders of labels have one folder for each dimension."""

    ratings: Path
    gold_standard: Path | None
    audio: Path
    video: Path

    @property
    def must_have(self) -> Path:
        """The labels without which it isn't this form."""
        return self.gold_standard or self.ratings


_AVEC_AUDIO, _AVEC_VIDEO = Path("recordings_audio"), Path("recordings_video")
_LAYOUTS: dict[Form, _Layout] = {
    "public": _Layout(
        Path("RECOLA-Annotation/emotional_behaviour"),
        None,
        Path("RECOLA-Audio-recordings"),
        Path("RECOLA-Video-recordings"),
    ),
    "avec2016": _Layout(Path("ratings_individual"), Path("ratings_gold_standard"), _AVEC_AUDIO, _AVEC_VIDEO),
    "avec2018": _Layout(Path("labels/individual"), Path("labels/gs_1"), _AVEC_AUDIO, _AVEC_VIDEO),
}


@dataclass(frozen=True)
class _Files:
    """What a release holds, by the recordings' names. Ratings or gold standards: none, or one dict per dimension."""

    ratings: list[dict[str, Path]]
    gold_standards: list[dict[str, Path]]
    audio: dict[str, Path]
    video: dict[str, Path]

    @property
    def labels(self) -> dict[str, dict[str, Path]]:
        """All that makes up the annotation of a recording, by what it is."""
        kind = "ratings" if self.gold_standards else "annotation"
        return {
            f"{dimension} {what}": paths
            for what, folders in ((kind, self.ratings), ("gold standard", self.gold_standards))
            for dimension, paths in zip(DIMENSIONS, folders, strict=False)
        }


def _find_files(root: Path, layout: _Layout) -> _Files:
    ratings, gold_standard = root / layout.ratings, layout.gold_standard
    has_ratings = gold_standard is None or ratings.is_dir()
    return _Files(
        [_files(folder, ".csv") for folder in _dimension_folders(ratings)] if has_ratings else [],
        [_files(folder, ".arff", ".csv") for folder in _dimension_folders(root / gold_standard)]
        if gold_standard
        else [],
        _files(root / layout.audio, ".wav"),
        _files(root / layout.video, ".mp4"),
    )


def _dimension_folders(folder: Path) -> list[Path]:
    """The folders of valence and arousal, in `folder` or further down, in the order of `DIMENSIONS`."""
    for candidate in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        folders = [candidate / dimension for dimension in DIMENSIONS]
        if all(path.is_dir() for path in folders):
            return folders
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
    raise DataError(
        f"{folder}: no labels here; looked for the folders {' and '.join(DIMENSIONS)}, found {found or 'nothing'}"
    )


def _files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Files with these suffixes by the name of their recording; hidden ones, as macOS leaves them, are none."""
    if not folder.is_dir():
        return {}
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.name[0] != "."]
    files = {path.stem: path for path in paths}
    if len(files) < len(paths):
        twice = min(path.stem for path in paths if files[path.stem] != path)
        raise DataError(f"{folder}: {twice} is there twice, with different suffixes; keep one")
    return files


def _read_recording(name: str, split: Split, files: _Files) -> Recording | Skip:
    missing = [kind for kind, paths in files.labels.items() if name not in paths]
    if files.gold_standards and name.startswith("test_") and len(missing) == len(files.labels):
        return Skip(name, "without annotation (the challenge's test labels were never public)")
    if not missing and name not in files.audio and name not in files.video:
        missing = ["sound", "video"]
    if missing:
        return Skip(name, f"without {', '.join(missing)}")
    ratings = [read_ratings(paths[name]) for paths in files.ratings]
    gold_standards = [read_gold_standard(paths[name], name) for paths in files.gold_standards]
    every = ratings + gold_standards
    for traces in every[1:]:
        check_same_labels(every[0], traces)
    dropped = 1 if every[0].first == 0 else 0
    stacked = [stack_dimensions(*pair) for pair in (ratings, gold_standards) if pair]
    stacked = [labels[: len(labels) - dropped].astype(np.float32) for labels in stacked]
    gaps = sum(int(np.isnan(labels).sum()) for labels in stacked)
    if gaps:
        return Skip(name, f"labels missing: {gaps}")
    return Recording(
        name,
        split,
        files.video.get(name),
        files.audio.get(name),
        ratings[0].columns if ratings else (),
        stacked[0] if ratings else np.zeros((len(stacked[0]), 0, 2), np.float32),
        stacked[-1][:, 0] if gold_standards else None,
        labels_dropped=dropped,
    )


def _read_partition(path: Path) -> Partition:
    """A partition from a JSON file."""
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no partition; choose A, B, avec, or a JSON file with train, dev and test") from error
    try:
        members = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # Broken, no Unicode, a split that stands there twice, too deep.
        raise DataError(f"{path}: no JSON of a partition ({' '.join(str(error).split())})") from error
    if not isinstance(members, dict) or set(members) - set(SPLITS):
        raise DataError(f'{path}: a partition is {{"train": […], "dev": […], "test": […]}}, nothing else')
    for split, part in members.items():
        if not isinstance(part, list) or not all(isinstance(name, str) and name.isprintable() for name in part):
            raise DataError(f'{path}: split {split} must be a list of names, such as ["P16", "P17"]')
    names = Counter(itertools.chain(*members.values()))
    twice = sorted(name for name, times in names.items() if times > 1)
    if twice or not names or "" in names:
        raise DataError(f"{path}: every name must stand there once, in one split; twice: {', '.join(twice) or 'none'}")
    return Partition(f"custom: {path.name}", {split: tuple(members.get(split, ())) for split in SPLITS})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key stands twice."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)
