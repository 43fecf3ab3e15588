"""The TFDS builder of all prepared datasets.

A prepared dataset lies in `out/<name>/<version>/` with its metadata: how the faces were cut, what was counted, what
was skipped and why, and a fingerprint of the records. TFDS writes into a folder of another name and renames it at
the end, so a dataset whose folder exists is complete. What is prepared before that waits in a journal beside it; a
run that was killed goes on from there.

Records lie in the order of the release's list and don't depend on who did the work: one process, many, or the
machines of an Apache Beam runner.
"""

import contextlib
import fcntl
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.utils.shard_utils import ShardConfig, get_shard_boundaries
from tensorflow_datasets.core.writer import ExampleWriter
from tqdm import tqdm

from data_pipelines.builders.account import Account
from data_pipelines.builders.beam_pipeline import write_by_beam
from data_pipelines.builders.journal import Journal
from data_pipelines.builders.recipe import Recipe, chunks, cook, digest
from data_pipelines.errors import DataError
from data_pipelines.processes import OrderedMap, ordered_map
from data_pipelines.records import VERSION, Fingerprint, dataset_folder, read_metadata, stored_records

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Who does the work; the result is the same.

    Attributes:
        processes: Number of processes on this machine.
        beam_runner: Apache Beam runner that does the work instead, such as DirectRunner, FlinkRunner, SparkRunner or
            DataflowRunner (extra "beam").
        beam_options: Options for Beam, such as direct_num_workers=4.
    """

    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    beam_runner: str | None = None
    beam_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")
        if self.beam_options and self.beam_runner is None:
            raise ValueError("beam_options need a beam_runner")


def prepare(recipe: Recipe, out: Path, workers: Workers) -> Path:
    """Writes a dataset, unless just that one is there already.

    Args:
        recipe: How it is made.
        out: The folder for prepared datasets.
        workers: Who does the work.

    Returns:
        The dataset's folder.

    Raises:
        DataError: The folder holds a dataset that was prepared in another way, another run is preparing it just now,
            or a split turned out to be empty.
    """
    folder = dataset_folder(out, recipe.name)
    with _work_folder(folder, recipe) as work:
        if _already_prepared(folder, recipe):
            _log.info("%s: already prepared in this way; using it", folder)
        else:
            tfds.disable_progress_bar()
            builder = DatasetBuilder(recipe, workers, work, out)
            with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_dir=downloads)
        shutil.rmtree(work)
    return folder


class DatasetBuilder(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes the records of a recipe, the account of what was skipped, and the fingerprint."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # Nothing is downloaded, so TFDS need not look for checksums beside this file.

    def __init__(self, recipe: Recipe, workers: Workers, work: Path, out: Path) -> None:
        """Sets up; `download_and_prepare` does it.

        Args:
            recipe: How the dataset is made.
            workers: Who does the work.
            work: An existing folder for what isn't finished yet.
            out: The folder for prepared datasets.
        """
        self.name, _, part = recipe.name.partition("/")
        self._recipe = recipe
        self._workers = workers
        self._work = work
        config = tfds.core.BuilderConfig(name=part) if part else None
        super().__init__(data_dir=out, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._recipe.description,
            features=tfds.features.FeaturesDict(self._recipe.features()),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(_identity(self._recipe)),
        )

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        with ordered_map(self._workers.processes) as map_:
            recipe = self._recipe.with_overview(map_)
            account, fingerprint = Account(recipe, Path(self.data_dir)), Fingerprint()
            if self._workers.beam_runner is None:
                infos = [self._write_split(recipe, split, account, fingerprint, map_) for split in recipe.splits()]
            else:
                infos = self._write_by_beam(recipe, account, fingerprint)
        account.add_without_split()
        self.info.set_splits(tfds.core.splits.SplitDict(infos))
        told = {"splits": account.splits, "fingerprint": fingerprint.hexdigest(), "synthetic": recipe.synthetic}
        self.info.metadata.update(told | recipe.metadata())

    def _write_split(
        self, recipe: Recipe, split: str, account: Account, fingerprint: Fingerprint, map_: OrderedMap
    ) -> tfds.core.SplitInfo:
        with Journal(self._work / f"{split}.journal") as journal:
            _fill(journal, recipe, split, map_)
            sizes = [length for notes in journal.notes() for length in notes["lengths"]]
            account.add(split, len(sizes), journal.notes())
            records = enumerate(fingerprint.taking(split, journal.records()))
            template = self._get_filename_template(split)
            shards = ShardConfig.calculate_number_shards(sum(sizes), len(sizes))
            lengths: list[int] = []
            for shard, end in enumerate(get_shard_boundaries(len(sizes), shards)):
                lengths.append(end - sum(lengths))
                path = template.sharded_filepath(shard_index=shard, num_shards=shards)
                self._example_writer().write(path, itertools.islice(records, lengths[-1]))
        return self._split_info(split, lengths, sum(sizes))

    def _write_by_beam(self, recipe: Recipe, account: Account, fingerprint: Fingerprint) -> list[tfds.core.SplitInfo]:
        written = write_by_beam(
            recipe,
            templates={split: self._get_filename_template(split) for split in recipe.splits()},
            example_writer=self._example_writer(),
            folder=Path(self.data_dir),
            runner=str(self._workers.beam_runner),
            options=self._workers.beam_options,
        )
        for split, result in written.items():
            account.add(split, sum(result.shard_lengths), result.notes)
            for _ in fingerprint.taking(split, stored_records(Path(self.data_dir), split)):
                pass
        return [self._split_info(split, result.shard_lengths, result.size) for split, result in written.items()]

    def _split_info(self, split: str, lengths: list[int], size: int) -> tfds.core.SplitInfo:
        template = self._get_filename_template(split)
        return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)

    def _example_writer(self) -> ExampleWriter:
        return _UncompressedWriter(file_format=self.info.file_format)


class _UncompressedWriter(ExampleWriter):
    """Writes ArrayRecord as TFDS does, without compressing: JPEGs don't get smaller, only slower."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        """Writes a shard."""
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


