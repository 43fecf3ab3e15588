"""`avemo prepare`: from a corpus as it was released, or your own data, to ArrayRecord."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.fec import FecPreparation, prepare_fec
from data_pipelines.builders.own_data import prepare_clips, prepare_faces
from data_pipelines.builders.recola import RecolaPreparation, prepare_recola
from data_pipelines.faces import CropConfig
from data_pipelines.recordings import ClipConfig
from data_pipelines.records import VERSION, dataset_folder, read_metadata
from launch.errors import LaunchError


@dataclass(frozen=True)
class Prepare:
    """Where a corpus is read and written, and by whom.

    Attributes:
        source: folder of the corpus as it was released; it is only read.
        out: folder of the prepared corpora; each lies in its own folder inside.
    """

    source: Path
    out: Path
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers, kw_only=True)


@dataclass(frozen=True)
class PrepareAffectNet(Prepare):
    """Cut AffectNet's faces out and write them as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[AffectNetPreparation, arg(name="")] = field(default_factory=AffectNetPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(prepare_affectnet(self.source, self.out, self.config, self.workers))


@dataclass(frozen=True)
class PrepareFec(Prepare):
    """Cut FEC's faces out of the photographs and write them and the triplets as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[FecPreparation, arg(name="")] = field(default_factory=FecPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        folder = prepare_fec(self.source, self.out, self.config, self.workers)
        for part in ("faces", "triplets"):
            print_counts(folder / part / VERSION)


@dataclass(frozen=True)
class PrepareRecola(Prepare):
    """Find and align faces, resample sound, make gold standards, and write RECOLA as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[RecolaPreparation, arg(name="")] = field(default_factory=RecolaPreparation)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(prepare_recola(self.source, self.out, self.config, self.workers))


@dataclass(frozen=True)
class PrepareOwn:
    """What your own data are read from and written to, and by whom.

    Attributes:
        csv: the list of your files; paths in it start at its folder.
        out: folder of the prepared corpora; each lies in its own folder inside.
    """

    csv: Path
    out: Path
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers, kw_only=True)


@dataclass(frozen=True)
class PrepareFaces(PrepareOwn):
    """Cut the faces of your own pictures out and write them as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[CropConfig, arg(name="")] = field(default_factory=CropConfig)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(prepare_faces(self.csv, self.out, self.config, self.workers))


@dataclass(frozen=True)
class PrepareClips(PrepareOwn):
    """Find and align faces in your own annotated clips, resample their sound, and write them as ArrayRecord.

    Attributes:
        config: how.
    """

    config: Annotated[ClipConfig, arg(name="")] = field(default_factory=ClipConfig)

    def __call__(self) -> None:
        """Prepare and tell the counts."""
        print_counts(prepare_clips(self.csv, self.out, self.config, self.workers))


def print_counts(folder: Path) -> None:
    """One row for each count of each split, and for each reason why something was skipped."""
    metadata = read_metadata(folder)
    how = ", ".join(f"{name} {value}" for name, value in metadata["preparation"].items() if name in ("release", "form"))
    table = Table(title=f"{folder} {how}".strip(), title_justify="left", show_header=False)
    for split, counts in metadata["splits"].items():
        for name, value in counts.items():
            if isinstance(value, int):
                table.add_row(split, name.replace("_", " "), str(value))
        for reason, number in counts["skipped"].items():
            table.add_row(split, f"skipped: {reason}", str(number))
    if "shared_photographs" in metadata:
        table.add_row("train and test", "photographs in both", str(metadata["shared_photographs"]))
    Console().print(table)


def preparations(data: Path) -> dict[str, dict[str, Any]]:
    """How each corpus that lies in a folder was prepared, by the corpus' name."""
    return {corpus: metadata["preparation"] for corpus, metadata in _all_metadata(data).items()}


def what_they_are(data: Path, corpora: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of corpora that are learned from: the settings of their preparation, and whether they are "synthetic".

    What an earlier version prepared doesn't say so.
    """
    prepared = _all_metadata(data)
    found = {}
    for corpus in corpora:
        metadata = prepared[corpus]
        told = metadata["preparation"] | {name: metadata[name] for name in metadata.keys() & {"synthetic"}}
        found[corpus] = {name: value for name, value in told.items() if not isinstance(value, list | dict)}
    return found


def _all_metadata(data: Path) -> dict[str, dict[str, Any]]:
    """The metadata of each corpus that lies in a folder."""
    parts = {name: name for name in ("affectnet", "faces", "recola", "clips")} | {"fec": "fec/triplets"}
    folders = {corpus: dataset_folder(data, part) for corpus, part in parts.items()}
    return {corpus: read_metadata(folder) for corpus, folder in folders.items() if folder.is_dir()}


def crop_settings(data: Path, corpus: str) -> dict[str, Any]:
    """How the faces of a prepared corpus were cut, as `CropConfig` has it."""
    preparation = preparations(data)[corpus]
    return {each.name: preparation[each.name] for each in fields(CropConfig)}


_LARGEST = 1.7
"""Networks look at crops of their own size. Of a face that is more than so many times as large (our choice) they would
see only the middle."""


def check_image_size(data: Path, corpus: str, image_size: int) -> None:
    """Raise LaunchError where a corpus was prepared with faces smaller than a network takes, or much larger ones."""
    size = preparations(data).get(corpus, {}).get("size", image_size)
    if size < image_size:
        raise LaunchError(
            f"{data / corpus}: the prepared faces are {size}x{size} pixels, the network wants "
            f"{image_size}x{image_size}: prepare them again with --size {image_size} or more"
        )
    if size > _LARGEST * image_size:
        raise LaunchError(
            f"{data / corpus}: the prepared faces are {size}x{size} pixels, and the network would see only the middle "
            f"{image_size}x{image_size}: prepare them again with --size {round(1.15 * image_size)}"
        )


def check_same_size(data: Path, corpora: Iterable[str]) -> None:
    """Raise LaunchError where faces that are to stand in one batch were prepared in different sizes."""
    prepared = preparations(data)
    sizes = {corpus: prepared[corpus]["size"] for corpus in corpora if corpus in prepared}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{corpus} {size}x{size}" for corpus, size in sorted(sizes.items()))
        raise LaunchError(f"{data}: faces that are learnt from together must have one size, not {told}: prepare anew")
