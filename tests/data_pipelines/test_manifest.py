"""People's own lists: every row comes out once, a wrong cell is a reason, a wrong file is named, and no other error."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avemo.labels import EXPRESSIONS
from data_pipelines.errors import DataError
from data_pipelines.releases.items import Face, Recording, Skip
from data_pipelines.releases.manifest import (
    CLIP_COLUMNS,
    FACE_COLUMNS,
    face_splits,
    has_votes,
    read_clips,
    read_faces,
)

ANYTHING = settings(derandomize=True, max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a video, a sound and an annotation; nothing looks into the first three."""
    root = tmp_path_factory.mktemp("own")
    (root / "in").mkdir()
    for name in ("a.jpg", "b.jpg", "in/c d.png", "v.mp4", "w.mp4", "s.wav"):
        (root / name).write_bytes(b"any")
    (root / "l.csv").write_text("time,valence,arousal\n0,0,0\n1,1,-1\n")
    return root


def write(folder: Path, *rows: str) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def faces(folder: Path, *rows: str, split: str = "train") -> list[Face | Skip]:
    return list(read_faces(write(folder, *rows), folder, split))


def reasons(items: list[Face | Skip]) -> list[str | None]:
    return [item.reason if isinstance(item, Skip) else None for item in items]


# --- faces ---------------------------------------------------------------------------------------


def test_the_picture_alone_is_enough(folder: Path) -> None:
    (face,) = faces(folder, "image", "in/c d.png")
    assert isinstance(face, Face)
    assert (face.key, face.image) == ("in/c d.png", folder / "in/c d.png")
    assert (face.box, face.expression, face.valence_arousal, face.landmarks, face.soft_label) == (None,) * 5


def test_votes_of_raters_become_shares(folder: Path) -> None:
    header = ",".join(["image", *(f"votes:{expression}" for expression in EXPRESSIONS)])
    path = write(folder, header, "a.jpg,3,0,0,,1,0,0,0", "b.jpg", "in/c d.png,0.25,0.75")
    first, without, last = read_faces(path, folder, "train")
    assert isinstance(first, Face)
    assert isinstance(without, Face)
    assert isinstance(last, Face)
    assert first.soft_label == (0.75, 0, 0, 0, 0.25, 0, 0, 0)
    assert without.soft_label is None
    assert last.soft_label == (0.25, 0.75, 0, 0, 0, 0, 0, 0)
    assert has_votes(path)
    assert not has_votes(write(folder, header, "a.jpg"))
    assert reasons(faces(folder, header, "a.jpg,-1", "b.jpg,many")) == ["votes are not numbers from 0 on"] * 2


def test_every_column_in_any_order(folder: Path) -> None:
    header = "arousal,valence,bottom,right,top,left,expression,split,image"
    (face,) = faces(folder, header, "-0.25,1,40,30.5,-2,1,Surprise,validation,a.jpg", split="validation")
    assert isinstance(face, Face)
    assert face.box == (1, -2, 30.5, 40)
    assert face.expression == EXPRESSIONS.index("surprise")
    assert face.valence_arousal == (1, -0.25)


def test_expressions_by_name_or_code(folder: Path) -> None:
    for code, name in enumerate(EXPRESSIONS):
        for cell in (name, str(code), f"{code}.0"):  # tables with blanks are often saved with 3.0 for 3
            (face,) = faces(folder, "image,expression", f"a.jpg,{cell}")
            assert isinstance(face, Face)
            assert face.expression == code


def test_splits_are_told_apart_and_blank_is_train(folder: Path) -> None:
    path = write(folder, "image,split", "a.jpg,validation", "b.jpg,", "in/c d.png,train")
    assert face_splits(path) == ("train", "validation")
    assert [[item.key for item in read_faces(path, folder, split)] for split in face_splits(path)] == [
        ["b.jpg", "in/c d.png"],
        ["a.jpg"],
    ]
    assert face_splits(write(folder, "image,split", "a.jpg,Validation")) == ("validation",)


def test_valence_or_arousal_alone_is_no_pair(folder: Path) -> None:
    items = faces(folder, "image,valence,arousal", "a.jpg,0.5,", "b.jpg,,0.5", "in/c d.png")
    assert [item.valence_arousal for item in items if isinstance(item, Face)] == [None] * 3


