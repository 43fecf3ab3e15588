"""RECOLA as ArrayRecord: one recording per record."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipelines.builders.dataset_builder import Workers, prepare
from data_pipelines.builders.recordings import Overview, RecordingsRecipe, overview
from data_pipelines.gold_standard import check_available
from data_pipelines.recordings import ClipConfig
from data_pipelines.releases import recola
from data_pipelines.releases.items import Recording, Skip


@dataclass(frozen=True)
class RecolaPreparation(ClipConfig):
    """How RECOLA is prepared; the others as in `ClipConfig`.

    Attributes:
        form: The form that the source folder has; "auto" finds out by looking.
        partition: Who is in which split: A, B, avec, or a JSON file of your own, see `releases.recola.load_partition`;
            "auto" is A for the public form and avec for AVEC's.
    """

    form: Literal["auto", "public", "avec2016", "avec2018"] = "auto"
    partition: str = "auto"


def prepare_recola(source: Path, out: Path, config: RecolaPreparation, workers: Workers) -> Path:
    """Prepares RECOLA as `out/recola/<version>`: one record per recording, splits "train", "dev" and "test".

    A split that has no recording is left out. Videos shorter than their annotation are filled up with frames
    without a face, longer ones are cut; so is the sound. How much was missing or cut is counted.

    Args:
        source: The folder that the release was unpacked into; only read.
        out: The folder for prepared datasets.
        config: How to prepare.
        workers: Who does the work.

    Returns:
        The folder of the prepared dataset; one that was prepared before, in the same way, is used again.

    Raises:
        DataError: The source is no RECOLA release, has too few raters for the gold standard, or `out` holds it
            prepared in another way.
    """
    form = recola.detect_form(source) if config.form == "auto" else config.form
    recola.check_source(source, form)
    of_form = "A" if form == "public" else "avec"
    partition = recola.load_partition(of_form if config.partition == "auto" else config.partition)
    found = overview(source, recola.read_recordings(source, form, partition), recola.SPLITS)
    check_available(config.gold_standard, len(found.raters), released=form != "public")
    return prepare(RecolaRecipe(source, config, form, partition, found), out, workers)


@dataclass(frozen=True)
class RecolaRecipe(RecordingsRecipe):
    """How RECOLA is made.

    Attributes:
        source: The release.
        config: How to prepare.
        form: Its form.
        partition: Who is in which split.
        overview: What is known of all recordings.
    """

    source: Path
    config: RecolaPreparation
    form: recola.Form
    partition: recola.Partition
    overview: Overview

    name = "recola"
    description = "RECOLA: one recording per record."

    def preparation(self) -> dict[str, Any]:
        """The settings, with form and partition in full."""
        members = {split: list(names) for split, names in self.partition.members.items()}
        found = {"form": self.form, "partition": self.partition.name, "members": members}
        return asdict(self.config) | found | {"labels": self.overview.labels}

    def listed(self) -> Iterator[tuple[str | None, Recording | Skip]]:
        """The release's recordings."""
        return recola.read_recordings(self.source, self.form, self.partition)

    def metadata(self) -> dict[str, Any]:
        """Who rated, and which label belongs to which frame."""
        return super().metadata() | {"label_rule": recola.LABEL_RULE}
