"""Whatever stands in a file of labels or of a partition: what it says is read, or a DataError says why not."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.releases.recola import SPLITS, load_partition
from data_pipelines.releases.traces import read_gold_standard, read_ratings

bounded = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

CSV = "time;FM1 ;FF1 \n0.00;0.1;-0.2\n0.04;0.3;0.4\n0.08;-1;1\n"
ARFF = (
    "@relation GOLDSTANDARD\r\n\r\n@attribute Instance_name string\r\n@attribute frameTime numeric\r\n"
    "@attribute GoldStandard numeric\r\n\r\n@data\r\n\r\ndev_1,0,0.5\r\ndev_1,0.04,?\r\ndev_1,0.08,-1\r\n"
)
PARTITION = '{"train": ["P16", "P17"], "dev": ["P19"], "test": ["P21"]}'

LABELS = st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=2, max_size=30)
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)
BLANKS = st.sampled_from(["", " ", "\t", "   "])
ENDS = st.sampled_from(["\n", "\r\n"])


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """The text with a few pieces of it exchanged for others, for parts of itself, or for nothing."""
    data = text.encode()
    pieces = st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"", b"\0", b"\xef\xbb\xbf", b'"', b"'", b";", b",", b"\n", b"\r", b"{", b"}", b"[", b"?", b"%"]
        ),
        st.sampled_from([b"nan", b"1e999", b"-0", b"0.04", b"@data", b"@attribute", b"\\ud800", b"null", b"time"]),
        st.builds(lambda a, b: data[min(a, b) : max(a, b)], *[st.integers(0, len(data))] * 2),
    )
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data = data[:start] + draw(pieces) + data[end:]
    return data


def files(text: str) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(text), st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8")))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def number(value: float | None) -> str:
    return "?" if value is None else repr(value)


def wanted(labels: list[float | None]) -> np.ndarray:
    return np.array([np.nan if label is None else label for label in labels])


@bounded
@given(files(CSV))
def test_any_ratings(tmp_path: Path, data: bytes) -> None:
    try:
        traces = read_ratings(write(tmp_path / "P16.csv", data))
    except DataError:
        return
    check(traces.values, traces.first, len(traces.columns))


@bounded
@given(files(ARFF), st.sampled_from(["arff", "csv"]))
def test_any_gold_standard(tmp_path: Path, data: bytes, suffix: str) -> None:
    try:
        traces = read_gold_standard(write(tmp_path / f"dev_1.{suffix}", data), "dev_1")
    except DataError:
        return
    check(traces.values, traces.first, 1)


def check(values: np.ndarray, first: int, columns: int) -> None:
    assert first in (0, 1)
    assert values.dtype == np.float64
    assert values.shape[0] >= 2
    assert values.shape[1] == columns
    assert not (np.abs(values) > 1).any()


@bounded
@given(files(PARTITION))
def test_any_partition(tmp_path: Path, data: bytes) -> None:
    try:
        partition = load_partition(str(write(tmp_path / "mine.json", data)))
    except DataError:
        return
    names = [name for split in SPLITS for name in partition.members[split]]
    assert names
    assert len(names) == len(set(names))


@bounded
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.sampled_from([*SPLITS, "other"]), part, max_size=4),
        max_leaves=12,
    )
)
def test_any_json(tmp_path: Path, members: object) -> None:
    try:
        partition = load_partition(str(write(tmp_path / "mine.json", json.dumps(members).encode())))
    except DataError:
        return
    assert isinstance(members, dict)
    assert {split: list(names) for split, names in partition.members.items() if names} == {
        split: names for split, names in members.items() if names
    }


@bounded
@given(st.lists(NAMES, min_size=1, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_partitions_are_read_as_written(tmp_path: Path, names: list[str], random) -> None:
    members: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        members[random.choice(SPLITS)].append(name)
    partition = load_partition(str(write(tmp_path / "mine.json", json.dumps(members).encode("utf-8-sig"))))
    assert {split: list(part) for split, part in partition.members.items()} == members


@bounded
@given(
    LABELS, st.lists(NAMES, min_size=1, max_size=6, unique=True), st.sampled_from(";,"), BLANKS, ENDS, st.integers(0, 1)
)
def test_ratings_are_read_as_written(
    tmp_path: Path, labels: list[float | None], raters: list[str], delimiter: str, blank: str, end: str, first: int
) -> None:
    rows = [["time", *raters]]
    rows += [[f"{(first + k) / 25:.2f}", *[number(label)] * len(raters)] for k, label in enumerate(labels)]
    text = "".join((blank + delimiter + blank).join(row) + blank + delimiter + end for row in rows)
    traces = read_ratings(write(tmp_path / "P16.csv", text.encode()))
    assert (traces.columns, traces.first) == (tuple(raters), first)
    np.testing.assert_array_equal(traces.values, np.tile(wanted(labels)[:, None], len(raters)))


@bounded
@given(LABELS, BLANKS, ENDS, st.integers(0, 1), st.permutations(["Instance_name", "frameTime", "GoldStandard", "x"]))
def test_gold_standards_are_read_as_written(
    tmp_path: Path, labels: list[float | None], blank: str, end: str, first: int, order: list[str]
) -> None:
    lines = ["% made up", "@relation 'x y'", *(f"@attribute {name} numeric" for name in order), "@data", ""]
    for k, label in enumerate(labels):
        cells = {"Instance_name": "'dev_1'", "frameTime": f"{(first + k) / 25:g}", "GoldStandard": number(label)}
        lines.append((blank + "," + blank).join((cells | {"x": '"a, \\"b\\""'})[name] for name in order) + blank)
    traces = read_gold_standard(write(tmp_path / "dev_1.arff", (end.join(lines) + end).encode()), "dev_1")
    assert traces.first == first
    np.testing.assert_array_equal(traces.values[:, 0], wanted(labels))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("row", ["a" + " " * 200_000 + "'", "'" + "\\'" * 100_000, "," * 200_000, "'a' " * 50_000])
def test_hostile_rows_take_no_longer(tmp_path: Path, row: str) -> None:
    text = "@attribute frameTime numeric\n@attribute GoldStandard numeric\n@data\n" + row
    with pytest.raises(DataError, match="line 4"):
        read_gold_standard(write(tmp_path / "dev_1.arff", text.encode()), "dev_1")