def test_several_faces_of_a_picture_are_told_apart_by_their_row(folder: Path) -> None:
    box = "image,left,top,right,bottom"
    items = faces(folder, box, "a.jpg,0,0,9,9", "", "a.jpg,9,0,18,9", "a.jpg,0.0,0,9,9", "./a.jpg,9,0,18,9", "a.jpg")
    assert [item.key for item in items] == ["a.jpg", "a.jpg#4", "a.jpg#5", "./a.jpg", "a.jpg#7"]
    assert reasons(items) == [None, None, "listed twice", "listed twice", None]


def test_the_same_face_is_never_in_both_splits(folder: Path) -> None:
    rows = ("image,split", "a.jpg,train", "b.jpg,validation", "a.jpg,validation", "b.jpg,train")
    assert reasons(faces(folder, *rows, split="train")) == [None, "listed twice"]
    assert reasons(faces(folder, *rows, split="validation")) == [None, "listed twice"]


def test_a_face_that_was_skipped_may_stand_again(folder: Path) -> None:
    assert reasons(faces(folder, "image,expression", "a.jpg,joy", "a.jpg,happiness")) == ["expression unknown", None]


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("image,expression", "a.jpg,8", "expression unknown"),
        ("image,expression", "a.jpg,-1", "expression unknown"),
        ("image,expression", "a.jpg,1.5", "expression unknown"),
        ("image,expression", "a.jpg,nan", "expression unknown"),
        ("image,valence,arousal", "a.jpg,-2,-2", "valence or arousal is no number in [-1, 1]"),
        ("image,valence,arousal", "a.jpg,0,nan", "valence or arousal is no number in [-1, 1]"),
        ("image,valence,arousal", "a.jpg,,high", "valence or arousal is no number in [-1, 1]"),
        ("image,left,top,right,bottom", "a.jpg,1,2,3,", "box is not four numbers"),
        ("image,left,top,right,bottom", "a.jpg,1,2,inf,4", "box is not four numbers"),
        ("image,left,top,right,bottom", "a.jpg,3,2,3,4", "box has no area"),
        ("image,split", "../a.jpg,train", "path leaves the source folder"),
        ("image,split", "/etc/passwd,train", "path leaves the source folder"),
        ("image,split", "in/../../a.jpg,", "path leaves the source folder"),
        ("image,split", "nowhere.jpg", "image listed but absent"),
        ("image,split", "in", "image listed but absent"),
        ("image,split", ",train", "no image named"),
        ("image,split", f"{'x' * 5000}.jpg", "image listed but absent"),
    ],
)
def test_a_wrong_cell_is_a_reason(folder: Path, header: str, row: str, reason: str) -> None:
    assert reasons(faces(folder, header, row, "b.jpg")) == [reason, None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([""], "no column image; the columns are image, split, expression"),
        (["picture"], "unknown column 'picture'; the columns are image, split, expression"),
        (["image;split"], "unknown column 'image;split'"),
        (["image,,split"], "unknown column ''"),
        (["expression", "fear"], "no column image"),
        (["image,split,image"], "stands twice"),
        (["image,valence"], "valence, arousal go together"),
        (["image,left,top,right"], "left, top, right, bottom go together"),
        (["image", "a.jpg,0.5"], "row 2 is longer than the header"),
        (["image,split", "", "a.jpg,test"], "row 3 names split 'test'; a face is in train or validation"),
        (["image"], "lists no faces"),
        (["image", '"' + 200_000 * "a" + '"'], "line 2 is no CSV"),
    ],
)
def test_a_wrong_list_of_faces_is_named(folder: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=f"list.csv: .*{message}"):
        face_splits(write(folder, *rows))


def test_an_absent_list_is_named(tmp_path: Path) -> None:
    for call in (face_splits, lambda path: list(read_clips(path, tmp_path))):
        with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
            call(tmp_path / "nowhere.csv")


