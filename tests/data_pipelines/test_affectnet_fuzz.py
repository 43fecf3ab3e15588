"""Whatever AffectNet's files hold, reading them gives a correct parse, a `Skip` or a DataError, and runs nothing."""

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.releases.affectnet import COLUMNS, read_split
from data_pipelines.releases.csv_lists import csv_rows
from data_pipelines.releases.items import Face, Skip
from data_pipelines.releases.paths import stays_inside

UNLABELLED = ("none", "uncertain", "non-face")
HEADER = ",".join(COLUMNS).encode() + b"\n"
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

CELLS = st.one_of(
    st.sampled_from(
        ["", "NULL", "nan", "-inf", "1e309", "-2", "0x1", "1_0", "٣", "8", "9", "10", "3", "-0.5", "1" * 400]
    ),
    st.text(max_size=8),
    st.floats().map(repr),
    st.integers().map(str),
)
PATHS = st.one_of(
    st.sampled_from(
        ["1/a.jpg", "1\\a.jpg", "1/../1/a.jpg", "../secret.jpg", "..\\secret.jpg", "/etc/hostname", "1", "C:a"]
    ),
    st.lists(st.sampled_from(["..", ".", "1", "a.jpg", "secret.jpg", "\\", "\0", " ", "~"]), max_size=5).map("/".join),
    st.text(max_size=300),
)
AFFECT = st.sampled_from(["-0.5", "0", "1", "-1", "1.5", "-2", "nan", "", "inf"])
CODES = st.sampled_from([*map(str, range(-1, 12)), "x"])
LANDMARKS = st.lists(CELLS, max_size=4).map(";".join)
ROWS = st.tuples(PATHS, CELLS, CELLS, CELLS, CELLS, LANDMARKS, CODES, AFFECT, AFFECT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda values: st.lists(values, max_size=9) | st.dictionaries(st.text(max_size=5), values, max_size=4),
    max_leaves=12,
)


def mutated(data: bytes, edits: list[tuple[int, int]], end: int) -> bytes:
    """The bytes with some replaced and the end cut off."""
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(changed)] = value
    return bytes(changed[: max(0, len(changed) - end)])


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6)
ENDS = st.one_of(st.just(0), st.integers(0, 400))


def items(root: Path, release: str, landmarks: bool = True) -> list[Face | Skip]:
    """The whole training list, checked for what must hold of anything that comes out; empty if it was refused."""
    found = []
    with contextlib.suppress(DataError):
        for split in ("train", "unlabelled"):
            found += [*read_split(root, release, split, UNLABELLED, landmarks)]
    for item in found:
        if isinstance(item, Face):
            check(item, root)
    return found


def check(face: Face, root: Path) -> None:
    assert face.expression is None or face.expression in range(8)
    assert face.image.is_file()
    assert root.resolve() in face.image.resolve().parents
    if face.box is not None:
        left, top, right, bottom = face.box
        assert all(map(math.isfinite, face.box))
        assert left <= right
        assert top <= bottom
    if face.valence_arousal is not None:
        assert all(-1 <= value <= 1 for value in face.valence_arousal)
    if face.landmarks is not None:
        assert face.landmarks.shape == (5, 2)
        assert np.isfinite(face.landmarks).all()
    if face.soft_label is not None:
        assert len(face.soft_label) == 8
        assert all(0 <= share <= 1 for share in face.soft_label)


