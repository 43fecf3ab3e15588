"""AffectNet+ and its faults, on releases written by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.releases.affectnet import check_source, count, detect_release, read_split
from data_pipelines.releases.items import Face, Skip

FOLDERS = {
    "train": "human_annotated/train_set",
    "validation": "human_annotated/validation_set",
    "automatic": "no_human_annotated",
}
SOFT_LABEL = [0.05, 0.6, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05]
FIVE_OF_RANGE = [[77, 78], [89, 90], [60, 61], [96, 97], [108, 109]]
ABSENT = object()


def annotation(meta_data: dict | None = None, **changes: Any) -> dict:
    """An annotation; ABSENT takes a key out."""
    meta = {
        "age": 31,
        "valence": -0.5,
        "arousal": 0.25,
        "gender": {"male": 0.1, "female": 0.9},
        "race": {"secret": 1.0},
        "pose": {"yaw": 0.0},
        "landmark-68": list(range(136)),
        "landmark-29": list(range(58)),
    } | (meta_data or {})
    content = {
        "human-label": 3,
        "soft-label": SOFT_LABEL,
        "subset": 0,
        "meta-data": {key: value for key, value in meta.items() if value is not ABSENT},
    } | {key.replace("_", "-"): value for key, value in changes.items()}
    return {key: value for key, value in content.items() if value is not ABSENT}


def write(root: Path, split: str, key: str, content: dict | bytes) -> None:
    folder = root / FOLDERS[split]
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "images" / f"{key}.jpg").write_bytes(b"any")
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "annotations" / f"{key}.json").write_bytes(data)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A sound release with one picture in every part."""
    for split in FOLDERS:
        changes = {"human_label": ABSENT} if split == "automatic" else {}
        write(tmp_path, split, "0", annotation(**changes))
    return tmp_path


def reasons(root: Path, split: str = "train", unlabelled: tuple[str, ...] = ()) -> Counter:
    items = read_split(root, "plus", split, unlabelled)
    return Counter(item.reason if isinstance(item, Skip) else "face" for item in items)


def test_reads_a_picture(release: Path) -> None:
    assert detect_release(release) == "plus"
    check_source(release, "plus", automatic=True)
    for split, expression in {"train": 3, "validation": 3, "automatic": 1}.items():
        (face,) = read_split(release, "plus", split)
        assert isinstance(face, Face)
        assert (face.key, face.image) == ("0", release / FOLDERS[split] / "images/0.jpg")
        assert (face.box, face.landmarks) == (None, None)
        assert (face.expression, face.valence_arousal) == (expression, (-0.5, 0.25))
        assert face.soft_label == tuple(SOFT_LABEL)
        assert count(release, "plus", split) == 1


@pytest.mark.parametrize("deeper", ["", "AffectNet+"])
def test_is_found_a_folder_higher_or_deeper(tmp_path: Path, deeper: str) -> None:
    for split in ("train", "validation"):
        write(tmp_path / deeper, split, "0", annotation())
    for root in (tmp_path, tmp_path / deeper / "human_annotated"):
        assert detect_release(root) == "plus"
        check_source(root, "plus", automatic=False)
        assert reasons(root) == {"face": 1}


def test_without_human_labels_the_largest_soft_label_counts_and_the_first_of_equal_ones(release: Path) -> None:
    write(release, "automatic", "1", annotation(soft_label=[0, 0, 0.4, 0.1, 0, 0.4, 0, 0.1]))
    write(release, "automatic", "2", annotation(soft_label=[0, 0, 0, 0, 0, 0, 0, 1]))
    assert [face.expression for face in read_split(release, "plus", "automatic")] == [1, 2, 7]


@pytest.mark.parametrize("unlabelled", [(), ("uncertain",), ("none", "uncertain", "non-face")])
def test_train_and_unlabelled_share_out_the_training_set(release: Path, unlabelled: tuple[str, ...]) -> None:
    for code in range(1, 11):
        affect = {} if code < 9 else {"valence": -2, "arousal": -2}
        write(release, "train", str(code), annotation(affect, human_label=code))
    write(release, "train", "11", b"{")
    train, kept = (list(read_split(release, "plus", split, unlabelled)) for split in ("train", "unlabelled"))
    assert Counter(item.key for item in train + kept) == Counter(map(str, range(12)))
    assert len(kept) == len(unlabelled)
    assert all(isinstance(item, Face) and item.expression is None for item in kept)
    assert {item.key: item.valence_arousal for item in kept} == {
        key: pair
        for name, key, pair in (("none", "8", (-0.5, 0.25)), ("uncertain", "9", None), ("non-face", "10", None))
        if name in unlabelled
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "annotation unreadable"),
        (b"no JSON", "annotation unreadable"),
        (json.dumps(annotation()).encode()[:-9], "annotation unreadable"),
        (b"\xff\xfe\xfa", "annotation unreadable"),
        (b"[1, 2]", "annotation unreadable"),
        (100_000 * b"[", "annotation unreadable"),
        (b'{"human-label": ' + 5000 * b"9" + b"}", "annotation unreadable"),
        (b'{"human-label": 1' + (1 << 20) * b" " + b"}", "annotation unreadable"),
        (b"{}", "annotation incomplete"),
        (annotation(human_label=ABSENT), "annotation incomplete"),
        (annotation(human_label="3"), "annotation incomplete"),
        (annotation(human_label=True), "annotation incomplete"),
        (annotation(soft_label=ABSENT), "annotation incomplete"),
        (annotation(soft_label=SOFT_LABEL[:7]), "annotation incomplete"),
        (annotation(soft_label=[*SOFT_LABEL[:7], "0"]), "annotation incomplete"),
        (annotation(soft_label=[*SOFT_LABEL[:7], float("nan")]), "annotation incomplete"),
        (annotation(soft_label=[60, *SOFT_LABEL[1:]]), "annotation incomplete"),
        (annotation(soft_label=8 * [0]), "annotation incomplete"),
        (annotation(soft_label={"neutral": 1.0}), "annotation incomplete"),
        (annotation(meta_data={"valence": ABSENT}), "annotation incomplete"),
        (annotation(meta_data={"arousal": "0.5"}), "annotation incomplete"),
        (annotation(meta_data=None, **{"meta-data": [1]}), "annotation incomplete"),
        (annotation(human_label=11), "expression code unknown"),
        (annotation(human_label=2.5), "expression code unknown"),
        (annotation(human_label=10**400), "expression code unknown"),
        (annotation(human_label=float("nan")), "expression code unknown"),
        (annotation(meta_data={"valence": 1.5}), "valence or arousal outside [-1, 1]"),
        (annotation(meta_data={"valence": float("inf")}), "valence or arousal outside [-1, 1]"),
        (annotation(meta_data={"valence": float("nan")}), "face"),
        (annotation(meta_data={"valence": None, "arousal": -2}), "face"),
    ],
)
def test_counts_every_fault(release: Path, content: dict | bytes, reason: str) -> None:
    write(release, "train", "1", content)
    assert reasons(release) == Counter(["face", reason])


