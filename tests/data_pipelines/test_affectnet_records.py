"""AffectNet's records: every row is prepared or counted, and holds what the release says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from small_releases import picture, skipped, splits_of, write_affectnet_2017, write_affectnet_2021, write_image

from avemo.labels import EXPRESSIONS
from data_pipelines.builders.account import NEAR_DUPLICATES_FILE
from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.errors import DataError
from data_pipelines.faces import FACE_TEMPLATE, decode_image
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


def points(shift: float) -> str:
    """68 landmarks whose five points lie where `FACE_TEMPLATE` puts them in the small releases' box, moved right."""
    five = FACE_TEMPLATE * 40 + [20 + shift, 10]
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[30], landmarks[48], landmarks[54] = five
    return ";".join(f"{value:.3f}" for value in landmarks.ravel())


def with_landmarks(root: Path) -> None:
    """Landmarks in place for even pictures, three pixels to the right for every fourth, none for odd ones."""
    for path in (root / "Manually_Annotated_file_lists").iterdir():
        rows = list(csv.reader(path.read_text().splitlines()))
        for number, row in enumerate(rows[1:41]):
            row[5] = "" if number % 2 else points(3 * (number % 4 == 0))
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)


def test_alignment_by_the_releases_landmarks(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    with_landmarks(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, align=True), ALONE)
    train = splits_of(folder)["train"]
    assert (train["records"], train["skipped"]["landmarks missing"]) == (20, 20 + 2)
    records = open_split(tmp_path, "affectnet", "train")
    for index, left in ((0, 23), (1, 20)):  # pictures 0 and 2
        image = decode_image(records[index]["image"][0])
        assert image is not None
        assert np.abs(image[2:-2, 2:-2].astype(int) - picture(2 * index)[12:48, left + 2 : left + 38]).mean() < 3
        assert records[index]["face_size_px"][0] == 40


def test_settings_of_the_crop_change_the_records(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=16)
    images = []
    for name, config in (
        ("plain", AffectNetPreparation(size=40)),
        ("margin", AffectNetPreparation(size=40, margin=0.25)),
        ("filter", AffectNetPreparation(size=24, resize_filter="lanczos")),
        ("area", AffectNetPreparation(size=24)),
    ):
        folder = prepare_affectnet(tmp_path / "in", tmp_path / name, config, ALONE)
        assert read_metadata(folder)["preparation"]["margin"] == config.margin
        images.append(bytes(open_split(tmp_path / name, "affectnet", "train")[0]["image"][0]))
    assert len(set(images)) == 4


def test_classes_without_expression_are_kept_where_asked_for(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    config = AffectNetPreparation(size=40, unlabelled=("uncertain", "none"))
    splits = splits_of(prepare_affectnet(tmp_path / "in", tmp_path, config, ALONE))
    assert splits["train"]["items"] + splits["unlabelled"]["items"] == 40 + 9
    assert (splits["unlabelled"]["records"], splits["unlabelled"]["without_expression"]) == (1, 1)
    assert "expression uncertain" not in splits["train"]["skipped"]
    assert splits["validation"]["skipped"]["expression uncertain"] == 1
    record = open_split(tmp_path, "affectnet", "unlabelled")[0]
    assert record["expression"][0] == -1
    assert not record["valence_arousal_valid"][0]


def test_the_automatic_part_becomes_a_split(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=16)
    lists = tmp_path / "in/Automatically_annotated_file_list"
    lists.mkdir()
    (lists / "automatically_annotated.csv").write_text(
        ",".join(COLUMNS) + "\n5/a.jpg,20,10,40,40,,3,0.5,-0.5\n5/absent.jpg,20,10,40,40,,3,0.5,-0.5\n"
    )
    write_image(tmp_path / "in/Automatically_Annotated_Images/5/a.jpg", picture(77))
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, automatic=True), ALONE)
    automatic = splits_of(folder)["automatic"]
    assert (automatic["records"], automatic["surprise"], automatic["skipped"]) == (1, 1, {"listed but absent": 1})


def write_affectnet_plus(root: Path, count: int = 16) -> None:
    for folder in ("human_annotated/train_set", "human_annotated/validation_set"):
        for number in range(count):
            write_image(root / folder / f"images/{number}.jpg", picture(number))
            annotation = {
                "human-label": number % 8,
                "soft-label": [0.5 if code == number % 8 else 0.5 / 7 for code in range(8)],
                "subset": number % 3,
                "meta-data": {"valence": 0.25, "arousal": -0.25, "landmark-68": [0.0] * 136},
            }
            path = root / folder / f"annotations/{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(annotation))


def test_affectnet_plus_has_soft_labels(tmp_path: Path) -> None:
    write_affectnet_plus(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), ALONE)
    assert read_metadata(folder)["preparation"]["release"] == "plus"
    record = open_split(tmp_path, "affectnet", "train")[3]
    assert (record["expression"][0], record["soft_label"][3]) == (3, 0.5)
    assert list(record["valence_arousal"]) == [0.25, -0.25]


@pytest.mark.parametrize("what", ["report", "drop"])
def test_near_duplicates_across_the_splits(tmp_path: Path, what: str) -> None:
    write_affectnet_2017(tmp_path / "in", count=40)
    lists = tmp_path / "in/Manually_Annotated_file_lists"
    header, *rows = (lists / "training.csv").read_text().splitlines()
    (lists / "training.csv").write_text("\n".join([header, *rows[:30]]) + "\n")
    (lists / "validation.csv").write_text("\n".join([header, *rows[28:40]]) + "\n")
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, near_duplicates=what), ALONE)
    train = splits_of(folder)["train"]
    listed = list(csv.reader((folder / NEAR_DUPLICATES_FILE).read_text().splitlines()))
    assert listed == [["train", name, name, "0"] for name in ("1/28.PNG", "2/29.tif")]
    if what == "drop":
        assert (train["records"], train["skipped"]) == (28, {"near-duplicate of a validation face": 2})
    else:
        assert (train["records"], train["near_duplicates"]) == (30, 2)
