import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from data_pipelines.errors import DataError
from data_pipelines.synthetic.affectnet import FAULTS, PRESETS, SyntheticAffectNetConfig, synthesize

TINY = PRESETS["tiny"]
LISTS = {"train": "training.csv", "validation": "validation.csv"}
FOLDERS = {"train": "train_set", "validation": "val_set"}


def written(folder: Path, config: SyntheticAffectNetConfig, seed: int = 3) -> Path:
    synthesize(folder, config, seed)
    return folder


@pytest.fixture(scope="module")
def release_2017(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("affectnet_2017"), TINY)


@pytest.fixture(scope="module")
def release_2021(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("affectnet_2021"), replace(TINY, release="2021"))


def truth(root: Path) -> dict:
    return json.loads((root / "truth.json").read_text())


def rows(root: Path, partition: str) -> list[dict[str, str]]:
    with (root / "Manually_Annotated_file_lists" / LISTS[partition]).open(newline="") as stream:
        return list(csv.DictReader(stream))


def regular(root: Path, partition: str) -> list[dict[str, str]]:
    keys = set(truth(root)["partitions"][partition]["key"])
    return [row for row in rows(root, partition) if row["subDirectory_filePath"] in keys]


def annotation(root: Path, partition: str, key: str, name: str) -> np.ndarray:
    return np.load(root / FOLDERS[partition] / "annotations" / f"{key}_{name}.npy", allow_pickle=False)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("partition", LISTS)
