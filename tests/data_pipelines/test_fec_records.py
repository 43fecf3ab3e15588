"""FEC's records: triplets point at their faces, and what is missing is counted."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_releases import URLS, picture, splits_of, write_fec, write_image

from avemo.labels import TRIPLET_KINDS
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.fec import FecPreparation, prepare_fec
from data_pipelines.errors import DataError
from data_pipelines.faces import decode_image
from data_pipelines.loaders import fingerprint
from data_pipelines.records import dataset_folder, open_split, read_metadata
from data_pipelines.releases.fec import photograph_path

ALONE, TWO = Workers(1), Workers(2)


def face_pixels(face: int, size: int) -> np.ndarray:
    left = (20, 40)[face % 2]
    return cv2.resize(picture(face // 2, 50, 80)[10:30, left : left + 20], (size, size), interpolation=cv2.INTER_CUBIC)


def test_fec_triplets_point_at_their_faces(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    folder = prepare_fec(tmp_path / "in", tmp_path, FecPreparation(size=24), ALONE)
    assert folder == tmp_path / "fec"
    assert splits_of(dataset_folder(tmp_path, "fec/faces"))["train"] == {
        "items": 5,
        "records": 6,
        "skipped": {"photograph absent": 1, "undecodable picture": 1},
        "first_skipped": [
            ["http://x/4 0.25 0.2 0.5 0.6", "photograph absent"],
            ["http://x/5 0.25 0.2 0.5 0.6", "undecodable picture"],
        ],
    }
    triplets_split = splits_of(dataset_folder(tmp_path, "fec/triplets"))["test"]
    assert [triplets_split[name] for name in ("items", "records", *TRIPLET_KINDS)] == [6, 3, 1, 1, 1]
    assert triplets_split["skipped"] == {
        "a face is missing (THREE_CLASS_TRIPLET)": 1,
        "a face is missing (TWO_CLASS_TRIPLET)": 1,
        "no consensus (ONE_CLASS_TRIPLET)": 1,
    }
    assert read_metadata(dataset_folder(tmp_path, "fec/faces"))["shared_photographs"] == 6
    faces, triplets = (
        open_split(tmp_path, "fec/faces", "train"),
        open_split(tmp_path, "fec/triplets", "train"),
    )
    for triplet, wanted in zip((triplets[0], triplets[1], triplets[2]), [(1, 2, 0), (2, 1, 7), (6, 0, 3)], strict=True):
        for position, face in zip(triplet["faces"], wanted, strict=True):
            image = decode_image(faces[position]["image"][0])
            assert image is not None
            assert np.abs(image.astype(int) - face_pixels(face, 24)).mean() < 4


def test_fec_by_two_processes_and_again(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    prepare_fec(tmp_path / "in", tmp_path / "1", FecPreparation(size=24), ALONE)
    prepare_fec(tmp_path / "in", tmp_path / "2", FecPreparation(size=24), TWO)
    assert fingerprint(tmp_path / "1", "fec") == fingerprint(tmp_path / "2", "fec")
    with pytest.raises(DataError, match=r"consensus was 0\.66.*, is now 0\.5"):
        prepare_fec(tmp_path / "in", tmp_path / "1", FecPreparation(size=24, consensus=0.5), ALONE)


def test_triplets_of_other_faces_are_not_used_again(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    config = FecPreparation(size=24)
    prepare_fec(tmp_path / "in", tmp_path, config, ALONE)
    shutil.rmtree(tmp_path / "fec/faces")
    photograph_path(tmp_path / "in", URLS[3]).unlink()
    with pytest.raises(DataError, match=r"fec/triplets/2\.0\.0: .*\(faces_fingerprint was .*\); choose another --out"):
        prepare_fec(tmp_path / "in", tmp_path, config, ALONE)
    shutil.rmtree(tmp_path / "fec/triplets")
    prepare_fec(tmp_path / "in", tmp_path, config, ALONE)
    assert len(open_split(tmp_path, "fec/triplets", "train")) == 1


def test_photographs_added_later_are_noticed(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    config = FecPreparation(size=24)
    prepare_fec(tmp_path / "in", tmp_path, config, ALONE)
    write_image(photograph_path(tmp_path / "in", URLS[4]), picture(4))
    with pytest.raises(DataError, match=r"fec/faces.*photographs was .*; choose another --out or remove it"):
        prepare_fec(tmp_path / "in", tmp_path, config, ALONE)
    prepare_fec(tmp_path / "in", tmp_path / "again", config, ALONE)
    assert len(open_split(tmp_path / "again", "fec/triplets", "train")) == 4


def test_a_list_without_any_usable_triplet_is_told(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    list_path = tmp_path / "in/faceexp-comparison-data-test-public.csv"
    list_path.write_text(list_path.read_text().splitlines()[3] + "\n")
    with pytest.raises(DataError, match=r"no triplet of split test can be used.*no consensus \(ONE_CLASS_TRIPLET\)"):
        prepare_fec(tmp_path / "in", tmp_path, FecPreparation(size=24), ALONE)
