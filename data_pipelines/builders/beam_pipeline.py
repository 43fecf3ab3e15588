"""The same work by Apache Beam (extra "beam"), on many machines.

Source and prepared datasets must lie where every machine finds them under the same path.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.writer import BeamWriter, ExampleWriter

from data_pipelines.builders.recipe import Cooked, Recipe, chunks, cook
from data_pipelines.errors import DataError

_MOST_RECORDS_OF_A_CHUNK = 1 << 20


@dataclass(frozen=True)
class BeamSplit:
    """A split that Beam has written.

    Attributes:
        shard_lengths: Records in each shard.
        size: Bytes of all records.
        notes: Of all chunks in order, see `Cooked`.
    """

    shard_lengths: list[int]
    size: int
    notes: list[dict[str, Any]]


def write_by_beam(
    recipe: Recipe,
    templates: Mapping[str, ShardedFileTemplate],
    example_writer: ExampleWriter,
    folder: Path,
    runner: str,
    options: Sequence[str],
) -> dict[str, BeamSplit]:
    """Writes all splits of a dataset in one pipeline.

    Args:
        recipe: How the dataset is made.
        templates: Where the shards of each split go.
        example_writer: Writes a shard.
        folder: For the notes, while the pipeline runs.
        runner: Name of the Beam runner.
        options: Options for Beam, without leading dashes.

    Returns:
        What was written, by split.

    Raises:
        DataError: Beam isn't installed, doesn't know the runner or an option, or the pipeline failed.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise DataError('Apache Beam is not installed; in the project folder: pip install -e ".[beam]"') from error
    writers = {
        split: BeamWriter(
            serializer=_Serialized(),
            filename_template=template,
            hash_salt=split,
            disable_shuffling=True,
            example_writer=example_writer,
        )
        for split, template in templates.items()
    }
    notes = {split: folder / f"{split}.notes.json" for split in templates}
    try:
        flags = beam.options.pipeline_options.PipelineOptions([f"--{option}" for option in options])
        with beam.Pipeline(runner=runner, options=flags) as pipeline:
            for split, writer in writers.items():
                # A worker reads the list: as part of the pipeline it would be larger than most runners take.
                cooked = (
                    pipeline
                    | f"{split}: begin" >> beam.Create([split])
                    | f"{split}: read the list" >> beam.FlatMap(partial(_numbered_chunks, recipe))
                    | f"{split}: share out" >> beam.Reshuffle()
                    | f"{split}: prepare" >> beam.Map(partial(_cook, recipe, split))
                )
                _ = (
                    cooked
                    | f"{split}: take notes" >> beam.Map(_numbered_notes)
                    | f"{split}: collect notes" >> beam.combiners.ToList()
                    | f"{split}: write notes" >> beam.Map(partial(_write_notes, notes[split]))
                )
                records = cooked | f"{split}: number records" >> beam.FlatMap(_numbered_records)
                _ = records | f"{split}: write" >> beam.ptransform_fn(writer.write_from_pcollection)()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{runner}: the pipeline failed ({str(error).strip().splitlines()[-1]})") from error
    written = {}
    for split, writer in writers.items():
        lengths, size = writer.finalize()
        written[split] = BeamSplit(lengths, size, _read_notes(notes[split]))
    return written


class _Serialized:
    """Stands in for TFDS's serializer: the records are serialized already."""

    def serialize_example(self, example: bytes) -> bytes:
        return example


def _numbered_chunks(recipe: Recipe, split: str) -> Iterator[tuple[int, list[Any]]]:
    return enumerate(chunks(recipe, split))


def _cook(recipe: Recipe, split: str, numbered: tuple[int, list[Any]]) -> tuple[int, Cooked]:
    number, items = numbered
    return number, cook(recipe, split, items)


def _numbered_notes(numbered: tuple[int, Cooked]) -> tuple[int, dict[str, Any]]:
    number, cooked = numbered
    return number, cooked.notes


def _numbered_records(numbered: tuple[int, Cooked]) -> list[tuple[int, bytes]]:
    number, cooked = numbered
    return [(number * _MOST_RECORDS_OF_A_CHUNK + index, record) for index, record in enumerate(cooked.records)]


def _write_notes(path: Path, notes: list[tuple[int, dict[str, Any]]]) -> None:
    path.write_text(json.dumps([chunk for _, chunk in sorted(notes, key=lambda numbered: numbered[0])]))


def _read_notes(path: Path) -> list[dict[str, Any]]:
    notes = json.loads(path.read_text())
    path.unlink()
    return notes