def test_pictures_and_annotations_without_each_other_are_counted(release: Path) -> None:
    write(release, "train", "1", annotation())
    write(release, "train", "2", annotation())
    (release / FOLDERS["train"] / "images/1.jpg").unlink()
    (release / FOLDERS["train"] / "annotations/2.json").unlink()
    assert reasons(release) == {"face": 1, "listed but absent": 1, "annotation absent": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (annotation(human_label=ABSENT), "'human-label' should be a number, but is absent"),
        (annotation(human_label="3"), "'human-label' should be a number, but is a text"),
        (annotation(soft_label=[0.5, 0.5]), "'soft-label' should be 8 numbers from 0 to 1.* but is a list of 2"),
        (annotation(soft_label={"a": 1}), "'soft-label' should be .* but is an object with the keys 'a'"),
        (annotation(soft_label=None), "'soft-label' should be .* but is null"),
        (annotation(**{"meta-data": ABSENT}), "'meta-data' should be an object, but is absent"),
        (annotation(meta_data={"valence": ABSENT}), "'valence' should be a number or null, but is absent"),
    ],
)
def test_the_first_annotation_must_be_as_expected(release: Path, content: dict, said: str) -> None:
    write(release, "train", "0", content)
    write(release, "train", "1", annotation())
    for call in (
        lambda: check_source(release, "plus", automatic=False),
        lambda: list(read_split(release, "plus", "train")),
    ):
        with pytest.raises(DataError, match=rf"train_set/annotations/0\.json: {said}; .* keys .*: please report it"):
            call()


def test_an_unreadable_file_at_the_start_is_skipped_and_the_next_is_looked_at(release: Path) -> None:
    write(release, "train", "0", b"{")
    write(release, "train", "1", annotation())
    assert reasons(release) == {"annotation unreadable": 1, "face": 1}
    write(release, "train", "1", annotation(soft_label=ABSENT))
    with pytest.raises(DataError, match=r"1\.json: 'soft-label'"):
        list(read_split(release, "plus", "train"))


def test_age_gender_and_race_go_nowhere(release: Path) -> None:
    (face,) = read_split(release, "plus", "train")
    assert "secret" not in repr(vars(face))
    write(release, "train", "0", annotation(soft_label=ABSENT))
    with pytest.raises(DataError) as error:
        check_source(release, "plus", automatic=False)
    assert not any(word in str(error.value) for word in ("secret", "'age'", "'gender'", "0.9"))


def test_landmarks_come_if_asked_for(release: Path) -> None:
    pairs = np.arange(136).reshape(68, 2).tolist()
    later = {
        "1": pairs,
        "2": None,
        "3": ABSENT,
        "4": [1, 2],
        "5": {"x": 1},
        "6": [*range(135), "x"],
        "7": [10**400] * 136,
    }
    for key, value in later.items():
        write(release, "train", key, annotation(meta_data={"landmark-68": value}))
    faces = list(read_split(release, "plus", "train", landmarks=True))
    for face in faces[:2]:
        np.testing.assert_allclose(face.landmarks, FIVE_OF_RANGE)
    assert [face.landmarks for face in faces[2:]] == [None] * 6


@pytest.mark.parametrize("value", [ABSENT, [], {"x": [1]}, "1;2"])
def test_the_first_landmarks_must_be_as_expected_if_asked_for(release: Path, value: object) -> None:
    write(release, "train", "0", annotation(meta_data={"landmark-68": value}))
    assert reasons(release) == {"face": 1}
    with pytest.raises(DataError, match=r"0\.json: 'landmark-68' should be 136 numbers or null, but is"):
        list(read_split(release, "plus", "train", landmarks=True))


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train", "0", annotation())
    with pytest.raises(DataError, match=r"no validation_set/images with validation_set/annotations/\*\.json found"):
        check_source(tmp_path, "plus", automatic=False)
    write(tmp_path, "validation", "0", annotation())
    check_source(tmp_path, "plus", automatic=False)
    with pytest.raises(DataError, match="no no_human_annotated/images with"):
        check_source(tmp_path, "plus", automatic=True)