def _fill(journal: Journal, recipe: Recipe, split: str, map_: OrderedMap) -> None:
    """Prepares what the journal doesn't hold yet, and drops from it what was made from something else."""
    todo: Iterator[tuple[bytes, list[Any]]] = ((digest(recipe, items), items) for items in chunks(recipe, split))
    with tqdm(
        desc=f"{recipe.name} {split}", unit=f" {recipe.unit}", total=recipe.total(split), disable=None
    ) as progress:
        kept = 0
        for found, items in todo:
            if kept == len(journal) or journal.digest(kept) != found:
                todo = itertools.chain([(found, items)], todo)
                break
            kept += 1
            progress.update(len(items))
        journal.keep(kept)
        progress.initial = progress.n  # What was there already says nothing about the rate.

        digests: deque[bytes] = deque()

        def unprepared() -> Iterator[list[Any]]:
            for found, items in todo:
                digests.append(found)
                yield items

        for cooked in map_(partial(cook, recipe, split), unprepared()):
            journal.append(digests.popleft(), cooked)
            progress.update(cooked.notes["items"])


@contextlib.contextmanager
def _work_folder(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """A folder beside the dataset's for what isn't finished, held by one run at a time.

    What is found there from another preparation, and what a killed run of TFDS left, is removed.
    """
    work = folder.parent / f".{folder.name}.unfinished"
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise DataError(
            f"{folder}: another run is preparing it just now; wait for it or choose another --out"
        ) from error
    try:
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
            shutil.rmtree(leftover)
        identity = work / "identity.json"
        wanted = json.dumps(_identity(recipe))
        if not identity.is_file() or identity.read_text(encoding="utf-8") != wanted:
            for path in work.iterdir():
                path.unlink()
            identity.write_text(wanted, encoding="utf-8")
        yield work
    finally:
        os.close(handle)


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What makes a prepared dataset just this one."""
    return {"source": str(recipe.source.resolve()), "preparation": recipe.preparation()}


def _already_prepared(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds just what would be prepared; raises DataError where it holds something else."""
    if not folder.exists():
        return False
    found = read_metadata(folder)
    wanted = json.loads(json.dumps(_identity(recipe)))
    if {key: found.get(key) for key in wanted} == wanted:
        return True
    raise DataError(
        f"{folder}: already prepared in another way ({_differences(found, wanted)}); choose another --out or remove it"
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The settings that differ, in words."""
    before, now = ({"source": part.get("source"), **(part.get("preparation") or {})} for part in (found, wanted))
    return ", ".join(f"{key} was {before.get(key)}, is now {now[key]}" for key in now if before.get(key) != now[key])