def test_a_byte_order_mark_and_blank_columns_do_no_harm(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,split,,\r\na.jpg,train,,\r\n,,,\r\n")
    assert [item.key for item in read_faces(path, folder, "train")] == ["a.jpg"]


# --- clips ---------------------------------------------------------------------------------------


def clips(folder: Path, *rows: str) -> list[tuple[str | None, Recording | Skip]]:
    return list(read_clips(write(folder, *rows), folder))


def annotated(folder: Path, *rows: str) -> Recording | Skip:
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    ((_, item),) = clips(folder, "split,video,annotation", "train,v.mp4,labels.csv")
    return item


def test_a_clip_by_hand(folder: Path) -> None:
    rows = ("name,split,audio,video,annotation", "Ann,dev,s.wav,v.mp4,l.csv", ",test,,w.mp4,l.csv", ",Dev,s.wav,,l.csv")
    path = write(folder, *rows)
    items = [item for _, item in read_clips(path, folder) if isinstance(item, Recording)]
    assert [(item.name, item.split, item.video, item.audio) for item in items] == [
        ("Ann", "dev", folder / "v.mp4", folder / "s.wav"),
        ("w", "test", folder / "w.mp4", None),
        ("s", "dev", None, folder / "s.wav"),
    ]
    assert all(item.raters == ("label",) and item.gold_standard is None for item in items)
    ratings = items[0].ratings
    assert (ratings.shape, ratings.dtype) == ((26, 1, 2), np.float32)
    np.testing.assert_allclose(ratings[:, 0], np.linspace([0, 0], [1, -1], 26), atol=1e-7)


def test_several_raters_in_any_order(folder: Path) -> None:
    clip = annotated(folder, "time,arousal:B,valence:B,valence:A a,arousal:A a", "0,0.1,0.2,0.3,0.4", "0.04,0,0,0,0")
    assert isinstance(clip, Recording)
    assert clip.raters == ("B", "A a")
    np.testing.assert_allclose(clip.ratings[0], [[0.2, 0.1], [0.3, 0.4]], atol=1e-7)


@pytest.mark.parametrize(
    ("times", "frames"),
    [((0, 0.04, 0.08), 3), ((0, 0.05), 2), ((0, 0.061), 3), ((0, 300), 7501), ((0.1, 1.0), 26), ((1, 1.01), 26)],
)
def test_the_last_frame_is_the_nearest_to_the_last_label(folder: Path, times: tuple[float, ...], frames: int) -> None:
    clip = annotated(folder, "time,valence,arousal", *(f"{time},0,0" for time in times))
    assert isinstance(clip, Recording)
    assert len(clip.ratings) == frames


def test_nothing_is_extrapolated_but_the_end_labels(folder: Path) -> None:
    clip = annotated(folder, "time,valence,arousal", "0.08,0.5,0", "0.16,1,0", "0.17,-1,0")
    assert isinstance(clip, Recording)
    np.testing.assert_allclose(clip.ratings[:, 0, 0], [0.5, 0.5, 0.5, 0.75, 1], atol=1e-6)


NOT_NUMBERS = "annotation has rows that are not a number for each column"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["time;valence;arousal", "0;0;0", "1;0;0"], "annotation header"),
        (["valence,arousal,time", "0,0,0", "0,0,1"], "annotation header"),
        (["time,valence", "0,0", "1,0"], "annotation header"),
        (["time,valence:A,arousal:B", "0,0,0", "1,0,0"], "annotation header"),
        (["time,valence:,arousal:", "0,0,0", "1,0,0"], "annotation header"),
        (["time,valence:A,arousal:A,valence:A,arousal:A", "0,0,0,0,0", "1,0,0,0,0"], "annotation header"),
        (["time,valence,arousal,valence:A,arousal:A", "0,0,0,0,0", "1,0,0,0,0"], "annotation header"),
        ([""], "annotation header"),
        (["time,valence,arousal"], "annotation has fewer than two labels"),
        (["time,valence,arousal", "0,0,0"], "annotation has fewer than two labels"),
        (["time,valence,arousal", "0,0,0", "1,0"], NOT_NUMBERS),
        (["time,valence,arousal", "0,0", "1,0"], NOT_NUMBERS),
        (["time,valence,arousal", "0,0,0", "1,,0"], NOT_NUMBERS),
        (["time,valence,arousal", "0,0,0", "1,nan,0"], NOT_NUMBERS),
        (["time,valence,arousal", "0,0,0", "inf,0,0", "inf,0,0"], NOT_NUMBERS),
        (["time,valence,arousal", "0,0,0", "1,1.01,0"], "annotation has ratings outside [-1, 1]"),
        (["time,valence,arousal", "0,0,0", "0,0,0"], "annotation times don't increase from 0 s on"),
        (["time,valence,arousal", "-1,0,0", "1,0,0"], "annotation times don't increase from 0 s on"),
        (["time,valence,arousal", "1.01,0,0", "2,0,0"], "annotation begins later than 1 s"),
        (["time,valence,arousal", "0,0,0", "300000,0,0"], "annotation ends after 24 h; its times must be seconds"),
        (["time,valence,arousal", '0,0,"' + 200_000 * "0" + '"'], "annotation is no CSV in UTF-8"),
    ],
)
def test_a_wrong_annotation_is_a_reason(folder: Path, rows: list[str], reason: str) -> None:
    item = annotated(folder, *rows)
    assert isinstance(item, Skip)
    assert item.key == "v"
    assert item.reason.startswith(reason)


