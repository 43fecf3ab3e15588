"""RECOLA in all three forms: annotation files, partitions, incomplete recordings, and which label is whose."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.releases.items import Recording, Skip
from data_pipelines.releases.recola import (
    LABEL_RULE,
    PARTITIONS,
    SPLITS,
    Form,
    Partition,
    check_source,
    detect_form,
    load_partition,
    read_recordings,
)

HEADER = "time;FM1 ;FM2 ;FM3 "
ARFF = (
    "@relation GOLDSTANDARD\r\n\r\n@attribute Instance_name string\r\n@attribute frameTime numeric\r\n"
    "@attribute GoldStandard numeric\r\n\r\n\r\n@data\r\n\r\n"
)
FOLDERS = {
    "avec2016": ("ratings_gold_standard", "ratings_individual"),
    "avec2018": ("labels/gs_1", "labels/individual"),
}
NEVER_PUBLIC = "without annotation (the challenge's test labels were never public)"


def put(path: Path, text: str = "any") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def write(root: Path, name: str, valence: list[str] | None = None, arousal: list[str] | None = None) -> None:
    """A recording of the public form, with two frames."""
    rows = ["0.00;0.1;0.2;0.3", "0.04;0.4;0.5;0.6", "0.08;-1;0;1"]
    for dimension, lines in (("valence", valence), ("arousal", arousal)):
        path = root / "RECOLA-Annotation/emotional_behaviour" / dimension / f"{name}.csv"
        put(path, "\n".join(lines or [HEADER, *rows]) + "\n")
    put(root / f"RECOLA-Audio-recordings/{name}.wav")
    put(root / f"RECOLA-Video-recordings/{name}.mp4")


def write_avec(root: Path, form: Form, name: str, gold: dict[str, str] | None = None, individual: str = "") -> None:
    """A recording of an AVEC form, with two frames: a gold standard per dimension, and ratings if there are any."""
    default = f"{name},0,0.1\r\n{name},0.04,-0.2\r\n{name},0.08,0.9\r\n"
    for dimension in ("valence", "arousal"):
        put(root / FOLDERS[form][0] / dimension / f"{name}.arff", ARFF + (gold or {}).get(dimension, default))
        if individual:
            put(root / FOLDERS[form][1] / dimension / f"{name}.csv", individual)
    put(root / f"recordings_audio/{name}.wav")
    put(root / f"recordings_video/{name}.mp4")


def read(root: Path, form: Form = "public", partition: str = "A") -> dict[str, tuple[str | None, Recording | Skip]]:
    items = list(read_recordings(root, form, load_partition(partition)))
    named = {(item.name if isinstance(item, Recording) else item.key): (split, item) for split, item in items}
    assert len(named) == len(items)
    assert list(named) == sorted(named)
    return named


def recording(root: Path, name: str, form: Form = "public", partition: str = "A") -> Recording:
    split, item = read(root, form, partition)[name]
    assert isinstance(item, Recording), item
    assert item.split == split
    return item


def test_drops_the_label_after_the_last_frame(tmp_path: Path) -> None:
    write(tmp_path, "P16", arousal=[HEADER, "0.00;0;0;0", "0.04;0;0;0.5", "0.08;0.9;0.9;0.9"])
    found = recording(tmp_path, "P16")
    assert (found.name, found.split, found.raters) == ("P16", "test", ("FM1", "FM2", "FM3"))
    assert found.ratings.shape == (2, 3, 2)
    assert found.ratings.dtype == np.float32
    np.testing.assert_allclose(found.ratings[1], [[0.4, 0], [0.5, 0], [0.6, 0.5]])
    assert (found.labels_dropped, found.gold_standard) == (1, None)
    assert "7,501" in LABEL_RULE


def test_7501_labels_are_7500_frames(tmp_path: Path) -> None:
    lines = ["time;FM1 ;FM2 ;FM3 ;FF1 ;FF2 ;FF3", *(f"{k / 25:.2f};0;0;0;0;0;{k / 7500}" for k in range(7501))]
    write(tmp_path, "P65", lines, lines)
    found = recording(tmp_path, "P65")
    assert found.ratings.shape == (7500, 6, 2)
    np.testing.assert_allclose(found.ratings[:, 5, 0], np.arange(7500) / 7500, rtol=1e-6)


def test_labels_that_begin_at_40_ms_end_their_frames(tmp_path: Path) -> None:
    lines = [HEADER, "0.04;0.1;0;0", "0.08;0.2;0;0", "0.12;0.3;0;0"]
    write(tmp_path, "P16", lines, lines)
    found = recording(tmp_path, "P16")
    np.testing.assert_allclose(found.ratings[:, 0, 0], [0.1, 0.2, 0.3])
    assert found.labels_dropped == 0


def test_empty_cells_at_the_end_say_nothing(tmp_path: Path) -> None:
    write(tmp_path, "P16", arousal=[HEADER + ";;", "0;0;0;0;", "0.04;0;0;0; ;", "0.08;0;0;0", ";;"])
    assert recording(tmp_path, "P16").raters == ("FM1", "FM2", "FM3")


def test_either_sound_or_video_is_enough(tmp_path: Path) -> None:
    for name in ("P16", "P17", "P19"):
        write(tmp_path, name)
    (tmp_path / "RECOLA-Audio-recordings/P16.wav").unlink()
    (tmp_path / "RECOLA-Video-recordings/P17.mp4").unlink()
    (tmp_path / "RECOLA-Audio-recordings/P19.wav").unlink()
    (tmp_path / "RECOLA-Video-recordings/P19.mp4").unlink()
    assert (recording(tmp_path, "P16").audio, recording(tmp_path, "P17").video) == (None, None)
    assert recording(tmp_path, "P16").video == tmp_path / "RECOLA-Video-recordings/P16.mp4"
    assert recording(tmp_path, "P17").audio == tmp_path / "RECOLA-Audio-recordings/P17.wav"
    assert read(tmp_path)["P19"] == ("test", Skip("P19", "without sound, video"))


def test_incomplete_and_unknown_recordings_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "P16")
    write(tmp_path, "P45")
    (tmp_path / "RECOLA-Annotation/emotional_behaviour/valence/P45.csv").unlink()
    write(tmp_path, "P99")
    put(tmp_path / "RECOLA-Audio-recordings/._P16.wav")
    put(tmp_path / "RECOLA-Audio-recordings/readme.txt")
    items = read(tmp_path)
    assert isinstance(items.pop("P16")[1], Recording)
    assert items.pop("P45") == ("train", Skip("P45", "without valence annotation"))
    assert items.pop("P99") == (None, Skip("P99", "not in partition A"))
    assert len(items) == 21
    assert {item.reason for _, item in items.values() if isinstance(item, Skip)} == {"absent"}


def test_a_missing_label_is_never_filled_in(tmp_path: Path) -> None:
    write(tmp_path, "P16", arousal=[HEADER, "0;0;?;0", "0.04;0;nan;0", "0.08;?;0;0"])
    assert read(tmp_path)["P16"] == ("test", Skip("P16", "labels missing: 2"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["seconds;a;b", "0;0;0", "0.04;0;0"], "header"),
        ([HEADER, "0;0;0;0", "0.08;0;0;0"], "0.04 s apart"),
        ([HEADER, "0.08;0;0;0", "0.12;0;0;0"], "begin at 0 s or 0.04 s"),
        ([HEADER, "0;0;0;0", "nan;0;0;0"], "0.04 s apart"),
        ([HEADER, "0;0;0;0", "0.04;0;0;2"], r"\[-1, 1\]"),
        ([HEADER, "0;0;0;0", "0.04;0;0;inf"], r"\[-1, 1\]"),
        ([HEADER, "0;0;0;0", "0.04;0;0"], "not 4 numbers"),
        ([HEADER, "0;0;0;0;0.5", "0.04;0;0;0;0.5"], "not 4 numbers"),
        ([HEADER, "0;0;0;0", "0.04;0;0;x"], "not 4 numbers"),
        ([HEADER, "0;0;;0", "0.04;0;;0"], "not 4 numbers"),
        (["time;FM1;;FM3", "0;0;0;0", "0.04;0;0;0"], "header"),
        (["time;FM1;FM1", "0;0;0", "0.04;0;0"], "header"),
        (["time;", "0;", "0.04;"], "header"),
        ([HEADER, '0;0;0;"' + 200_000 * "0" + '"'], "line 2 is no CSV"),
        ([HEADER, "0;0;0;0"], "1 labels"),
        ([""], "not empty"),
        (["time;FM1;FM2", "0;0;0", "0.04;0;0", "0.08;0;0"], "raters FM1, FM2"),
        ([HEADER, "0;0;0;0", "0.04;0;0;0"], r"2 labels from 0\.0 s on, but .* has 3"),
        ([HEADER, "0.04;0;0;0", "0.08;0;0;0", "0.12;0;0;0"], r"3 labels from 0\.04 s on, but .* from 0\.0 s on"),
    ],
)
def test_malformed_annotations_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path, "P16", arousal=lines)
    with pytest.raises(DataError, match=rf"P16\.csv: .*{message}"):
        read(tmp_path)


# --- the forms of the challenges ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["avec2016", "avec2018"])
def test_avec_gold_standards_and_ratings(tmp_path: Path, form: Form) -> None:
    arousal = "dev_1,0,1\r\ndev_1,0.04,-0.022925\r\ndev_1,0.08,?\r\n"
    write_avec(tmp_path, form, "dev_1", {"arousal": arousal}, "time;FM1 ;FM2\n0;0;0.5\n0.04;0;0.25\n0.08;0;0\n")
    put(tmp_path / "recordings_audio/test_2.wav")
    assert detect_form(tmp_path) == form
    items = read(tmp_path, form, "avec")
    assert len(items) == 27
    assert items.pop("test_2") == ("test", Skip("test_2", NEVER_PUBLIC))
    assert items["test_1"] == ("test", Skip("test_1", "absent"))
    found = recording(tmp_path, "dev_1", form, "avec")
    assert (found.split, found.raters, found.labels_dropped) == ("dev", ("FM1", "FM2"), 1)
    assert found.gold_standard is not None
    assert found.gold_standard.dtype == np.float32
    np.testing.assert_allclose(found.gold_standard, [[0.1, 1], [-0.2, -0.022925]])
    np.testing.assert_allclose(found.ratings, [[[0, 0], [0.5, 0.5]], [[0, 0], [0.25, 0.25]]])
    assert found.video == tmp_path / "recordings_video/dev_1.mp4"


def test_avec_without_ratings(tmp_path: Path) -> None:
    write_avec(tmp_path, "avec2016", "train_3")
    found = recording(tmp_path, "train_3", "avec2016", "avec")
    assert (found.raters, found.ratings.shape) == ((), (2, 0, 2))


def test_avec_ratings_may_have_commas(tmp_path: Path) -> None:
    write_avec(tmp_path, "avec2016", "train_1", individual="Time,A,B\r\n0.00,0.5,0\r\n0.04,0,0\r\n0.08,0,0\r\n")
    assert recording(tmp_path, "train_1", "avec2016", "avec").raters == ("A", "B")


def test_avec_labels_incomplete(tmp_path: Path) -> None:
    write_avec(tmp_path, "avec2016", "train_1", {"valence": "train_1,0,?\ntrain_1,0.04,0\ntrain_1,0.08,?\n"})
    write_avec(tmp_path, "avec2016", "train_2")
    (tmp_path / "ratings_gold_standard/valence/train_2.arff").unlink()
    items = read(tmp_path, "avec2016", "avec")
    assert items["train_1"] == ("train", Skip("train_1", "labels missing: 1"))
    assert items["train_2"] == ("train", Skip("train_2", "without valence gold standard"))
    put(tmp_path / "ratings_individual/valence/train_9.csv")
    put(tmp_path / "ratings_individual/arousal/train_9.csv")
    items = read(tmp_path, "avec2016", "avec")
    assert items["train_1"] == ("train", Skip("train_1", "without valence ratings, arousal ratings"))
    assert items["train_9"] == ("train", Skip("train_9", "without valence gold standard, arousal gold standard"))


def test_avec_2018_is_looked_for_below_its_gold_standard(tmp_path: Path) -> None:
    csv = "Instance_name,frameTime,GoldStandard\ndev_1,0,0.5\ndev_1,0.04,0\n"
    for dimension in ("valence", "arousal"):
        put(tmp_path / "labels/gs_1/RECOLA" / dimension / "dev_1.csv", csv)
    put(tmp_path / "recordings_audio/dev_1.wav")
    gold = recording(tmp_path, "dev_1", "avec2018", "avec").gold_standard
    assert gold is not None
    np.testing.assert_allclose(gold, [[0.5, 0.5]])
    put(tmp_path / "labels/gs_1/RECOLA/valence/dev_1.arff")
    with pytest.raises(DataError, match="dev_1 is there twice"):
        read(tmp_path, "avec2018", "avec")


def test_avec_2018_tells_what_was_found_instead(tmp_path: Path) -> None:
    put(tmp_path / "labels/gs_1/dev_1.arff")
    with pytest.raises(DataError, match=r"gs_1: .*folders valence and arousal, found dev_1\.arff"):
        check_source(tmp_path, detect_form(tmp_path))


ROWS = "dev_1,0,0\ndev_1,0.04,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ARFF + "dev_1,0,0\ndev_2,0.04,0\n", "must hold only dev_1, holds 'dev_2' too"),
        (ARFF + "dev_1,0,0\n", "1 labels"),
        (ARFF + "dev_1,0,0\ndev_1,0.04,3\n", r"\[-1, 1\]"),
        (ARFF + "dev_1,0,0\ndev_1,0.04,zero\n", "not 2 numbers"),
        (ARFF + "dev_1,0,0\ndev_1,0.04\n", "line 11 doesn't hold 3 values"),
        (ARFF + "dev_1,0,\ndev_1,0.04,0\n", "line 10 doesn't hold 3 values"),
        (ARFF + "{0 dev_1, 1 0.04}\n", "line 10 is a sparse row"),
        (ARFF.replace("@data", ""), "no ARFF; looked for @attribute"),
        ("@data\n" + ROWS, "doesn't hold 0 values"),
        (ARFF.replace("GoldStandard", "Gold") + ROWS, "found Instance_name, frameTime, Gold"),
        (ARFF.replace("@relation", "relation") + ROWS, "line 1 is neither"),
        (ARFF + "dev_1,0.2,0\ndev_1,0.24,0\n", "0.04 s apart"),
        ("\x00\xff", "line 1 is neither"),
    ],
)
def test_malformed_gold_standards_are_named(tmp_path: Path, text: str, message: str) -> None:
    write_avec(tmp_path, "avec2016", "dev_1")
    put(tmp_path / "ratings_gold_standard/arousal/dev_1.arff", text)
    with pytest.raises(DataError, match=rf"arousal.dev_1\.arff: .*{message}"):
        read(tmp_path, "avec2016", "avec")


def test_arff_in_other_spellings(tmp_path: Path) -> None:
    write_avec(tmp_path, "avec2016", "dev_1")
    text = (
        "\ufeff% made by hand\n@RELATION 'gold standard'\n@Attribute 'GoldStandard' REAL\n@ATTRIBUTE other {a, 'b c'}\n"
        '@attribute "frameTime"  real\n@attribute instance_name STRING\n@DATA\n% nothing\n'
        "0.5,'b\\'s, c',0,dev_1\n\n -1e-1 , a , 4e-2 , \"dev_1\" \n?,?,0.08,'dev_1'\n"
    )
    for dimension in ("valence", "arousal"):
        put(tmp_path / "ratings_gold_standard" / dimension / "dev_1.arff", text)
    gold = recording(tmp_path, "dev_1", "avec2016", "avec").gold_standard
    assert gold is not None
    np.testing.assert_allclose(gold[:, 0], [0.5, -0.1])


def test_gold_standard_that_is_no_unicode(tmp_path: Path) -> None:
    write_avec(tmp_path, "avec2016", "dev_1")
    (tmp_path / "ratings_gold_standard/arousal/dev_1.arff").write_bytes(b"@relation \xff")
    with pytest.raises(DataError, match=r"dev_1\.arff: not UTF-8"):
        read(tmp_path, "avec2016", "avec")


# --- forms and partitions -----------------------------------------------------------------------------------


def test_no_release(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"RECOLA-Annotation.*ratings_gold_standard.*labels.gs_1"):
        detect_form(tmp_path)
    with pytest.raises(DataError, match=r"RECOLA-Annotation.*found no such folder"):
        check_source(tmp_path, "public")
    write(tmp_path, "P16")
    assert detect_form(tmp_path) == "public"
    check_source(tmp_path, "public")
    write_avec(tmp_path, "avec2018", "dev_1")
    with pytest.raises(DataError, match=r"several forms of RECOLA \(public, avec2018\)"):
        detect_form(tmp_path)


def test_labels_alone_are_no_release(tmp_path: Path) -> None:
    put(tmp_path / "ratings_gold_standard/valence/dev_1.arff")
    put(tmp_path / "ratings_gold_standard/arousal/dev_1.arff")
    with pytest.raises(DataError, match="looked for recordings_audio and recordings_video"):
        check_source(tmp_path, "avec2016")


def test_the_partition_of_another_form(tmp_path: Path) -> None:
    write(tmp_path, "P16")
    with pytest.raises(DataError, match="no recording of partition avec here, found P16, …; choose another one"):
        read(tmp_path, partition="avec")


def test_partitions_hold_each_of_the_23_once() -> None:
    for partition in PARTITIONS.values():
        numbers = [number for split in partition.values() for number in split]
        assert len(numbers) == len(set(numbers)) == 23
    assert {*PARTITIONS["A"]["train"], *PARTITIONS["A"]["dev"], *PARTITIONS["A"]["test"]} == {
        number for split in PARTITIONS["B"].values() for number in split
    }


def test_presets() -> None:
    assert load_partition("A").members["test"] == ("P16", "P17", "P19", "P21", "P23", "P25", "P26")
    assert load_partition("B").members["test"] == ("P42", "P65", "P21", "P37")
    avec = load_partition("avec").members
    assert {split: (len(avec[split]), avec[split][0], avec[split][-1]) for split in SPLITS} == {
        split: (9, f"{split}_1", f"{split}_9") for split in SPLITS
    }


def test_a_partition_of_ones_own(tmp_path: Path) -> None:
    path = put(tmp_path / "mine.json", json.dumps({"train": ["P16", "P65"], "test": ["P17"]}))
    partition = load_partition(str(path))
    members = {"train": ("P16", "P65"), "dev": (), "test": ("P17",)}
    assert partition == Partition("custom: mine.json", members)  # type: ignore[arg-type]
    write(tmp_path, "P65")
    assert recording(tmp_path, "P65", partition=str(path)).split == "train"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["P16"], "dev": ["P16"]}', "once, in one split; twice: P16"),
        ('{"train": ["P16", "P16"]}', "twice: P16"),
        ('{"train": [""]}', "every name"),
        ('{"train": []}', "every name"),
        ("{}", "every name"),
        ('{"train": ["P16"], "validation": ["P17"]}', "nothing else"),
        ('["P16"]', "nothing else"),
        ('{"train": "P16"}', "must be a list of names"),
        ('{"train": [16]}', "must be a list of names"),
        ('{"train": ["P16\\n"]}', "must be a list of names"),
        ('{"train": ["P16"], "train": ["P17"]}', "a key stands there twice"),
        ('{"train": ["P16"]', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[" + "1" * 5000 + "]", "no JSON"),
    ],
)
def test_partitions_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"mine\.json: .*{message}"):
        load_partition(str(put(tmp_path / "mine.json", text)))


@pytest.mark.parametrize("text", ["C", "a", "", ".", "absent.json", "x" * 5000, "\0"])
def test_unknown_partitions(text: str) -> None:
    with pytest.raises(DataError, match="choose A, B, avec, or a JSON file"):
        load_partition(text)
