"""AffectNet's two forms and their faults, on releases written by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.releases.affectnet import COLUMNS, Face, Skip, check_source, detect_release, read_split

LANDMARKS = ";".join(str(value) for value in range(136))


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


def reasons(root: Path, release: str, split: str = "train") -> Counter:
    return Counter(item.reason if isinstance(item, Skip) else "face" for item in read_split(root, release, split))


def test_reads_a_row_of_2017(tmp_path: Path) -> None:
    write_2017(tmp_path, [row()])
    (tmp_path / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")

    assert detect_release(tmp_path) == "2017"
    (face,) = read_split(tmp_path, "2017", "validation")

    assert isinstance(face, Face)
    assert (face.key, face.image) == ("1/a.jpg", tmp_path / "Manually_Annotated_Images/1/a.jpg")
    assert (face.box, face.expression, face.valence_arousal) == ((10, 20, 40, 60), 3, (-0.5, 0.25))


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
        (row(expression="8"), "expression none"),
        (row(expression="9", affect="-2,-2"), "expression uncertain"),
        (row(expression="10", affect="-2,-2"), "expression non-face"),
        (row(expression="11"), "expression code unknown"),
        (row(expression="x"), "expression code unknown"),
        (row(affect="1.5,0"), "valence or arousal outside [-1, 1]"),
        (row(affect="0,inf"), "valence or arousal outside [-1, 1]"),
        (row(path="1/" + 300 * "a" + ".jpg"), "listed but absent"),
        ("1/a.jpg,10,20", "expression code unknown"),
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
    path.write_text(",".join(COLUMNS) + "\n" + 200_000 * "a" + "\n")
    with pytest.raises(DataError, match=r"training\.csv: line 2 is no CSV"):
        list(read_split(tmp_path, "2017", "train"))


def test_both_splits_are_checked_at_once(tmp_path: Path) -> None:
    write_2017(tmp_path / "2017", [row()])
    write_2021(tmp_path / "2021", "1")
    for release in ("2017", "2021"):
        check_source(tmp_path / release, release)
    validation = tmp_path / "2017/Manually_Annotated_file_lists/validation.csv"
    validation.write_text("subDirectory_filePath\n")
    with pytest.raises(DataError, match=r"validation\.csv: column face_x"):
        check_source(tmp_path / "2017", "2017")
    validation.unlink()
    with pytest.raises(DataError, match=r"no validation\.csv"):
        check_source(tmp_path / "2017", "2017")
    (tmp_path / "2021/val_set/annotations/1_exp.npy").unlink()
    with pytest.raises(DataError, match=r"val_set/annotations: no annotations"):
        check_source(tmp_path / "2021", "2021")


def test_the_form_of_2025_is_refused(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / "human_annotated/train_set" / folder).mkdir(parents=True)
    (tmp_path / "human_annotated/train_set/annotations/1.json").write_text("{}")
    for call in (lambda: detect_release(tmp_path), lambda: check_source(tmp_path, "2021")):
        with pytest.raises(DataError, match=r"AffectNet\+, a form that isn't supported yet"):
            call()


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
    with pytest.raises(DataError, match=r"training\.csv.*train_set/images"):
        detect_release(tmp_path)
    write_2017(tmp_path, [])
    write_2021(tmp_path, "1")
    with pytest.raises(DataError, match="holds both"):
        detect_release(tmp_path)
