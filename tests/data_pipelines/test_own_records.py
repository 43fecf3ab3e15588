"""People's own pictures and clips become the same records as AffectNet's and RECOLA's."""

from pathlib import Path

import numpy as np
import pytest
from small_releases import OneFace, picture, skipped, splits_of, write_image, write_recola

from data_pipelines import recordings
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.own_data import prepare_clips, prepare_faces
from data_pipelines.errors import DataError
from data_pipelines.faces import CropConfig, decode_image
from data_pipelines.recordings import ClipConfig
from data_pipelines.records import open_split

ALONE = Workers(1)


def write_faces(root: Path) -> Path:
    for number in range(4):
        write_image(root / f"pictures/{number}.png", picture(number))
    path = root / "faces.csv"
    path.write_text(
        "image,split,expression,valence,arousal,left,top,right,bottom\n"
        "pictures/0.png,train,happiness,0.5,-0.5,20,10,60,50\n"
        "pictures/1.png,validation,7,,,20,10,60,50\n"
        "pictures/2.png,,,,,,,,\n"
        "../secret.png,train,1,,,,,,\n"
        "pictures/absent.png,train,1,,,,,,\n"
        "pictures/3.png,train,joy,,,,,,\n"
    )
    return path


def test_own_faces(tmp_path: Path) -> None:
    folder = prepare_faces(write_faces(tmp_path / "in"), tmp_path, CropConfig(size=40), ALONE)
    assert folder == tmp_path / "faces/2.0.0"
    splits = splits_of(folder)
    assert (splits["train"]["items"], splits["train"]["records"], splits["validation"]["records"]) == (5, 2, 1)
    assert splits["train"]["without_expression"] == 1
    assert [key for _, key, _ in skipped(folder)] == ["../secret.png", "pictures/absent.png", "pictures/3.png"]
    record = open_split(tmp_path, "faces", "train")[0]
    assert (record["expression"][0], list(record["valence_arousal"])) == (1, [0.5, -0.5])
    image = decode_image(record["image"][0])
    assert image is not None
    assert np.abs(image.astype(int) - picture(0)[10:50, 20:60]).mean() < 3


def test_another_list_is_another_dataset(tmp_path: Path) -> None:
    path = write_faces(tmp_path / "in")
    prepare_faces(path, tmp_path, CropConfig(size=40), ALONE)
    path.write_text(path.read_text().replace("0.5,-0.5", "0.4,-0.4"))
    with pytest.raises(DataError, match=r"prepared in another way \(list was"):
        prepare_faces(path, tmp_path, CropConfig(size=40), ALONE)


def test_own_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)
    write_recola(tmp_path / "in", "P16", frames=50)
    (tmp_path / "in/label.csv").write_text("time,valence,arousal\n0,0,1\n2,0.5,0\n")
    path = tmp_path / "in/clips.csv"
    video, audio = "RECOLA-Video-recordings/P16.mp4", "RECOLA-Audio-recordings/P16.wav"
    path.write_text(
        f"name,split,video,audio,annotation\nmine,train,{video},{audio},label.csv\n,dev,{video},,label.csv\n"
    )
    folder = prepare_clips(path, tmp_path, ClipConfig(size=40), ALONE)
    assert splits_of(folder)["dev"]["without_voice"] == 1  # the video has no sound of its own
    record = open_split(tmp_path, "clips", "train")[0]
    assert record["name"] == [b"mine"]
    gold_standard = np.frombuffer(record["gold_standard"][0], np.float32).reshape(-1, 2)
    np.testing.assert_allclose(gold_standard[:50, 0], np.arange(50) / 100, atol=1e-6)
    np.testing.assert_allclose(gold_standard[:50, 1], 1 - np.arange(50) / 50, atol=1e-6)
    with pytest.raises(DataError, match="at least two raters"):
        prepare_clips(path, tmp_path / "avec", ClipConfig(size=40, gold_standard="avec"), ALONE)


@pytest.mark.parametrize("rows", ["", "validation,v.mp4,l.csv\n"])
def test_a_list_without_clips_in_a_split_is_refused(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(f"split,video,annotation\n{rows}")
    with pytest.raises(DataError, match=r"clips\.csv: no recording can be used"):
        prepare_clips(path, tmp_path / "out", ClipConfig(size=40), ALONE)
