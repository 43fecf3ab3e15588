"""By Apache Beam: the same records, the same account, as by processes here."""

from pathlib import Path

import pytest
from small_releases import write_affectnet_2017, write_fec

from data_pipelines.builders.account import SKIPPED_FILE
from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.fec import FecPreparation, prepare_fec
from data_pipelines.errors import DataError
from data_pipelines.records import dataset_folder, open_split, read_metadata

beam = pytest.importorskip("apache_beam", reason="the extra beam is not installed")

# Apache Beam itself uses what Python and its own libraries have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

BEAM = Workers(1, "DirectRunner", ("direct_num_workers=2", "direct_running_mode=multi_processing"))


def test_affectnet_by_beam(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=60)
    config = AffectNetPreparation(size=40, unlabelled=("uncertain",))
    here, there = (
        prepare_affectnet(tmp_path / "in", tmp_path / name, config, workers)
        for name, workers in (("here", Workers(1)), ("there", BEAM))
    )
    assert read_metadata(here) == read_metadata(there)
    for name in (SKIPPED_FILE, "near_duplicates.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    ours, theirs = (open_split(folder.parents[1], "affectnet", "validation") for folder in (here, there))
    assert [ours[index] for index in range(len(ours))] == [theirs[index] for index in range(len(theirs))]


def test_fec_by_beam(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    for name, workers in (("here", Workers(1)), ("there", BEAM)):
        prepare_fec(tmp_path / "in", tmp_path / name, FecPreparation(size=24), workers)
    for part in ("fec/faces", "fec/triplets"):
        here, there = (read_metadata(dataset_folder(tmp_path / name, part)) for name in ("here", "there"))
        assert here == there


def test_an_unknown_runner_is_told(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=8)
    with pytest.raises(DataError, match="NoRunner: the pipeline failed"):
        prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), Workers(1, "NoRunner"))
