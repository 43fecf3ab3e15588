"""RECOLA's annotation files, partitions and incomplete recordings; gold standards by hand."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.gold_standard import avec_gold_standard, gold_standard, pairwise_ccc
from data_pipelines.releases.recola import PARTITIONS, Recording, Skip, read_recordings

HEADER = "time;FM1 ;FM2 ;FM3 "


def write(root: Path, name: str, valence: list[str] | None = None, arousal: list[str] | None = None) -> None:
    rows = ["0.00;0.1;0.2;0.3", "0.04;0.4;0.5;0.6", "0.08;-1;0;1"]
    for dimension, lines in (
        ("valence", valence or [HEADER, *rows]),
        ("arousal", arousal or [HEADER, *rows]),
    ):
        folder = root / "RECOLA-Annotation/emotional_behaviour" / dimension
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for folder, suffix in (("RECOLA-Audio-recordings", "wav"), ("RECOLA-Video-recordings", "mp4")):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.{suffix}").write_bytes(b"any")


def test_drops_the_label_after_the_last_frame(tmp_path: Path) -> None:
    write(tmp_path, "P16", arousal=[HEADER, "0.00;0;0;0", "0.04;0;0;0.5", "0.08;0.9;0.9;0.9"])
    (recording,) = (item for item in read_recordings(tmp_path, "A") if isinstance(item, Recording))
    assert (recording.name, recording.split, recording.raters) == ("P16", "test", ("FM1", "FM2", "FM3"))
    assert recording.ratings.shape == (2, 3, 2)
    np.testing.assert_allclose(recording.ratings[1], [[0.4, 0], [0.5, 0], [0.6, 0.5]])


def test_empty_cells_at_the_end_say_nothing(tmp_path: Path) -> None:
    write(tmp_path, "P16", arousal=[HEADER + ";;", "0;0;0;0;", "0.04;0;0;0; ;", "0.08;0;0;0", ";;"])
    assert any(isinstance(item, Recording) for item in read_recordings(tmp_path, "A"))


def test_partitions_hold_each_of_the_23_once() -> None:
    for partition in PARTITIONS.values():
        numbers = [number for split in partition.values() for number in split]
        assert len(numbers) == len(set(numbers)) == 23
    assert {*PARTITIONS["A"]["train"], *PARTITIONS["A"]["dev"], *PARTITIONS["A"]["test"]} == {
        number for split in PARTITIONS["B"].values() for number in split
    }


def test_incomplete_and_unknown_recordings_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "P16")
    write(tmp_path, "P45")
    (tmp_path / "RECOLA-Annotation/emotional_behaviour/valence/P45.csv").unlink()
    write(tmp_path, "P17")
    (tmp_path / "RECOLA-Audio-recordings/P17.wav").unlink()
    write(tmp_path, "P99")
    items = {(item.name if isinstance(item, Recording) else item.key): item for item in read_recordings(tmp_path, "A")}
    assert isinstance(items.pop("P16"), Recording)
    assert items.pop("P45") == Skip("P45", "train", "without valence annotation")
    assert items.pop("P17") == Skip("P17", "test", "without sound")
    assert items.pop("P99") == Skip("P99", None, "not in partition A")
    assert len(items) == 20
    assert {item.reason for item in items.values()} == {"absent"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["seconds;a;b", "0;0;0", "0.04;0;0"], "header"),
        ([HEADER, "0;0;0;0", "0.08;0;0;0"], "0.04 s apart"),
        ([HEADER, "0;0;0;0", "0.04;0;0;2"], r"\[-1, 1\]"),
        ([HEADER, "0;0;0;0", "0.04;0;0"], "not 4 numbers"),
        ([HEADER, "0;0;0;0;0.5", "0.04;0;0;0;0.5"], "not 4 numbers"),
        ([HEADER, "0;0;0;0", "0.04;0;0;0;x"], "not 4 numbers"),
        (["time;FM1;;FM3", "0;0;0;0", "0.04;0;0;0"], "header"),
        (["time;", "0;", "0.04;"], "header"),
        ([HEADER, '0;0;0;"' + 200_000 * "0" + '"'], "line 2 is no CSV"),
        ([HEADER, "0;0;0;0"], "1 labels"),
        (["time;FM1;FM2", "0;0;0", "0.04;0;0"], "raters FM1, FM2"),
        ([HEADER, "0;0;0;0", "0.04;0;0;0"], "2 labels, but .* has 3"),
    ],
)
def test_malformed_annotations_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path, "P16", arousal=lines)
    with pytest.raises(DataError, match=rf"P16\.csv: .*{message}"):
        list(read_recordings(tmp_path, "A"))


def test_no_release(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="RECOLA-Annotation"):
        list(read_recordings(tmp_path, "A"))


def test_ccc_by_hand() -> None:
    # means 1, 2; variances 2/3, 2/3; covariance 2/3: 2 · 2/3 / (4/3 + 1) = 4/7
    np.testing.assert_allclose(pairwise_ccc(np.array([[0.0, 1], [1, 2], [2, 3]])), [[1, 4 / 7], [4 / 7, 1]])


def test_avec_gold_standard_by_hand() -> None:
    # Raters x, x + 1, -x with x = (0, 1, 2): CCCs 4/7 (1, 2), and with means m = (1, 2, -1):
    # (1, 3): -4/3 / (4/3 + 4) = -1/4; (2, 3): -4/3 / (4/3 + 9) = -4/31
    x = np.array([0.0, 1, 2])
    w = np.array([4 / 7 - 1 / 4, 4 / 7 - 4 / 31, -1 / 4 - 4 / 31]) / 2
    m = np.array([1.0, 2, -1])
    expected = (x + x + 1 - x) / 3 - m.mean() + (m * w).sum() / w.sum()
    np.testing.assert_allclose(avec_gold_standard(np.stack([x, x + 1, -x], axis=1)), expected)


def test_agreeing_raters_give_their_mean_either_way() -> None:
    ratings = np.random.default_rng(0).uniform(-1, 1, (50, 1, 2)).repeat(6, axis=1)
    np.testing.assert_allclose(gold_standard(ratings, "avec"), ratings[:, 0], atol=1e-6)
    assert gold_standard(ratings, "mean").dtype == np.float32


def test_contradicting_raters_fall_back_to_the_mean() -> None:
    traces = np.stack([np.arange(5.0), -np.arange(5.0)], axis=1)
    np.testing.assert_allclose(avec_gold_standard(traces), 0, atol=1e-12)
    assert np.isfinite(avec_gold_standard(np.zeros((5, 3)))).all()