@pytest.fixture(scope="module")
def list_2017(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training list of a release with one picture, and a picture outside of it."""
    root = tmp_path_factory.mktemp("outside") / "release"
    (root / "Manually_Annotated_Images/1").mkdir(parents=True)
    (root / "Manually_Annotated_Images/1/a.jpg").write_bytes(b"any")
    for folder in (root, root.parent, root / "Manually_Annotated_Images"):
        (folder / "secret.jpg").write_bytes(b"secret")
    (root / "Manually_Annotated_file_lists").mkdir()
    return root / "Manually_Annotated_file_lists/training.csv"


@FUZZ
@given(data=st.binary(max_size=300), with_header=st.booleans())
@example(data=b"\xef\xbb\xbf", with_header=True)
@example(data=b'"', with_header=False)
@example(data=b"1/a.jpg\r1/a.jpg\r\r\n\n,\n", with_header=True)
def test_any_bytes_as_a_list(list_2017: Path, data: bytes, with_header: bool) -> None:
    list_2017.write_bytes(HEADER * with_header + data)
    items(list_2017.parents[1], "2017")


@FUZZ
@given(rows=st.lists(ROWS, max_size=4))
def test_any_cells_in_a_list(list_2017: Path, rows: list[tuple[str, ...]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    list_2017.write_bytes(HEADER + "\n".join(lines).encode())
    found = items(list_2017.parents[1], "2017")
    assert sorted(item.key for item in found) == sorted(row[0].strip() for row in rows)
    images = list_2017.parents[1].resolve() / "Manually_Annotated_Images"
    assert all(images in item.image.resolve().parents for item in found if isinstance(item, Face))


@FUZZ
@given(edits=EDITS, end=ENDS)
def test_a_damaged_list(list_2017: Path, edits: list[tuple[int, int]], end: int) -> None:
    points = ";".join(map(str, range(136)))
    row = f"1/a.jpg,10,20,30,40,{points},3,-0.5,0.25\n".encode()
    list_2017.write_bytes(mutated(HEADER + row + row, edits, end))
    items(list_2017.parents[1], "2017")


@FUZZ
@given(path=PATHS)
def test_paths_never_leave(path: str) -> None:
    if stays_inside(path):
        for joined in (path, path.replace("\\", "/")):
            target = os.path.normpath(os.path.join("/root/folder", joined))  # noqa: PTH118
            assert target.startswith("/root/folder/")


@FUZZ
@given(
    rows=st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])), min_size=2))
)
def test_a_well_formed_csv_comes_back(tmp_path: Path, rows: list[list[str]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows]
    (tmp_path / "list.csv").write_bytes("".join(lines).encode())
    assert list(csv_rows(tmp_path / "list.csv")) == [[cell.strip() for cell in row] for row in rows]


@pytest.fixture(scope="module")
def release_2021(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release_2021")
    for folder in ("images", "annotations"):
        (root / "train_set" / folder).mkdir(parents=True)
    (root / "train_set/images/1.jpg").write_bytes(b"any")
    for name, value in {"exp": "3", "val": "-0.5", "aro": "0.25", "lnd": np.arange(136.0)}.items():
        np.save(root / f"train_set/annotations/1_{name}.npy", np.array(value))
    return root


NAMES = st.sampled_from(["exp", "val", "aro", "lnd"])
ARRAYS = st.sampled_from(
    [np.array("3"), np.array(3), np.array(-0.5), np.array(b"8"), np.arange(136.0), np.array(["1"] * 136), np.array(1j),
     np.array(True), np.zeros((0, 3)), np.array("2020-01-01", "M8[D]"), np.array((1, 2), "i4,i4"), np.zeros(136, ">i2"),
     np.asfortranarray(np.ones((68, 2))), np.longdouble("1e4000")]
)  # fmt: skip


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + (128).to_bytes(2 if version == b"\1\0" else 4, "little") + text.encode().ljust(128)


@FUZZ
@given(name=NAMES, data=st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"\x93NUMPY" + data))
def test_any_bytes_as_an_array(release_2021: Path, name: str, data: bytes) -> None:
    with replaced(release_2021 / f"train_set/annotations/1_{name}.npy", data):
        (item,) = items(release_2021, "2021")
    assert isinstance(item, Skip) if name != "lnd" else item.landmarks is None


@FUZZ
@given(name=NAMES, array=ARRAYS, edits=EDITS, end=ENDS)
def test_a_damaged_array(release_2021: Path, name: str, array: Any, edits: list[tuple[int, int]], end: int) -> None:
    with replaced(release_2021 / f"train_set/annotations/1_{name}.npy", mutated(npy(array), edits, end)):
        assert len(items(release_2021, "2021")) == 1


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,)}") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 0)}"),
        header("{'descr': '<U100000000', 'fortran_order': False, 'shape': ()}") + bytes(8),
        header("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", b"\2\0") + bytes(7),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", b"\7\7") + bytes(8),
        header("{'descr': '<U1', 'fortran_order': False, 'shape': ()}") + b"\xff\xff\xff\xff",
        header("{'descr': '|S1', 'fortran_order': False, 'shape': ()}") + b"\xff",
        header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': ()}") + bytes(8),
        header("__import__('os').abort()"),
        header(120 * "("),
        b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    ],
)
def test_headers_that_lie(release_2021: Path, data: bytes) -> None:
    """Among them some that ask for terabytes."""
    with replaced(release_2021 / "train_set/annotations/1_exp.npy", data):
        (item,) = items(release_2021, "2021")
    assert item.reason in ("annotation unreadable", "expression code unknown")


class TouchesAMarker:
    """What a malicious pickle does, harmlessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["exp", "val", "aro", "lnd"])
