"""RECOLA's records: every recording is prepared or counted, and nothing is dropped from its time axis."""

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
