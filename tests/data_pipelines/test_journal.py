"""The journal: what was written whole comes back, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.builders.journal import Journal
from data_pipelines.builders.recipe import Cooked

CHUNKS = [
    Cooked([b"first", b""], {"items": 2, "skipped": []}),
    Cooked([], {"items": 1, "skipped": [["b.jpg", "listed but absent"]]}),
    Cooked([b"\0" * 100], {"items": 1, "skipped": []}),
]


def entries(journal: Journal) -> list[Cooked]:
    records = list(journal.records())
    found = []
    for notes in journal.notes():
        count = len(notes.pop("lengths"))
        found.append(Cooked(records[:count], notes))
        del records[:count]
    return found


def written(path: Path) -> bytes:
    with Journal(path) as journal:
        for number, chunk in enumerate(CHUNKS):
            journal.append(bytes([number]) * 32, chunk)
    return path.read_bytes()


def test_it_comes_back_after_reopening(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    with Journal(tmp_path / "journal") as journal:
        assert entries(journal) == CHUNKS
        assert [journal.digest(number) for number in range(3)] == [bytes([number]) * 32 for number in range(3)]
        journal.keep(1)
        journal.append(b"x" * 32, CHUNKS[2])
    with Journal(tmp_path / "journal") as journal:
        assert entries(journal) == [CHUNKS[0], CHUNKS[2]]


def test_cut_anywhere_it_holds_the_whole_entries(tmp_path: Path) -> None:
    data = written(tmp_path / "journal")
    ends = [len(written_until(tmp_path / str(count), count)) for count in range(4)]
    for length in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        with Journal(tmp_path / "cut") as journal:
            whole = sum(end <= length for end in ends[1:])
            assert entries(journal) == CHUNKS[:whole]
        assert len((tmp_path / "cut").read_bytes()) == ends[whole]


def written_until(path: Path, count: int) -> bytes:
    with Journal(path) as journal:
        for number, chunk in enumerate(CHUNKS[:count]):
            journal.append(bytes([number]) * 32, chunk)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200), place=st.integers(0, 400), change=st.integers(1, 255))
def test_damage_never_passes_for_an_entry(folder: Path, data: bytes, place: int, change: int) -> None:
    whole = bytearray(written(folder / "whole"))
    (folder / "whole").unlink()
    if place < len(whole):
        whole[place] ^= change
    for content in (data, bytes(whole)):
        (folder / "damaged").write_bytes(content)
        with Journal(folder / "damaged") as journal:
            found = entries(journal)
        assert found == CHUNKS[: len(found)]
