"""`avemo prepare {affectnet,fec,recola}`: from a corpus as it was released to ArrayRecord."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from avemo.labels import EXPRESSIONS, TRIPLET_KINDS
from data_pipelines import builders
from data_pipelines.builders import AffectNetPreparation, FecPreparation, RecolaPreparation
from data_pipelines.records import VERSION, dataset_folder, read_metadata
from launch.errors import LaunchError


@dataclass(frozen=True)
class ReleasedCorpus:
    """Where a corpus is read and written.

    Attributes:
        source: folder of the corpus as it was released; it is only read.
        out: folder of the prepared corpora; each lies in its own folder inside.
    """

    source: Path
    out: Path


@dataclass(frozen=True)
class PrepareAffectNet(ReleasedCorpus):
    """Cut AffectNet's faces out and write them as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[AffectNetPreparation, arg(name="")] = field(default_factory=AffectNetPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(builders.prepare_affectnet(self.source, self.out, self.config))


@dataclass(frozen=True)
class PrepareFec(ReleasedCorpus):
    """Cut FEC's faces out of the photographs and write them and the triplets as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[FecPreparation, arg(name="")] = field(default_factory=FecPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        folder = builders.prepare_fec(self.source, self.out, self.config)
        for part in ("faces", "triplets"):
            print_counts(folder / part / VERSION)


@dataclass(frozen=True)
class PrepareRecola(ReleasedCorpus):
    """Find and align faces, resample sound, make gold standards, and write RECOLA as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[RecolaPreparation, arg(name="")] = field(default_factory=RecolaPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(builders.prepare_recola(self.source, self.out, self.config))


def print_counts(folder: Path) -> None:
    """One row for each count of each split, and for each reason why something was skipped."""
    table = Table(title=str(folder), title_justify="left", show_header=False)
    for split, counts in builders.summarize(folder).items():
        for name, value in counts.items():
            if name == "skipped":
                for reason, number in value.items():
                    table.add_row(split, f"skipped: {reason}", str(number))
            elif name == "classes":
                for expression, number in zip(EXPRESSIONS, value, strict=True):
                    table.add_row(split, expression, str(number))
            elif name == "kinds":
                for kind, number in zip(TRIPLET_KINDS, value, strict=True):
                    table.add_row(split, kind, str(number))
            else:
                table.add_row(split, name.replace("_", " "), str(value))
    Console().print(table)


def preparations(data: Path) -> dict[str, dict[str, Any]]:
    """How each corpus that lies in a folder was prepared, by the corpus' name."""
    folders = {
        corpus: dataset_folder(data, part)
        for corpus, part in (("affectnet", "affectnet"), ("fec", "fec/triplets"), ("recola", "recola"))
    }
    return {corpus: read_metadata(folder)["preparation"] for corpus, folder in folders.items() if folder.is_dir()}


def check_image_size(data: Path, corpus: str, image_size: int) -> None:
    """Raise LaunchError where a corpus was prepared with faces smaller than a network takes."""
    size = preparations(data).get(corpus, {}).get("size", image_size)
    if size < image_size:
        raise LaunchError(
            f"{data / corpus}: the prepared faces are {size}x{size} pixels, the network wants "
            f"{image_size}x{image_size}: prepare them again with --size {image_size} or more"
        )
