"""AffectNet's forms of 2017 and 2021 and their faults, on releases written by hand."""

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.faces import FACE_TEMPLATE
from data_pipelines.releases.affectnet import (
    COLUMNS,
    check_source,
    count,
    detect_release,
    read_split,
)
from data_pipelines.releases.affectnet_annotation import five_points
from data_pipelines.releases.items import Face, Skip

LANDMARKS = ";".join(str(value) for value in range(136))
FIVE_OF_RANGE = [[77, 78], [89, 90], [60, 61], [96, 97], [108, 109]]
"""Of those landmarks: the means of points 36 to 41 and 42 to 47, then points 30, 48 and 54; point n is (2n, 2n + 1)."""


def npy(header: str) -> bytes:
    """An array file with that header and nothing more."""
    return b"\x93NUMPY\x01\0" + (128).to_bytes(2, "little") + header.encode().ljust(127) + b"\n"


BROKEN_ARRAYS = {
    "90": b"",
    "91": npy("{'descr': ("),
    "92": npy("[]"),
    "93": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,)}"),
    "94": npy("{'descr': '<f8', 'fortran_order': False, 'shape': ()}"),
}


def write_2017(
    root: Path, rows: list[str], header: str = ",".join(COLUMNS), lists: str = "Manually_Annotated_file_lists"
) -> None:
    folder = root / lists
    folder.mkdir(parents=True)
    for name in ("training.csv", "validation.csv"):
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    (root / "Manually_Annotated_Images" / "1").mkdir(parents=True, exist_ok=True)


def row(path: str = "1/a.jpg", box: str = "10,20,30,40", expression: str = "3", affect: str = "-0.5,0.25") -> str:
    return f"{path},{box},{LANDMARKS},{expression},{affect}"


def write_2021(
    root: Path, key: str, expression: object = "3", valence: object = "-0.5", arousal: object = "0.25"
) -> None:
    for split in ("train_set", "val_set"):
        images, annotations = root / split / "images", root / split / "annotations"
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        (images / f"{key}.jpg").write_bytes(b"any")
        for name, value in (
            ("exp", expression),
            ("val", valence),
            ("aro", arousal),
            ("lnd", np.arange(136.0)),
        ):
            np.save(annotations / f"{key}_{name}.npy", np.array(value))


