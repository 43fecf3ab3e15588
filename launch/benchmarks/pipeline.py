"""`avemo benchmark pipeline`: how fast preparing and loading are, against their limits and against others."""

import contextlib
import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.faces import read_picture
from data_pipelines.loaders import face_batches
from data_pipelines.processes import worker_pool
from data_pipelines.records import open_split, prepared_folder
from data_pipelines.releases import affectnet
from data_pipelines.releases.items import Face, Skip
from data_pipelines.synthetic.affectnet import SyntheticAffectNetConfig, synthesize
from launch.benchmarks import pipeline_limits, pipeline_peers
from launch.benchmarks.pipeline_limits import Picture
from launch.benchmarks.results import as_json, installed, machine, round_by_round, table, write_results
from launch.benchmarks.stopwatch import Work, seconds, taking
from launch.errors import LaunchError

PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "grain",
    "array_record",
    "torch",
    "tensorflow",
    "tensorflow-cpu",
)
"""Whose versions the results name, where they are installed."""

LIMITS = (
    "limit of preparing, one core",
    "limit of preparing, all cores",
    "limit of loading, one core",
    "limit of loading, all cores",
)
OPENCV = "decoding by OpenCV, all cores"
PREPARE = "avemo prepare"
LOADER = "avemo loader"


@dataclass(frozen=True)
class BenchmarkPipeline:
    """Measure preparing and loading against their limits, and against a PyTorch DataLoader and tf.data if installed.

    Attributes:
        out: JSON file for the results.
        source: an AffectNet release whose first usable training faces are taken; None draws pictures.
        images: how many pictures.
        picture_size: side of the drawn pictures in pixels; 425 is the mean of AffectNet (Mollahosseini et al. 2017).
        size: side of the prepared faces in pixels.
        batch_size: faces per batch.
        workers: processes or threads, for everybody alike.
        rounds: how often everything is measured, in turn.
        passes: how often a measurement of loading goes over all faces.
    """

    out: Path
    source: Path | None = None
    images: int = 10_000
    picture_size: int = 425
    size: int = 160
    batch_size: int = 128
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    rounds: int = 5
    passes: int = 3

    def __post_init__(self) -> None:
        if min(self.batch_size, self.workers, self.rounds, self.passes) < 1:
            raise ValueError("batch_size, workers, rounds and passes must be at least 1")
        if self.images <= max(self.batch_size, self.workers):
            raise ValueError(f"images must be more than a batch and more than workers, not {self.images}")

    def __call__(self) -> None:
        """Measure, print the tables and write the results."""
        console = Console()
        with tempfile.TemporaryDirectory(prefix="avemo-benchmark-") as folder:
            measurements = self._get_ready(Path(folder))
            images_per_s: dict[str, list[float]] = {measurement.name: [] for measurement in measurements}
            for number in range(1, self.rounds + 1):
                for measurement in measurements:
                    rate = measurement.images / seconds(measurement.work, measurement.shares)
                    images_per_s[measurement.name].append(rate)
                    console.print(f"round {number} of {self.rounds}: {measurement.name}: {rate:,.0f} images/s")
        found = ratios(images_per_s, self.workers)
        console.print(table(f"{self.size} px, {self.workers} workers: images/s", images_per_s, "{:,.0f}"))
        console.print(table("Ratios, round by round", found, "{:.2f}"))
        results = {
            "settings": as_json(self),
            "machine": machine(PACKAGES),
            "images_per_s": images_per_s,
            "ratios": found,
        }
        write_results(self.out, results, console)

    def _get_ready(self, folder: Path) -> "list[Measurement]":
        """Makes the files that all share, and says what is measured on them."""
        drawn = folder / "drawn"
        if self.source is None:
            canvas = (self.picture_size, self.picture_size)
            corpus = SyntheticAffectNetConfig(
                train_faces=self.images, validation_faces_per_class=1, canvas_size=canvas, processes=self.workers
            )
            synthesize(drawn, corpus, seed=0)
        release = folder / "release"
        pictures = excerpt(self.source or drawn, release, self.images)
        config = AffectNetPreparation(size=self.size)
        prepare_affectnet(release, folder / "prepared", config, Workers(self.workers))
        records = open_split(folder / "prepared", "affectnet", "train")
        jpegs = [records[index]["image"][0] for index in range(len(records))]
        return [
            *self._preparing(folder, release, pictures, config),
            *self._loading(folder, jpegs),
        ]

    def _preparing(
        self, folder: Path, release: Path, pictures: list[Picture], config: AffectNetPreparation
    ) -> "Iterator[Measurement]":
        shares = [(share, config.size, config.jpeg_quality) for share in shared_out(pictures, self.workers)]
        work = pipeline_limits.preparing
        yield Measurement(LIMITS[0], len(shares[0][0]), work, shares[:1])
        yield Measurement(LIMITS[1], len(pictures), work, shares)
        yield Measurement(PREPARE, len(pictures), preparing, [(release, folder, config, self.workers)])

    def _loading(self, folder: Path, jpegs: list[bytes]) -> "Iterator[Measurement]":
        shares = [(share, self.passes) for share in shared_out(jpegs, self.workers)]
        work = pipeline_limits.decoding
        yield Measurement(LIMITS[2], len(shares[0][0]) * self.passes, work, shares[:1])
        yield Measurement(LIMITS[3], len(jpegs) * self.passes, work, shares)
        work = pipeline_limits.decoding_by_opencv
        yield Measurement(OPENCV, len(jpegs) * self.passes, work, shares)
        yield self._loader(LOADER, len(jpegs), own_batches, folder / "prepared")
        split = prepared_folder(folder / "prepared", "affectnet")
        files = sorted(str(path) for path in split.glob("*-train.array_record-*"))
        if installed("torch"):
            torch_batches = pipeline_peers.torch_batches
            yield self._loader("PyTorch DataLoader", len(jpegs), torch_batches, files, False)
            yield self._loader("PyTorch DataLoader, tuned", len(jpegs), torch_batches, files, True)
        if installed("tensorflow"):
            tfrecord = folder / "train.tfrecord"
            with worker_pool(1) as pool:  # This process stays free of TensorFlow.
                pool.submit(pipeline_peers.write_tfrecord, files, tfrecord).result()
            tf_data_batches = pipeline_peers.tf_data_batches
            yield self._loader("tf.data", len(jpegs), tf_data_batches, tfrecord, "INTEGER_ACCURATE")
            yield self._loader("tf.data, inexact decoding", len(jpegs), tf_data_batches, tfrecord, "")

    def _loader(self, name: str, faces: int, make: Callable[..., Iterator[Any]], *source: Any) -> "Measurement":
        batches = self.passes * faces // self.batch_size
        arguments = (*source, self.batch_size, self.workers)
        warm_up = 4 * self.workers  # twice what any of them reads ahead
        return Measurement(name, batches * self.batch_size, taking, [(make, arguments, warm_up, batches)])


