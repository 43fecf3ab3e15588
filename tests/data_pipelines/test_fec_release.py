"""FEC's ragged lists: consensus, order of the faces, order of a box's numbers."""

import hashlib
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.releases.fec import Skip, Triplet, check_source, odd_one_out, photograph_path, read_split

FACES = '"http://x/1",0.1,0.4,0.2,0.8,http://x/2,0,0.5,0,1,"http://x/3",0.5,1,0.25,0.75'


def write(root: Path, *rows: str) -> None:
    for split in ("train", "test"):
        (root / f"faceexp-comparison-data-{split}-public.csv").write_text("".join(row + "\n" for row in rows))


@pytest.mark.parametrize(
    ("answers", "consensus", "odd"),
    [
        ("111122", 2 / 3, 0),
        ("111222", 2 / 3, None),
        ("222213", 2 / 3, 1),
        ("333", 1.0, 2),
        ("332", 2 / 3, 2),
        ("11223", 0.4, None),
        ("11123", 0.5, 0),
        ("9111", 2 / 3, 0),
        ("99111", 2 / 3, None),
        ("x", 0.5, None),
    ],
)
def test_consensus(answers: str, consensus: float, odd: int | None) -> None:
    assert odd_one_out(list(answers), consensus) == odd


@pytest.mark.parametrize(("answer", "order"), [("1", "231"), ("2", "132"), ("3", "123")])
def test_the_odd_one_comes_last(tmp_path: Path, answer: str, order: str) -> None:
    write(tmp_path, f"{FACES},TWO_CLASS_TRIPLET,ann1,{answer},ann2,{answer}")
    (triplet,) = read_split(tmp_path, "train", 2 / 3)
    assert isinstance(triplet, Triplet)
    assert triplet.kind == "TWO_CLASS_TRIPLET"
    assert "".join(face.url[-1] for face in triplet.faces) == order
    boxes = {face.url: face.box for face in triplet.faces}
    assert boxes["http://x/1"] == (0.1, 0.2, 0.4, 0.8)  # left, top, right, bottom


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{FACES},ONE_CLASS_TRIPLET,a,1,b,2", "no consensus (ONE_CLASS_TRIPLET)"),
        (f"{FACES},ONE_CLASS_TRIPLET", "no consensus (ONE_CLASS_TRIPLET)"),
        (f"{FACES},FOUR_CLASS_TRIPLET,a,1", "triplet kind unknown"),
        (FACES, "row too short"),
        (FACES.replace("0.4", "0.05") + ",ONE_CLASS_TRIPLET,a,1", "face box malformed (ONE_CLASS_TRIPLET)"),
        (FACES.replace("0.4", "?") + ",ONE_CLASS_TRIPLET,a,1", "face box malformed (ONE_CLASS_TRIPLET)"),
    ],
)
def test_every_row_comes_out(tmp_path: Path, row: str, reason: str) -> None:
    write(tmp_path, row, f"{FACES},ONE_CLASS_TRIPLET,a,3,b,3,c,3,d,3,e,1,f,3,g,3")
    skip, triplet = read_split(tmp_path, "test", 2 / 3)
    assert skip == Skip("1", reason)
    assert isinstance(triplet, Triplet)


def test_a_list_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, FACES)
    path = tmp_path / "faceexp-comparison-data-test-public.csv"
    path.write_bytes(path.read_bytes() + b"http://x/\xe9\n")
    with pytest.raises(DataError, match=r"test-public\.csv: line 2 is not UTF-8"):
        list(read_split(tmp_path, "test", 2 / 3))


def test_photographs_lie_where_their_url_says(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"http://x/1").hexdigest()
    assert photograph_path(tmp_path, "http://x/1") == tmp_path / "images" / digest[:2] / f"{digest}.jpg"


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="faceexp-comparison-data-train-public"):
        check_source(tmp_path)
