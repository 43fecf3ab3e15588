import csv
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from avemo.labels import TRIPLET_KINDS
from data_pipelines.synthetic.fec import PRESETS, synthesize

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fec")
    synthesize(root, TINY, 5)
    return root


def truth(root: Path) -> dict:
    return json.loads((root / "truth.json").read_text())


def rows(root: Path, partition: str) -> list[list[str]]:
    with (root / f"faceexp-comparison-data-{partition}-public.csv").open(newline="") as stream:
        return list(csv.reader(stream))


def picture(root: Path, url: str) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return root / "images" / digest[:2] / f"{digest}.jpg"


@pytest.mark.parametrize("partition", ["train", "test"])
def test_rows_have_the_releases_form(corpus: Path, partition: str) -> None:
    found = rows(corpus, partition)
    assert len(found) == getattr(TINY, f"{partition}_triplets")
    for row in found:
        assert len({row[0], row[5], row[10]}) == 3
        for start in (0, 5, 10):
            assert row[start].startswith("https://")
            left, right, top, bottom = (float(cell) for cell in row[start + 1 : start + 5])
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        assert row[15] in TRIPLET_KINDS
        assert len(row[16:]) % 2 == 0
        assert all(answer in ("1", "2", "3") for answer in row[17::2])
        assert len(set(row[16::2])) == len(row[16::2])


def test_list_is_ragged_and_partly_quoted(corpus: Path) -> None:
    lines = (corpus / "faceexp-comparison-data-train-public.csv").read_text().splitlines()
    assert 0 < sum(line.startswith('"https://') for line in lines) < len(lines)
    assert len({line.count(",") for line in lines}) > 1


def test_photographs_are_where_their_urls_say_except_the_absent(corpus: Path) -> None:
    known = truth(corpus)
    absent = set(known["absent_urls"])
    assert len(absent) == 2 * TINY.absent_photographs
    for partition in known["partitions"].values():
        for url in set(partition["faces"]["url"]):
            assert picture(corpus, url).exists() == (url not in absent)


def test_boxes_hold_faces_as_wide_as_high(corpus: Path) -> None:
    faces = truth(corpus)["partitions"]["train"]["faces"]
    for url, (left, right, top, bottom) in zip(faces["url"], faces["box"], strict=True):
        if picture(corpus, url).exists():
            height, width = cv2.imread(str(picture(corpus, url))).shape[:2]
            assert (right - left) * width == pytest.approx((bottom - top) * height, rel=0.02)


def test_kinds_mean_what_they_say(corpus: Path) -> None:
    for partition, known in truth(corpus)["partitions"].items():
        faces = known["faces"]
        class_of = {
            (url, *(f"{value:.6f}" for value in box)): code
            for url, box, code in zip(faces["url"], faces["box"], faces["true_class"], strict=True)
        }
        for row in rows(corpus, partition):
            classes = {class_of[tuple(row[start : start + 5])] for start in (0, 5, 10)}
            assert len(classes) == 1 + TRIPLET_KINDS.index(row[15])


def test_people_and_photographs_are_disjoint_between_partitions(corpus: Path) -> None:
    train, test = (truth(corpus)["partitions"][name]["faces"] for name in ("train", "test"))
    assert set(train["identity"]).isdisjoint(test["identity"])
    assert set(train["url"]).isdisjoint(test["url"])


def test_ceiling_is_the_score_of_the_truth_on_the_files(corpus: Path) -> None:
    known = truth(corpus)
    right = []
    for row, odd in zip(rows(corpus, "test"), known["partitions"]["test"]["odd_one"], strict=True):
        answers = row[17::2]
        answer, votes = Counter(answers).most_common(1)[0]
        present = all(picture(corpus, row[start]).exists() for start in (0, 5, 10))
        if present and votes / len(answers) >= 2 / 3 - 1e-9:
            right.append(int(answer) == odd)
    assert known["ceiling"]["triplets"] == len(right)
    assert known["ceiling"]["triplet_accuracy"] == pytest.approx(np.mean(right))


def test_annotators_err_but_mostly_agree_with_the_truth(corpus: Path) -> None:
    known = truth(corpus)["partitions"]["train"]
    agree = [
        int(answer) == odd
        for row, odd in zip(rows(corpus, "train"), known["odd_one"], strict=True)
        for answer in row[17::2]
    ]
    assert 0.75 < np.mean(agree) < 0.98


def test_the_least_that_is_accepted_can_be_written(tmp_path: Path) -> None:
    least = replace(
        TINY,
        train_photographs=16,
        train_triplets=3,
        test_triplets=3,
        train_identities=4,
        test_identities=4,
        absent_photographs=8,
        face_size=(12.0, 12.0),
        answer_noise=10.0,
    )
    synthesize(tmp_path / "least", least, 0)
    synthesize(tmp_path / "large", replace(least, face_size=(75.0, 75.0)), 0)


def test_a_seed_gives_the_same_files(corpus: Path, tmp_path: Path) -> None:
    synthesize(tmp_path, TINY, 5)
    names = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((corpus / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clarity": 0.5},
        {"clarity": float("nan")},
        {"test_photographs": 2},
        {"face_size": (50.0, 20.0)},
        {"face_size": (50.0, 90.0)},
        {"train_identities": 3},
        {"absent_photographs": 17},
        {"absent_photographs": -1},
        {"answer_noise": -0.1},
        {"processes": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        replace(TINY, **wrong)
