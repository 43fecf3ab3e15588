"""FEC's ragged lists: consensus, order of the faces, order of a box's numbers, which photographs they name."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.releases.fec import (
    SPLITS,
    Triplet,
    check_source,
    odd_one_out,
    photograph_path,
    photographs,
    photographs_fingerprint,
    read_split,
    shared_photographs,
)
from data_pipelines.releases.items import Skip

FACES = '"http://x/1",0.1,0.4,0.2,0.8,http://x/2,0,0.5,0,1,"http://x/3",0.5,1,0.25,0.75'
KIND = "ONE_CLASS_TRIPLET"
GOOD_ROW = f"{FACES},{KIND},a,3,b,3,c,3,d,3,e,1,f,3,g,3"


def write(root: Path, *rows: str, split: str | None = None) -> None:
    for name in (split,) if split else ("train", "test"):
        (root / f"faceexp-comparison-data-{name}-public.csv").write_text("".join(row + "\n" for row in rows))


@pytest.mark.parametrize(
    ("answers", "consensus", "dropped", "first"),
    [
        ("111122", 2 / 3, 0, 0),
        ("111222", 2 / 3, None, None),
        ("222213", 2 / 3, 1, 1),
        ("333", 1.0, 2, 2),
        ("332", 2 / 3, 2, 2),
        ("11223", 0.4, None, 0),
        ("32211", 0.4, None, 1),
        ("222111", 0.5, None, 1),
        ("321", 1 / 3, None, 2),
        ("321", 0.34, None, None),
        ("11123", 0.5, 0, 0),
        ("9111", 2 / 3, 0, 0),
        ("99111", 2 / 3, None, None),
        ("x", 0.5, None, None),
    ],
)
def test_consensus_and_ties(answers: str, consensus: float, dropped: int | None, first: int | None) -> None:
    assert odd_one_out(list(answers), consensus, "drop") == dropped
    assert odd_one_out(list(answers), consensus, "first") == first


def test_the_tie_rule_reaches_the_rows(tmp_path: Path) -> None:
    write(tmp_path, f"{FACES},{KIND},a,2,b,1")
    assert list(read_split(tmp_path, "train", 0.5, "drop")) == [Skip("1", f"no consensus ({KIND})")]
    (triplet,) = read_split(tmp_path, "train", 0.5, "first")
    assert isinstance(triplet, Triplet)
    assert triplet.faces[2].url == "http://x/2"


@pytest.mark.parametrize(("answer", "order"), [("1", "231"), ("2", "132"), ("3", "123")])
def test_the_odd_one_comes_last(tmp_path: Path, answer: str, order: str) -> None:
    write(tmp_path, f"{FACES},TWO_CLASS_TRIPLET,ann1,{answer},ann2,{answer}")
    (triplet,) = read_split(tmp_path, "train", 2 / 3, "drop")
    assert isinstance(triplet, Triplet)
    assert triplet.kind == "TWO_CLASS_TRIPLET"
    assert "".join(face.url[-1] for face in triplet.faces) == order
    boxes = {face.url: face.box for face in triplet.faces}
    assert boxes["http://x/1"] == (0.1, 0.2, 0.4, 0.8)  # left, top, right, bottom


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{FACES},{KIND},a,1,b,2", f"no consensus ({KIND})"),
        (f"{FACES},{KIND}", f"no consensus ({KIND})"),
        (f"{FACES},FOUR_CLASS_TRIPLET,a,1", "triplet kind unknown"),
        (FACES, "row too short"),
        ("", "row too short"),
        (FACES.replace("0.4", "0.05") + f",{KIND},a,1", f"face box malformed ({KIND})"),
        (FACES.replace("0.4", "?") + f",{KIND},a,1", f"face box malformed ({KIND})"),
        (FACES.replace("0.4", "nan") + f",{KIND},a,1", f"face box malformed ({KIND})"),
        (FACES.replace("0.4", "400") + f",{KIND},a,1", f"face box malformed ({KIND})"),
        (FACES.replace("http://x/2", "ftp://x/2") + f",{KIND},a,1", f"no http or https URL ({KIND})"),
        (FACES.replace("http://x/2", "file:///etc/passwd") + f",{KIND},a,1", f"no http or https URL ({KIND})"),
        (FACES.replace("http://x/2", "http:///2") + f",{KIND},a,1", f"no http or https URL ({KIND})"),
        (FACES.replace("http://x/2", "http://x/2 3") + f",{KIND},a,1", f"no http or https URL ({KIND})"),
        (FACES.replace("http://x/2", "") + f",{KIND},a,1", f"no http or https URL ({KIND})"),
    ],
)
def test_every_row_comes_out(tmp_path: Path, row: str, reason: str) -> None:
    write(tmp_path, row, GOOD_ROW)
    skip, triplet = read_split(tmp_path, "test", 2 / 3, "drop")
    assert skip == Skip("1", reason)
    assert isinstance(triplet, Triplet)


def test_annotators_without_answer_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, f"{FACES},{KIND},a,1,b,,c", f"{FACES},{KIND},a,1,,,,")
    assert [type(item) for item in read_split(tmp_path, "train", 1.0, "drop")] == [Triplet, Triplet]


LINES = [GOOD_ROW, FACES, f'{FACES},{KIND},a,"', "", '"', ",,,", "\0", GOOD_ROW.replace("0.4", "1e999"), "\ufeff", "\r"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(LINES) | st.text(), max_size=8))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for split in SPLITS:
            path = Path(folder, f"faceexp-comparison-data-{split}-public.csv")
            path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
        with contextlib.suppress(DataError):
            items = list(read_split(Path(folder), "train", 2 / 3, "first"))
            assert [item.key for item in items] == [str(number) for number in range(1, len(items) + 1)]
            urls = photographs(Path(folder), "train")
            assert {face.url for item in items if isinstance(item, Triplet) for face in item.faces} <= set(urls)


def test_a_list_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, FACES)
    path = tmp_path / "faceexp-comparison-data-test-public.csv"
    path.write_bytes(path.read_bytes() + b"http://x/\xe9\n")
    with pytest.raises(DataError, match=r"test-public\.csv: line 2 is not UTF-8"):
        list(read_split(tmp_path, "test", 2 / 3, "drop"))


def box_row(*numbers: float) -> str:
    box = ",".join(map(str, numbers))
    return f"http://x/1,{box},http://x/2,{box},http://x/3,{box},{KIND},a,1"


@pytest.mark.parametrize(
    "numbers",
    [
        (0.6, 0.2, 0.8, 0.5),  # left, top, right, bottom
        (0.4, 0.1, 0.2, 0.8),  # right, left, top, bottom
        (120, 260, 80, 240),  # pixels
    ],
)
def test_boxes_in_another_order_or_unit_are_no_fec(tmp_path: Path, numbers: tuple[float, ...]) -> None:
    write(tmp_path, *[GOOD_ROW] * 3, *[box_row(*numbers)] * 4)
    with pytest.raises(DataError, match=r"expected left, right, top, bottom .* 4 of the first 7 rows .* row 4 with "):
        list(read_split(tmp_path, "train", 2 / 3, "drop"))
    with pytest.raises(DataError, match="expected left, right, top, bottom"):
        photographs(tmp_path, "test")


def test_boxes_that_leave_the_photograph_and_single_faults_are_let_pass(tmp_path: Path) -> None:
    write(tmp_path, *[box_row(-0.2, 0.4, 0.3, 1.2)] * 50, *[box_row(0.4, -0.2, 0.3, 1.2)] * 50)
    items = list(read_split(tmp_path, "train", 2 / 3, "drop"))
    assert [type(item) for item in items] == [Triplet] * 50 + [Skip] * 50


def test_photographs_are_named_once_whatever_the_answers(tmp_path: Path) -> None:
    other = FACES.replace("http://x/1", "https://x/a,b").replace("http://x/3", "gopher://x/3")
    write(tmp_path, f"{FACES},{KIND},a,1,b,2", f"{other},{KIND},a,1", FACES.replace("x", "short"), GOOD_ROW)
    assert photographs(tmp_path, "train") == ["http://x/1", "http://x/2", "http://x/3", "https://x/a,b"]


def test_photographs_in_both_lists_are_counted(tmp_path: Path) -> None:
    write(tmp_path, GOOD_ROW, split="train")
    write(tmp_path, GOOD_ROW.replace("http://x/1", "http://y/1").replace("http://x/2", "http://y/2"), split="test")
    assert shared_photographs(tmp_path) == 1


def test_photographs_lie_where_their_url_says(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"http://x/1").hexdigest()
    assert photograph_path(tmp_path, "http://x/1") == tmp_path / "images" / digest[:2] / f"{digest}.jpg"


def test_the_fingerprint_tells_of_photographs_added_removed_and_changed(tmp_path: Path) -> None:
    fingerprints = [photographs_fingerprint(tmp_path)]
    for name, content in (("1", b"one"), ("2", b"two"), ("2", b"three"), ("3", b"")):
        path = photograph_path(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        fingerprints.append(photographs_fingerprint(tmp_path))
    os.utime(path, (0, 0))
    path.with_suffix(".part").write_bytes(b"unfinished")
    assert photographs_fingerprint(tmp_path) == fingerprints[-1]
    path.unlink()
    assert photographs_fingerprint(tmp_path) == fingerprints[3]
    assert len(set(fingerprints)) == 5


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="faceexp-comparison-data-train-public"):
        check_source(tmp_path)