def test_no_pickle_runs(release_2021: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    data = npy(np.array(TouchesAMarker(marker), dtype=object), allow_pickle=True)
    np.load(io.BytesIO(data), allow_pickle=True)
    assert marker.exists()  # it would run
    marker.unlink()
    for content in (data, data.split(b"\n", 1)[1]):  # as an array, and as a bare pickle
        with replaced(release_2021 / f"train_set/annotations/1_{name}.npy", content):
            items(release_2021, "2021")
    assert not marker.exists()


@pytest.fixture(scope="module")
def release_plus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AffectNet+ with a sound annotation 0; annotation 1 is for breaking."""
    root = tmp_path_factory.mktemp("release_plus")
    for folder in ("images", "annotations"):
        (root / "train_set" / folder).mkdir(parents=True)
    for key in "01":
        (root / f"train_set/images/{key}.jpg").write_bytes(b"any")
        (root / f"train_set/annotations/{key}.json").write_text(json.dumps(ANNOTATION))
    return root


ANNOTATION = {
    "human-label": 3,
    "soft-label": 8 * [0.125],
    "subset": 0,
    "meta-data": {"valence": -0.5, "arousal": 0.25, "landmark-68": list(range(136))},
}


def second(release_plus: Path, data: bytes) -> Face | Skip:
    with replaced(release_plus / "train_set/annotations/1.json", data):
        return next(item for item in items(release_plus, "plus") if item.key == "1")


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_bytes_as_json(release_plus: Path, data: bytes) -> None:
    assert isinstance(second(release_plus, data), Skip)


@FUZZ
@given(edits=EDITS, end=ENDS)
def test_damaged_json(release_plus: Path, edits: list[tuple[int, int]], end: int) -> None:
    second(release_plus, mutated(json.dumps(ANNOTATION).encode(), edits, end))


@FUZZ
@given(key=st.sampled_from([*ANNOTATION, *ANNOTATION["meta-data"]]), value=JSON)
def test_any_value_in_json(release_plus: Path, key: str, value: Any) -> None:
    meta_data = ANNOTATION["meta-data"] | ({key: value} if key in ANNOTATION["meta-data"] else {})
    content = ANNOTATION | {"meta-data": meta_data} | ({key: value} if key in ANNOTATION else {})
    item = second(release_plus, json.dumps(content).encode())
    if key == "subset":
        assert isinstance(item, Face)
    if key == "human-label" and isinstance(item, Face):
        assert item.expression == value if value in range(8) else item.expression is None and value in (8, 9, 10)


@FUZZ
@given(value=JSON, automatic=st.booleans())
def test_any_json_as_the_first_annotation(tmp_path: Path, value: Any, automatic: bool) -> None:
    part = tmp_path / ("no_human_annotated" if automatic else "train_set")
    for folder in ("images", "annotations"):
        (part / folder).mkdir(parents=True, exist_ok=True)
    (part / "annotations/0.json").write_text(json.dumps(value))
    split = "automatic" if automatic else "train"
    if isinstance(value, dict):
        with pytest.raises(DataError, match=r"0\.json: 'soft-label' should be"):
            list(read_split(tmp_path, "plus", split))
    else:
        (item,) = read_split(tmp_path, "plus", split)
        assert isinstance(item, Skip)
