"""RECOLA's records: every recording is prepared or counted, and nothing is dropped from its time axis."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from small_releases import OneFace, skipped, splits_of, write_recola

from data_pipelines import recordings
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.recola import RecolaPreparation, prepare_recola
from data_pipelines.errors import DataError
from data_pipelines.faces import FoundFace
from data_pipelines.records import open_split, read_metadata

ALONE = Workers(1)


def test_recola_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)
    write_recola(tmp_path / "in", "P45", frames=50)
    write_recola(tmp_path / "in", "P46", frames=48, silent=True)
    write_recola(tmp_path / "in", "P16", frames=55)
    sounds = tmp_path / "in/RECOLA-Audio-recordings"
    soundfile.write(sounds / "P45.wav", np.full(51 * 640, 0.5), 16_000)
    soundfile.write(sounds / "P16.wav", np.full(50 * 640 - 4000, 0.5), 16_000)
    write_recola(tmp_path / "in", "P99", frames=50)
    folder = prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40), ALONE)

    summary = splits_of(folder)
    assert summary["unassigned"]["skipped"] == {"not in partition A": 1}
    assert {split: counts["records"] for split, counts in summary.items()} == {
        "unassigned": 0,
        "train": 2,
        "dev": 0,
        "test": 1,
    }
    assert summary["train"]["frames"] == 100
    assert summary["train"]["frames_without_face"] == 5 + 5 + 2
    assert (summary["train"]["frames_missing"], summary["train"]["frames_cut"]) == (2, 0)
    assert (summary["test"]["frames_missing"], summary["test"]["frames_cut"]) == (0, 5)
    assert (summary["train"]["samples_missing"], summary["train"]["samples_cut"]) == (0, 640)
    assert (summary["test"]["samples_missing"], summary["test"]["samples_cut"]) == (4000, 0)
    assert read_metadata(folder)["raters"] == ["FM1", "FF1"]
    assert summary["train"]["without_voice"] == 1
    assert summary["train"]["skipped"] == {"absent": 6}
    with pytest.raises(DataError, match="no split dev; there are test, train"):
        open_split(tmp_path, "recola", "dev")
    assert ["dev", "P28", "absent"] in skipped(folder)
    assert ["unassigned", "P99", "not in partition A"] in skipped(folder)


def test_unreadable_media_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)
    write_recola(tmp_path / "in", "P45", frames=50)
    write_recola(tmp_path / "in", "P46", frames=50)
    (tmp_path / "in/RECOLA-Video-recordings/P46.mp4").write_bytes(b"no video")
    write_recola(tmp_path / "in", "P48", frames=50)
    cut_short = tmp_path / "in/RECOLA-Video-recordings/P48.mp4"
    cut_short.write_bytes(cut_short.read_bytes().partition(b"mdat")[0] + b"mdat")
    write_recola(tmp_path / "in", "P56", frames=50)
    soundfile.write(tmp_path / "in/RECOLA-Audio-recordings/P56.wav", np.zeros(0), 44_100)
    folder = prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40), ALONE)
    skipped = splits_of(folder)["train"]["skipped"]
    assert any("P46.mp4: can't be opened as video" in reason for reason in skipped)
    assert skipped["video without a frame that can be decoded"] == 1
    assert skipped["sound without samples"] == 1


def test_a_recording_in_which_finding_faces_fails_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(OneFace):
        def find(self, image: np.ndarray) -> list[FoundFace]:
            if image.mean() < 20:
                cv2.resize(image, (0, 0))  # raises cv2.error
            return super().find(image)

    monkeypatch.setattr(recordings, "FaceFinder", Failing)
    write_recola(tmp_path / "in", "P45", frames=50)
    with pytest.raises(DataError, match=r"nothing usable in split train; skipped: .*finding faces failed"):
        prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40), ALONE)


def test_the_gold_standard_of_avec_needs_two_raters(tmp_path: Path) -> None:
    write_recola(tmp_path / "in", "P45", frames=1)
    for path in (tmp_path / "in/RECOLA-Annotation").rglob("*.csv"):
        path.write_text("\n".join(line.rsplit(";", 1)[0] for line in path.read_text().splitlines()))
    with pytest.raises(DataError, match="at least two raters"):
        prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(gold_standard="avec"), ALONE)


def test_a_partition_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)
    for name in ("P45", "P46"):
        write_recola(tmp_path / "in", name, frames=50)
    partition = tmp_path / "mine.json"
    partition.write_text(json.dumps({"train": ["P46"], "test": ["P45"]}))
    config = RecolaPreparation(size=40, partition=str(partition), gold_standard="ewe")
    folder = prepare_recola(tmp_path / "in", tmp_path, config, ALONE)
    assert open_split(tmp_path, "recola", "test")[0]["name"] == [b"P45"]
    metadata = read_metadata(folder)
    assert metadata["preparation"]["partition"] == "custom: mine.json"
    assert metadata["preparation"]["members"]["train"] == ["P46"]
    assert "7,501" in metadata["label_rule"]
    assert metadata["splits"]["train"]["labels_dropped"] == 1


def write_avec(root: Path, name: str, frames: int) -> None:
    """The public form's files moved to where AVEC 2016 has them, with a gold standard of its own."""
    write_recola(root / "public", name, frames)
    for folder, new, old in (("recordings_video", "Video", "mp4"), ("recordings_audio", "Audio", "wav")):
        (root / folder).mkdir(exist_ok=True)
        shutil.move(root / f"public/RECOLA-{new}-recordings/{name}.{old}", root / folder)
    for dimension, level in (("valence", 0.125), ("arousal", -0.25)):
        path = root / f"ratings_gold_standard/{dimension}/{name}.arff"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "@relation GOLDSTANDARD\r\n@attribute Instance_name string\r\n@attribute frameTime numeric\r\n"
        rows = [f"{name},{number / 25:.2f},{level}" for number in range(frames + 1)]
        path.write_text(header + "@attribute GoldStandard numeric\r\n@data\r\n" + "\r\n".join(rows), newline="")


def test_the_avec_form_with_its_own_gold_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)
    for name in ("train_1", "dev_1"):
        write_avec(tmp_path / "in", name, frames=50)
    shutil.rmtree(tmp_path / "in/public")
    with pytest.raises(DataError, match=r"gold standard mean needs .*; choose released"):
        prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40), ALONE)
    config = RecolaPreparation(size=40, gold_standard="released")
    folder = prepare_recola(tmp_path / "in", tmp_path, config, ALONE)
    metadata = read_metadata(folder)
    assert (metadata["preparation"]["form"], metadata["preparation"]["partition"]) == ("avec2016", "avec")
    assert {split: counts["records"] for split, counts in metadata["splits"].items()} == {
        "train": 1,
        "dev": 1,
        "test": 0,
    }
    gold_standard = np.frombuffer(open_split(tmp_path, "recola", "dev")[0]["gold_standard"][0], np.float32)
    np.testing.assert_allclose(gold_standard.reshape(50, 2), [[0.125, -0.25]] * 50)