@pytest.mark.parametrize(
    ("row", "split", "reason"),
    [
        ("trian,v.mp4,,l.csv,", None, "split is not train, dev or test"),
        (",v.mp4,,l.csv,", None, "split is not train, dev or test"),
        ("dev,,,l.csv,", "dev", "neither video nor audio"),
        ("dev,../v.mp4,,l.csv,", "dev", "path leaves the source folder"),
        ("dev,v.mp4,C:\\s.wav,l.csv,", "dev", "path leaves the source folder"),
        ("dev,v.mp4,,/l.csv,", "dev", "path leaves the source folder"),
        ("dev,x.mp4,,l.csv,", "dev", "video listed but absent"),
        ("dev,v.mp4,x.wav,l.csv,", "dev", "audio listed but absent"),
        ("dev,v.mp4,,x.csv,", "dev", "annotation listed but absent"),
        ("dev,v.mp4,,,", "dev", "no annotation named"),
        ("dev,w.mp4,,l.csv,Ann", "dev", "name listed twice"),
        ("dev,v.mp4,s.wav,l.csv,Bea", "dev", "recording listed twice"),
    ],
)
def test_a_wrong_row_is_a_reason(folder: Path, row: str, split: str | None, reason: str) -> None:
    (_, first), (where, item) = clips(folder, "split,video,audio,annotation,name", "train,v.mp4,s.wav,l.csv,Ann", row)
    assert isinstance(first, Recording)
    assert isinstance(item, Skip)
    assert (where, item.reason) == (split, reason)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["video,annotation", "v.mp4,l.csv"], "no column split; the columns are split, annotation, video, audio, name"),
        (["split,video,annotation,rater"], "unknown column 'rater'"),
    ],
)
def test_a_wrong_list_of_clips_is_named(folder: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=f"list.csv: .*{message}"):
        clips(folder, *rows)


