"""AffectNet's records: every row is prepared or counted, and holds what the release says."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_releases import picture, skipped, splits_of, write_affectnet_2017, write_affectnet_2021

from avemo.labels import EXPRESSIONS
from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.errors import DataError
from data_pipelines.faces import decode_image
from data_pipelines.records import open_split, read_metadata
from data_pipelines.releases.affectnet import COLUMNS

ALONE = Workers(1)

EXPECTED_SKIPS = {
    "box has no area": 1,
    "box is not four numbers": 1,
    "box outside the picture": 1,
    "expression uncertain": 1,
    "listed but absent": 1,
    "listed twice": 1,
    "path leaves the source folder": 1,
    "undecodable picture": 1,
}


def test_every_row_of_affectnet_is_prepared_or_counted(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path / "out", AffectNetPreparation(size=40), ALONE)

    assert folder == tmp_path / "out/affectnet/2.0.0"
    train = splits_of(folder)["train"]
    assert train["skipped"] == EXPECTED_SKIPS
    assert train["records"] + sum(EXPECTED_SKIPS.values()) == 40 + 9
    assert train["items"] == 40 + 9
    assert [train[name] for name in EXPRESSIONS] == [5] * 7 + [6]
    assert train["without_valence_arousal"] == 10
    listed = skipped(folder)
    assert len(listed) == 2 * sum(EXPECTED_SKIPS.values())
    assert ["train", "../secret.jpg", "path leaves the source folder"] in listed
    assert read_metadata(folder)["preparation"] == {
        "size": 40,
        "margin": 0.0,
        "resize_filter": "area",
        "jpeg_quality": 95,
        "release": "2017",
        "align": False,
        "unlabelled": [],
        "automatic": False,
        "near_duplicates": "report",
    }


def test_records_hold_what_the_release_says(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), ALONE)
    records = open_split(tmp_path, "affectnet", "train")
    assert len(records) == 41
    for number in range(40):
        record = records[number]
        assert record["key"][0].decode().split("/")[1].startswith(f"{number}.")
        assert record["expression"][0] == number % 8
        assert bool(record["valence_arousal_valid"][0]) == (number % 4 != 0)
        expected = (number / 100, -number / 100) if number % 4 else (0, 0)
        np.testing.assert_allclose(record["valence_arousal"], expected, atol=1e-6)
        image = decode_image(record["image"][0])
        assert image is not None
        assert np.abs(image.astype(int) - picture(number)[10:50, 20:60]).mean() < 3


def test_both_releases_give_the_same_records(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "2017")
    write_affectnet_2021(tmp_path / "2021")
    for release in ("2017", "2021"):
        prepare_affectnet(tmp_path / release, tmp_path / f"out{release}", AffectNetPreparation(size=40), ALONE)
    ours, theirs = (open_split(tmp_path / f"out{release}", "affectnet", "train") for release in ("2017", "2021"))
    for number in range(40):
        for name in ("expression", "valence_arousal", "valence_arousal_valid"):
            assert list(ours[number][name]) == list(theirs[number][name])
        images = [decode_image(records[number]["image"][0]) for records in (ours, theirs)]
        assert images[0] is not None
        assert images[1] is not None
        assert np.abs(images[0].astype(int) - images[1]).mean() < 4


def test_a_missing_validation_list_is_told_before_any_cutting(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=1)
    (tmp_path / "in/Manually_Annotated_file_lists/validation.csv").unlink()
    with pytest.raises(DataError, match=r"no validation\.csv"):
        prepare_affectnet(tmp_path / "in", tmp_path / "out", AffectNetPreparation(), ALONE)
    assert not (tmp_path / "out").exists()


def test_a_split_without_any_face_is_an_error(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    (tmp_path / "in/Manually_Annotated_file_lists/validation.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="nothing usable in split validation"):
        prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), ALONE)