def write_automatic(
    root: Path,
    rows: list[str],
    lists: str = "Automatically_Annotated_file_lists",
    images: str = "Automatically_Annotated_Images",
) -> Path:
    """The automatic part of 2017; returns the folder of its pictures."""
    (root / lists).mkdir(parents=True)
    (root / lists / "automatically_annotated.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    (root / images / "1").mkdir(parents=True)
    return root / images / "1"


def reasons(root: Path, release: str, split: str = "train", unlabelled: tuple[str, ...] = ()) -> Counter:
    items = read_split(root, release, split, unlabelled)
    return Counter(item.reason if isinstance(item, Skip) else "face" for item in items)


def test_reads_a_row_of_2017(tmp_path: Path) -> None:
    write_2017(tmp_path, [row()])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")

    assert detect_release(tmp_path) == "2017"
    (face,) = read_split(tmp_path, "2017", "validation")

    assert isinstance(face, Face)
    assert (face.key, face.image) == ("1/a.jpg", tmp_path / "Manually_Annotated_Images/1/a.jpg")
    assert (face.box, face.expression, face.valence_arousal) == ((10, 20, 40, 60), 3, (-0.5, 0.25))
    assert face.landmarks is None
    assert face.soft_label is None


def test_reads_a_row_of_the_real_list(tmp_path: Path) -> None:
    """The cells of the one published row; its landmarks are made up, the contempt and the box are its own."""
    path = "459/81456263be24.jpg"
    write_2017(tmp_path, [f"{path},147,147,981,981,{LANDMARKS},7,-0.65331,0.65331"])
    (tmp_path / "Manually_Annotated_Images/459").mkdir()
    (tmp_path / "Manually_Annotated_Images" / path).write_bytes(b"any")
    (face,) = read_split(tmp_path, "2017", "train")
    assert (face.key, face.box, face.expression) == (path, (147, 147, 1128, 1128), 7)
    assert face.valence_arousal == (-0.65331, 0.65331)


@pytest.mark.parametrize("expression", ["3", b"3", 3, np.int64(3)])
def test_reads_an_image_of_2021(tmp_path: Path, expression: object) -> None:
    write_2021(tmp_path, "17", expression)

    assert detect_release(tmp_path) == "2021"
    (face,) = read_split(tmp_path, "2021", "train")

    assert isinstance(face, Face)
    assert (face.key, face.box, face.expression, face.valence_arousal) == ("17", None, 3, (-0.5, 0.25))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(box="NULL,NULL,30,40"), "box is not four numbers"),
        (row(box="10,20,-30,40"), "box has no area"),
        (row(box="10,20,30,0"), "box has no area"),
        (row(box="nan,20,30,40"), "box is not four numbers"),
        (row(path="1/absent.jpg"), "listed but absent"),
        (row(path="../../secret.jpg"), "path leaves the source folder"),
        (row(path="1/../../../secret.jpg"), "path leaves the source folder"),
        (row(path="/etc/hostname"), "path leaves the source folder"),
        (row(path=""), "path leaves the source folder"),
        (row(path="..\\secret.jpg"), "path leaves the source folder"),
        (row(path="C:\\secret.jpg"), "path leaves the source folder"),
        (row(path="\\\\server\\share\\secret.jpg"), "path leaves the source folder"),
        (row(path="1/../1/a.jpg"), "path leaves the source folder"),
        (row(path="1/a\0.jpg"), "path leaves the source folder"),
        (row(path="1/a.JPG"), "listed but absent"),
        (row(path="1/a.jpeg"), "listed but absent"),
        (row(path="1"), "listed but absent"),
        (row(box="1e308,20,1e308,40"), "box is not four numbers"),
        (row(expression="8"), "expression none"),
        (row(expression="9", affect="-2,-2"), "expression uncertain"),
        (row(expression="10", affect="-2,-2"), "expression non-face"),
        (row(expression="11"), "expression code unknown"),
        (row(expression="x"), "expression code unknown"),
        (row(affect="1.5,0"), "valence or arousal outside [-1, 1]"),
        (row(affect="0,inf"), "valence or arousal outside [-1, 1]"),
        (row(path="1/" + 300 * "a" + ".jpg"), "listed but absent"),
        ("1/a.jpg,10,20", "row has not as many cells as the header"),
        (row(path="1/a,b.jpg"), "row has not as many cells as the header"),
        (row(expression="3.5"), "expression code unknown"),
        (row(expression="-1"), "expression code unknown"),
        (row(expression="NULL"), "expression code unknown"),
    ],
)
def test_counts_every_fault_of_2017(tmp_path: Path, line: str, reason: str) -> None:
    write_2017(tmp_path, [line])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    (tmp_path / "secret.jpg").write_bytes(b"any")
    assert reasons(tmp_path, "2017") == {reason: 1}


@pytest.mark.parametrize("affect", ["-2,-2", "0.5,-2", ",", "nan,0.5", "0.5,NULL"])
def test_missing_valence_or_arousal_leaves_the_face(tmp_path: Path, affect: str) -> None:
    write_2017(tmp_path, [row(affect=affect)])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    (face,) = read_split(tmp_path, "2017", "train")
    assert isinstance(face, Face)
    assert face.valence_arousal is None


def test_a_path_listed_twice_is_used_once(tmp_path: Path) -> None:
    write_2017(tmp_path, [row(), row()])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    assert reasons(tmp_path, "2017") == {"face": 1, "listed twice": 1}


@pytest.mark.parametrize(
    ("lists", "header"),
    [
        ("Manually_Annotated_file_lists", "#" + ",".join(COLUMNS)),
        ("Manually_Annotated_file_lists", "\ufeff# " + ", ".join(COLUMNS)),
        ("manually_annotated_file_list", ",".join(COLUMNS)),
        ("Manually_Annotated/Manually_Annotated_file_lists", ",".join(COLUMNS)),
    ],
)
def test_copies_differ_in_names_and_headers(tmp_path: Path, lists: str, header: str) -> None:
    write_2017(tmp_path, [row()], header, lists)
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    assert detect_release(tmp_path) == "2017"
    assert reasons(tmp_path, "2017") == {"face": 1}