# --- anything at all -----------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats().map(repr), st.integers(-3, 12).map(str))
CELLS = st.one_of(
    st.sampled_from(["", " ", "train", "validation", "dev", "test", "a.jpg", "b.jpg", "v.mp4", "s.wav", "l.csv", "in"]),
    st.sampled_from([*EXPRESSIONS, "../a.jpg", "/", "\0", "NULL", "1_0", "٣", "0x1"]),
    NUMBERS,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


def tables(columns: tuple[str, ...]) -> st.SearchStrategy[list[list[str]]]:
    """Tables with a good header, most of them."""
    headers = st.permutations(columns) | st.lists(st.sampled_from([*columns, "", "x"]), max_size=10)
    return st.tuples(headers, st.lists(st.lists(CELLS, max_size=10), max_size=6)).map(lambda t: [t[0], *t[1]])


def starts(*headers: str) -> st.SearchStrategy[bytes]:
    """Any bytes, most of them below a good header."""
    begin = st.sampled_from([b"", *(f"{header}\n".encode() for header in headers)])
    return st.tuples(begin, st.binary(max_size=80)).map(b"".join)


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
    return path


def all_faces(path: Path, root: Path) -> Iterator[Face | Skip]:
    for split in face_splits(path):
        yield from read_faces(path, root, split)


def read(items: Iterator[Any]) -> list[Any] | DataError:
    try:
        return list(items)
    except DataError as error:
        return error


def check_face(item: Face | Skip, folder: Path) -> None:
    if isinstance(item, Skip):
        assert item.reason
        return
    assert item.image.is_file()
    assert item.image.is_relative_to(folder)
    assert item.expression in (None, *range(8))
    assert item.valence_arousal is None or all(-1 <= value <= 1 for value in item.valence_arousal)
    assert item.box is None or (np.isfinite(item.box).all() and item.box[0] < item.box[2] and item.box[1] < item.box[3])


def check_clip(split: str | None, item: Recording | Skip) -> None:
    if isinstance(item, Skip):
        assert item.reason
        assert split in (None, "train", "dev", "test")
        return
    assert item.split == split
    assert item.ratings.shape[1:] == (len(item.raters), 2)
    assert len(item.ratings) >= 1
    assert (np.abs(item.ratings) <= 1).all()


@ANYTHING
@given(rows=tables(FACE_COLUMNS))
def test_any_table_of_faces_comes_out_row_by_row(folder: Path, rows: list[list[str]]) -> None:
    path = write_table(folder / "fuzz.csv", rows)
    items = read(all_faces(path, folder))
    if isinstance(items, DataError):
        assert str(items).startswith(str(path))
        return
    assert len(items) == sum(any(cell.strip() for cell in row) for row in rows[1:])
    assert len({item.key for item in items}) == len(items)
    for item in items:
        check_face(item, folder)


@ANYTHING
@given(content=starts("image", "image,split,expression", ",".join(FACE_COLUMNS)))
def test_any_bytes_as_a_list_of_faces(folder: Path, content: bytes) -> None:
    (folder / "fuzz.csv").write_bytes(content)
    items = read(all_faces(folder / "fuzz.csv", folder))
    if isinstance(items, DataError):
        assert "\n" not in str(items)
        return
    for item in items:
        check_face(item, folder)


@ANYTHING
@given(rows=tables(CLIP_COLUMNS))
def test_any_table_of_clips_comes_out_row_by_row(folder: Path, rows: list[list[str]]) -> None:
    path = write_table(folder / "fuzz.csv", rows)
    items = read(read_clips(path, folder))
    if isinstance(items, DataError):
        assert str(items).startswith(str(path))
        return
    assert len(items) == sum(any(cell.strip() for cell in row) for row in rows[1:])
    names = [item.name for _, item in items if isinstance(item, Recording)]
    assert len(set(names)) == len(names)
    for split, item in items:
        check_clip(split, item)


@ANYTHING
@given(content=starts("time,valence,arousal", "time,valence:A,arousal:A", "time,valence,arousal\n0,0,0\n1,0,0"))
def test_any_bytes_as_an_annotation(folder: Path, content: bytes) -> None:
    (folder / "fuzz_labels.csv").write_bytes(content)
    ((split, item),) = clips(folder, "split,video,annotation", "train,v.mp4,fuzz_labels.csv")
    check_clip(split, item)


@ANYTHING
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=5))
def test_any_numbers_as_an_annotation(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    item = annotated(folder, "time,valence,arousal", *map(",".join, rows))
    check_clip("train", item)


@ANYTHING
@given(
    gaps=st.lists(st.floats(1e-3, 0.9), min_size=1, max_size=20),
    first=st.floats(0, 0.02),
    slope=st.floats(-0.05, 0.05),
)
def test_a_straight_line_stays_straight_whatever_the_rate(
    folder: Path, gaps: list[float], first: float, slope: float
) -> None:
    times = first + np.cumsum([0, *gaps])
    item = annotated(folder, "time,valence,arousal", *(f"{t!r},{slope * t!r},{-slope * t!r}" for t in times.tolist()))
    assert isinstance(item, Recording)
    frames = np.clip(np.arange(len(item.ratings)) / 25, times[0], times[-1])
    np.testing.assert_allclose(item.ratings[:, 0], slope * frames[:, None] * [1, -1], atol=1e-6)
    assert abs((len(item.ratings) - 1) / 25 - times[-1]) <= 0.02 + 1e-9