@dataclass(frozen=True)
class Measurement:
    """Something to be measured in every round.

    Attributes:
        name: What the tables call it.
        images: How many are through when the clock stops.
        work: See `stopwatch.Work`.
        shares: See `stopwatch.seconds`.
    """

    name: str
    images: int
    work: Work
    shares: Sequence[tuple[Any, ...]]


@contextlib.contextmanager
def preparing(release: Path, folder: Path, config: AffectNetPreparation, workers: int) -> Iterator[Callable[[], Any]]:
    """The whole of `prepare_affectnet`, with the start of its processes."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        yield lambda: prepare_affectnet(release, Path(out), config, Workers(workers))


def own_batches(data_dir: Path, batch_size: int, workers: int) -> Iterator[Mapping[str, np.ndarray]]:
    """Our loader."""
    return face_batches(data_dir, batch_size=batch_size, seed=pipeline_peers.SEED, threads=workers)


def shared_out(items: list[Any], shares: int) -> list[list[Any]]:
    """The items shared out evenly."""
    return [items[start::shares] for start in range(shares)]


def excerpt(source: Path, out: Path, count: int) -> list[Picture]:
    """Copies the first usable training faces of AffectNet to a release of their own, of the 2017 form.

    All are training faces but the last, as a validation set can't be empty.

    Args:
        source: The release.
        out: A new folder for the excerpt.
        count: How many.

    Returns:
        The copied pictures and their face boxes.

    Raises:
        DataError: The source is no AffectNet release.
        LaunchError: It has too few faces.
    """
    images, lists = out / "Manually_Annotated_Images", out / "Manually_Annotated_file_lists"
    for folder in (images, lists):
        folder.mkdir(parents=True)
    pictures: list[Picture] = []
    rows = []
    for face in affectnet.read_split(source, affectnet.detect_release(source), "train"):
        if len(pictures) == count:
            break
        if isinstance(face, Skip) or (box := _box_inside(face)) is None:
            continue
        path = images / f"{len(pictures)}{face.image.suffix}"
        shutil.copyfile(face.image, path)
        pictures.append((path, box))
        left, top, right, bottom = box
        valence_arousal = face.valence_arousal or (-2, -2)
        rows.append((path.name, left, top, right - left, bottom - top, "", face.expression, *valence_arousal))
    if len(pictures) < count:
        raise LaunchError(f"{source}: has only {len(pictures)} usable training faces; ask for fewer with --images")
    for name, part in (("training.csv", rows[:-1]), ("validation.csv", rows[-1:])):
        with (lists / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([affectnet.COLUMNS, *part])
    return pictures


def _box_inside(face: Face) -> tuple[int, int, int, int] | None:
    """The face's box, cut to the picture; None if nothing is left or the picture can't be decoded."""
    image = read_picture(face.image)
    if isinstance(image, str):
        return None
    height, width = image.shape[:2]
    left, top, right, bottom = map(round, face.box or (0, 0, width, height))
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return (left, top, right, bottom) if left < right and top < bottom else None


def ratios(images_per_s: Mapping[str, Sequence[float]], workers: int) -> dict[str, list[float]]:
    """What each reaches of its limits, and how many times as fast as the others our loader is; one value per round."""

    def divided(name: str, other: str, times: int = 1) -> tuple[str, list[float]]:
        label = f"{name} / {other}" + (f" × {times}" if times > 1 else "")
        return label, [ratio / times for ratio in round_by_round(images_per_s[name], images_per_s[other])]

    peers = [name for name in images_per_s if name not in (*LIMITS, OPENCV, PREPARE, LOADER)]
    return dict(
        [
            divided(PREPARE, LIMITS[0], workers),
            divided(PREPARE, LIMITS[1]),
            *(divided(name, LIMITS[2], workers) for name in (LOADER, *peers)),
            *(divided(name, LIMITS[3]) for name in (LOADER, *peers)),
            *(divided(LOADER, name) for name in (OPENCV, *peers)),
        ]
    )