def test_2017_rows_describe_their_pictures(release_2017: Path, partition: str) -> None:
    found = regular(release_2017, partition)
    assert len(found) == len(truth(release_2017)["partitions"][partition]["key"])
    for row in found:
        image = cv2.imread(str(release_2017 / "Manually_Annotated_Images" / row["subDirectory_filePath"]))
        x, y, width, height = (int(row[f"face_{name}"]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= image.shape[1]
        assert 0 <= y < y + height <= image.shape[0]
        points = np.array([float(value) for value in row["facial_landmarks"].split(";")]).reshape(68, 2)
        assert np.all(points >= np.array([x, y]) - 1)
        assert np.all(points <= np.array([x + width, y + height]) + 1)
        assert int(row["expression"]) in range(8)
        assert -1 <= float(row["valence"]) <= 1
        assert -1 <= float(row["arousal"]) <= 1


def test_2017_header_is_the_releases_own(release_2017: Path) -> None:
    first = (release_2017 / "Manually_Annotated_file_lists" / "training.csv").read_text().splitlines()[0]
    assert first == (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    )


def test_2017_faults_are_planted_and_listed(release_2017: Path) -> None:
    planted = {entry["fault"]: entry["file"] for entry in truth(release_2017)["planted"]}
    assert set(planted) == {*FAULTS, "code_8", "code_9", "code_10"}
    images = release_2017 / "Manually_Annotated_Images"
    row = {row["subDirectory_filePath"]: row for name in LISTS for row in rows(release_2017, name)}
    assert row[planted["null_box"]]["face_x"] == row[planted["null_box"]]["face_y"] == "NULL"
    assert int(row[planted["negative_width"]]["face_width"]) < 0
    assert int(row[planted["box_leaves_image"]]["face_x"]) < 0
    assert (images / planted["jpeg_named_png"]).read_bytes()[:2] == b"\xff\xd8"
    assert (images / planted["png_named_jpg"]).read_bytes()[1:4] == b"PNG"
    assert (images / planted["tiff"]).read_bytes()[:2] in (b"II", b"MM")
    assert cv2.imdecode(np.fromfile(images / planted["undecodable"], np.uint8), 1) is None
    assert not (images / planted["absent"]).exists()
    assert abs(float(row[planted["code_8"]]["valence"])) <= 1
    for code in ("code_9", "code_10"):
        assert float(row[planted[code]]["valence"]) == float(row[planted[code]]["arousal"]) == -2


def test_2021_files_are_0d_strings_and_interleaved_landmarks(release_2021: Path) -> None:
    for partition, folder in FOLDERS.items():
        keys = truth(release_2021)["partitions"][partition]["key"]
        pictures = {path.stem for path in (release_2021 / folder / "images").iterdir()}
        assert pictures == set(keys)
        for key in keys:
            for name in ("exp", "val", "aro"):
                value = annotation(release_2021, partition, key, name)
                assert value.shape == ()
                assert value.dtype.kind == "U"
            landmarks = annotation(release_2021, partition, key, "lnd")
            assert landmarks.shape == (136,)
            assert landmarks.min() >= -1
            assert landmarks.max() <= TINY.crop_size + 1
            image = cv2.imread(str(release_2021 / folder / "images" / f"{key}.jpg"))
            assert image.shape == (TINY.crop_size, TINY.crop_size, 3)


@pytest.mark.parametrize("partition", LISTS)
def test_both_releases_hold_the_same_faces_and_labels(release_2017: Path, release_2021: Path, partition: str) -> None:
    old, new = (truth(root)["partitions"][partition] for root in (release_2017, release_2021))
    assert {**old, "key": None} == {**new, "key": None}
    assert truth(release_2017)["ceiling"] == truth(release_2021)["ceiling"]
    for row, key in zip(regular(release_2017, partition), new["key"], strict=True):
        assert int(row["expression"]) == int(annotation(release_2021, partition, key, "exp"))
        assert float(row["valence"]) == float(annotation(release_2021, partition, key, "val"))
        assert float(row["arousal"]) == float(annotation(release_2021, partition, key, "aro"))
        x, y, size = (int(row[name]) for name in ("face_x", "face_y", "face_width"))
        image = cv2.imread(str(release_2017 / "Manually_Annotated_Images" / row["subDirectory_filePath"]))
        crop = cv2.imread(str(release_2021 / FOLDERS[partition] / "images" / f"{key}.jpg"))
        crop_size = (TINY.crop_size, TINY.crop_size)
        expected = cv2.resize(image[y : y + size, x : x + size], crop_size, interpolation=cv2.INTER_AREA)
        assert np.abs(crop.astype(int) - expected).mean() < 5


def test_identities_are_disjoint_between_partitions(release_2017: Path) -> None:
    train, validation = (set(truth(release_2017)["partitions"][name]["identity"]) for name in LISTS)
    assert train.isdisjoint(validation)


def test_validation_is_balanced_and_noise_has_the_stated_rate(release_2021: Path) -> None:
    for partition, columns in truth(release_2021)["partitions"].items():
        label, true = np.array(columns["label"]), np.array(columns["true_class"])
        assert (label != true).sum() == round(TINY.label_noise * len(label))
        if partition == "validation":
            assert np.bincount(label).tolist() == [TINY.validation_faces_per_class] * 8


def test_ceiling_is_the_score_of_the_truth_on_the_files(release_2017: Path) -> None:
    found = regular(release_2017, "validation")
    columns, ceiling = truth(release_2017)["partitions"]["validation"], truth(release_2017)["ceiling"]
    label = np.array([int(row["expression"]) for row in found])
    true = np.array(columns["true_class"])
    assert ceiling["accuracy_8"] == pytest.approx(accuracy_score(label, true))
    assert ceiling["macro_f1_8"] == pytest.approx(f1_score(label, true, average="macro"))
    assert ceiling["accuracy_7"] == pytest.approx(accuracy_score(label[label < 7], true[label < 7]))
    for name in ("valence", "arousal"):
        x, y = np.array(columns[f"true_{name}"]), np.array([float(row[name]) for row in found])
        moments = np.cov(x, y, bias=True)
        ccc = 2 * moments[0, 1] / (moments[0, 0] + moments[1, 1] + (x.mean() - y.mean()) ** 2)
        assert ceiling[f"ccc_{name}"] == pytest.approx(ccc, abs=1e-4)


def test_a_seed_gives_the_same_files_with_any_number_of_processes(release_2017: Path, tmp_path: Path) -> None:
    again = files(written(tmp_path / "again", replace(TINY, processes=2)))
    before = files(release_2017)
    again.pop("truth.json")
    before.pop("truth.json")  # names the number of processes
    assert again == before


def test_another_seed_gives_other_faces(release_2017: Path, tmp_path: Path) -> None:
    config = replace(TINY, train_faces=8, validation_faces_per_class=1)
    other = truth(written(tmp_path, config, seed=4))["partitions"]["validation"]["key"]
    assert set(other).isdisjoint(truth(release_2017)["partitions"]["validation"]["key"])


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(DataError, match="not empty"):
        synthesize(tmp_path, TINY, 0)


@pytest.mark.parametrize(
    "wrong", [{"label_noise": 1.0}, {"train_faces": 0}, {"canvas_size": (200, 100)}, {"release": "2019"}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(TINY, **wrong)