def test_images_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    write_2017(tmp_path, [row()])
    (tmp_path / "Manually_Annotated_Images/1").rmdir()
    (tmp_path / "Manually_Annotated_Images").rmdir()
    (tmp_path / "Manually_Annotated/Manually_Annotated_Images/1").mkdir(parents=True)
    (tmp_path / "Manually_Annotated/Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    assert reasons(tmp_path, "2017") == {"face": 1}


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_2017(tmp_path, [], "subDirectory_filePath,expression")
    with pytest.raises(DataError, match=r"training\.csv: column face_x.* is missing; the file has subDirectory"):
        list(read_split(tmp_path, "2017", "train"))


def test_a_list_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    write_2017(tmp_path, [row()])
    path = tmp_path / "Manually_Annotated_file_lists/training.csv"
    path.write_bytes(path.read_bytes() + b"\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"training\.csv: line 3 is not UTF-8"):
        list(read_split(tmp_path, "2017", "train"))
    for line in (200_000 * "a", row(path='"1/a.jpg')):
        path.write_text(",".join(COLUMNS) + "\n" + line + "\n")
        with pytest.raises(DataError, match=r"training\.csv: line 2 is no CSV"):
            list(read_split(tmp_path, "2017", "train"))
    path.write_text(",".join(COLUMNS) + "\n" + row(), encoding="utf-16")
    with pytest.raises(DataError, match=r"training\.csv: line 1 is not UTF-8"):
        list(read_split(tmp_path, "2017", "train"))


def test_both_splits_are_checked_at_once(tmp_path: Path) -> None:
    write_2017(tmp_path / "2017", [row()])
    write_2021(tmp_path / "2021", "1")
    for release in ("2017", "2021"):
        check_source(tmp_path / release, release, automatic=False)
    validation = tmp_path / "2017/Manually_Annotated_file_lists/validation.csv"
    validation.write_text("subDirectory_filePath\n")
    with pytest.raises(DataError, match=r"validation\.csv: column face_x"):
        check_source(tmp_path / "2017", "2017", automatic=False)
    validation.unlink()
    with pytest.raises(DataError, match=r"no validation\.csv"):
        check_source(tmp_path / "2017", "2017", automatic=False)
    (tmp_path / "2021/val_set/annotations/1_exp.npy").unlink()
    with pytest.raises(DataError, match=r"2021: no val_set/images with val_set/annotations/\*_exp.npy"):
        check_source(tmp_path / "2021", "2021", automatic=False)


def test_faults_of_2021(tmp_path: Path) -> None:
    write_2021(tmp_path, "1")
    write_2021(tmp_path, "2", expression="9")
    write_2021(tmp_path, "3")
    (tmp_path / "train_set/annotations/3_exp.npy").unlink()
    write_2021(tmp_path, "4")
    (tmp_path / "train_set/images/4.jpg").unlink()
    write_2021(tmp_path, "5")
    (tmp_path / "train_set/annotations/5_val.npy").write_bytes(b"no array")
    write_2021(tmp_path, "6", expression=np.array([1, 2]))
    write_2021(tmp_path, "7")
    (tmp_path / "train_set/annotations/7_lnd.npy").unlink()
    write_2021(tmp_path, "8", valence="", arousal=np.nan)
    for key, content in BROKEN_ARRAYS.items():
        write_2021(tmp_path, key)
        (tmp_path / f"train_set/annotations/{key}_exp.npy").write_bytes(content)
    assert reasons(tmp_path, "2021") == {
        "face": 3,
        "expression uncertain": 1,
        "annotation absent": 1,
        "listed but absent": 1,
        "annotation unreadable": 7,
    }


def test_pickles_are_refused(tmp_path: Path) -> None:
    write_2021(tmp_path, "1")
    np.save(tmp_path / "train_set/annotations/1_exp.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    assert reasons(tmp_path, "2021") == {"annotation unreadable": 1}


def test_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        detect_release(tmp_path / "absent")
    with pytest.raises(DataError, match=r"training\.csv.*_exp\.npy \(2021\).*\.json \(plus\)"):
        detect_release(tmp_path)
    write_2017(tmp_path, [])
    write_2021(tmp_path, "1")
    with pytest.raises(DataError, match="holds the releases 2017 and 2021"):
        detect_release(tmp_path)


def test_a_box_that_leaves_the_picture_is_kept_for_clipping(tmp_path: Path) -> None:
    write_2017(tmp_path, [row(box="-90,20,300,400")])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    (face,) = read_split(tmp_path, "2017", "train")
    assert face.box == (-90, 20, 210, 420)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", ".jpg"), ("a.jpg", ".png"), ("a.JPG", ".jpg"), ("a.TIF", ".tif"), ("a.tif", ".bmp"), ("a.jpg", None)],
)
def test_files_are_taken_whatever_their_extension_says(tmp_path: Path, name: str, content: str | None) -> None:
    """Content is looked at by whoever decodes; the last is no picture at all."""
    write_2017(tmp_path, [row(path=f"1/{name}")])
    picture = np.full((8, 8, 3), 120, np.uint8)
    data = b"\xff\xd8\xff no picture" if content is None else cv2.imencode(content, picture)[1].tobytes()
    (tmp_path / "Manually_Annotated_Images/1" / name).write_bytes(data)
    (face,) = read_split(tmp_path, "2017", "train")
    assert isinstance(face, Face)
    assert face.image.read_bytes() == data


def test_a_backslash_separates_folders(tmp_path: Path) -> None:
    write_2017(tmp_path, [row(path="1\\a.jpg")])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    (face,) = read_split(tmp_path, "2017", "train")
    assert (face.key, face.image) == ("1\\a.jpg", tmp_path / "Manually_Annotated_Images/1/a.jpg")


CODES = [
    row(path=f"1/{code}.jpg", expression=str(code), affect="0.1,0.2" if code < 9 else "-2,-2") for code in range(11)
]


@pytest.mark.parametrize("unlabelled", [(), ("none",), ("none", "uncertain", "non-face")])
def test_train_and_unlabelled_share_out_the_training_list(tmp_path: Path, unlabelled: tuple[str, ...]) -> None:
    rows = [*CODES, row(path="1/absent.jpg", expression="8"), CODES[8], "cut", row(path="1/3.jpg", expression="8")]
    write_2017(tmp_path, rows)
    for code in range(11):
        (tmp_path / f"Manually_Annotated_Images/1/{code}.jpg").write_bytes(b"any")
    train = list(read_split(tmp_path, "2017", "train", unlabelled))
    kept = list(read_split(tmp_path, "2017", "unlabelled", unlabelled))

    assert Counter(item.key for item in train + kept) == Counter(line.split(",")[0] for line in rows)
    assert [item.expression for item in train if isinstance(item, Face)] == list(range(8))
    faces = [item for item in kept if isinstance(item, Face)]
    assert [face.key for face in faces] == [f"1/{8 + number}.jpg" for number in range(len(unlabelled))]
    assert all(face.expression is None for face in faces)
    assert [face.valence_arousal for face in faces] == [(0.1, 0.2), None, None][: len(unlabelled)]
    if unlabelled:
        skipped = {item.reason: item.key for item in kept if isinstance(item, Skip)}
        assert skipped == {"listed but absent": "1/absent.jpg", "listed twice": "1/3.jpg"}
    assert count(tmp_path, "2017", "train") == len(rows)


def test_validation_pictures_never_come_without_an_expression(tmp_path: Path) -> None:
    write_2017(tmp_path, CODES)
    for code in range(11):
        (tmp_path / f"Manually_Annotated_Images/1/{code}.jpg").write_bytes(b"any")
    found = reasons(tmp_path, "2017", "validation", ("none", "uncertain", "non-face"))
    assert found == {"face": 8, "expression none": 1, "expression uncertain": 1, "expression non-face": 1}


@pytest.mark.parametrize(
    ("lists", "images"),
    [
        ("Automatically_Annotated_file_lists", "Automatically_Annotated_Images"),
        ("Automatically_annotated_file_list", "Automatically_Annotated_Images"),
        (
            "Automatically_Annotated/Automatically_annotated_file_list",
            "Automatically_Annotated/automatically_annotated_image",
        ),
    ],
)
def test_reads_the_automatic_part_of_2017(tmp_path: Path, lists: str, images: str) -> None:
    write_2017(tmp_path, [row()])
    folder = write_automatic(tmp_path, [row(path="1/b.jpg"), *CODES[8:]], lists, images)
    for name in ("b", "8", "9", "10"):
        (folder / f"{name}.jpg").write_bytes(b"any")
    assert detect_release(tmp_path) == "2017"
    check_source(tmp_path, "2017", automatic=True)
    assert reasons(tmp_path, "2017", "automatic") == {
        "face": 1, "expression none": 1, "expression uncertain": 1, "expression non-face": 1
    }  # fmt: skip
    first, *others = read_split(tmp_path, "2017", "automatic", ("none", "uncertain"))
    assert (first.expression, first.image) == (3, folder / "b.jpg")
    assert [getattr(item, "expression", "skip") for item in others] == [None, None, "skip"]
    assert count(tmp_path, "2017", "automatic") == 4
    assert reasons(tmp_path, "2017") == {"listed but absent": 1}  # looked for among the manually annotated ones


def test_the_automatic_part_must_be_there_if_asked_for(tmp_path: Path) -> None:
    write_2017(tmp_path / "2017", [row()])
    with pytest.raises(DataError, match=r"no automatically_annotated\.csv found in Automatically_Annotated_file_lists"):
        check_source(tmp_path / "2017", "2017", automatic=True)
    (write_automatic(tmp_path / "2017", [])).rmdir()
    (tmp_path / "2017/Automatically_Annotated_Images").rmdir()
    with pytest.raises(DataError, match="no folder Automatically_Annotated_Images found"):
        check_source(tmp_path / "2017", "2017", automatic=True)
    write_2021(tmp_path / "2021", "1")
    for call in (
        lambda: check_source(tmp_path / "2021", "2021", automatic=True),
        lambda: list(read_split(tmp_path / "2021", "2021", "automatic")),
    ):
        with pytest.raises(DataError, match="2021 release has no automatically annotated part"):
            call()


def test_landmarks_come_if_asked_for(tmp_path: Path) -> None:
    rows = [row(), row(path="1/b.jpg").replace(";135", ""), row(path="1/c.jpg").replace(";77;", ";NULL;")]
    write_2017(tmp_path / "2017", rows)
    write_2021(tmp_path / "2021", "a")
    for key, content in {"b": np.zeros(5), "c": np.full(136, np.nan), "d": np.zeros(136)}.items():
        write_2021(tmp_path / "2021", key)
        np.save(tmp_path / f"2021/train_set/annotations/{key}_lnd.npy", content)
    write_2021(tmp_path / "2021", "e")
    (tmp_path / "2021/train_set/annotations/e_lnd.npy").unlink()
    for name in "abc":
        (tmp_path / f"2017/Manually_Annotated_Images/1/{name}.jpg").write_bytes(b"any")
    for release in ("2017", "2021"):
        first, *others = read_split(tmp_path / release, release, "train", landmarks=True)
        assert first.landmarks.dtype == np.float64
        np.testing.assert_allclose(first.landmarks, FIVE_OF_RANGE)
        assert [other.landmarks for other in others] == [None] * len(others)


def test_the_five_landmarks_are_in_the_order_of_the_template() -> None:
    """Points drawn as in iBUG's figure: the subject's right eye, on the viewer's left, comes first."""
    points = np.zeros((68, 2))
    points[36:42] = [[30, 40], [34, 37], [38, 37], [42, 40], [38, 43], [34, 43]]
    points[42:48] = [[58, 40], [62, 37], [66, 37], [70, 40], [66, 43], [62, 43]]
    points[30], points[48], points[54] = (50, 60), (35, 78), (65, 78)
    five = five_points(points.ravel())
    np.testing.assert_allclose(five, [[36, 40], [64, 40], [50, 60], [35, 78], [65, 78]])
    assert np.abs(five / 100 - FACE_TEMPLATE).max() < 0.06


def test_unused_codes_of_2021_may_be_kept(tmp_path: Path) -> None:
    for key, code in {"1": "3", "2": "8", "3": "9"}.items():
        write_2021(tmp_path, key, expression=code)
    assert reasons(tmp_path, "2021", "train", ("none",)) == {"face": 1, "expression uncertain": 1}
    (face,) = read_split(tmp_path, "2021", "unlabelled", ("none",))
    assert (face.key, face.expression, face.valence_arousal) == ("2", None, (-0.5, 0.25))


def test_ids_are_counted_and_come_in_their_order(tmp_path: Path) -> None:
    for key in ("10", "9", "100000"):
        write_2021(tmp_path, key)
    assert [item.key for item in read_split(tmp_path, "2021", "train")] == ["9", "10", "100000"]
    assert count(tmp_path, "2021", "train") == 3
    assert count(tmp_path, "2021", "unlabelled") is None


def test_nothing_in_the_folder_of_crops_is_lost(tmp_path: Path) -> None:
    write_2021(tmp_path, "1")
    for name in ("1.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train_set/images" / name).write_bytes(b"any")
    (tmp_path / "train_set/images" / os.fsdecode(b"\xff.jpg")).write_bytes(b"any")
    items = {item.key: getattr(item, "reason", None) for item in read_split(tmp_path, "2021", "train")}
    assert items == {
        "1": None,
        "1.png": "annotation absent",
        ".DS_Store": "annotation absent",
        "Thumbs": "annotation absent",
        "\\udcff": "annotation absent",
    }


def test_a_number_file_that_is_large_is_not_read(tmp_path: Path) -> None:
    write_2021(tmp_path, "1")
    np.save(tmp_path / "train_set/annotations/1_exp.npy", np.zeros(100_000))
    assert reasons(tmp_path, "2021") == {"annotation unreadable": 1}
