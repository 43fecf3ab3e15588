"""Video: 25 frames per second whatever the file's rate, the sound track, and following a face."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.faces import FACE_TEMPLATE, CropConfig, FoundFace, decode_image
from data_pipelines.video import face_crops, frames, load_sound_track, track_face


def write_video(path: Path, rate_hz: Fraction, count: int, sound_rate_hz: int | None = None) -> None:
    """Frame k is grey of level 2 · k; the sound, if any, is a constant 0.25."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate_hz, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=sound_rate_hz, layout="stereo") if sound_rate_hz else None
        for number in range(count):
            image = np.full((48, 64, 3), 2 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        if sound is not None and sound_rate_hz:
            samples = np.full((1, 2 * int(count * sound_rate_hz / rate_hz)), 8192, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate = sound_rate_hz
            container.mux(sound.encode(frame))
            container.mux(sound.encode())


def numbers(path: Path) -> list[int]:
    return [round(float(image.mean()) / 2) for image in frames(path)]


def test_25_hz_keeps_every_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Fraction(25), 30)
    images = list(frames(tmp_path / "a.mp4"))
    assert images[0].shape == (48, 64, 3)
    assert images[0].dtype == np.uint8
    np.testing.assert_allclose(numbers(tmp_path / "a.mp4"), range(30), atol=1)


@pytest.mark.parametrize("rate_hz", [Fraction(50), Fraction(25, 2), Fraction(30_000, 1001), Fraction(24_000, 1001)])
def test_other_rates_take_the_nearest_frame(tmp_path: Path, rate_hz: Fraction) -> None:
    write_video(tmp_path / "a.mp4", rate_hz, 60)
    got = numbers(tmp_path / "a.mp4")
    assert len(got) == round(60 / rate_hz * 25)
    wanted = [min(math.ceil(k * rate_hz / 25 - Fraction(1, 2)), 59) for k in range(len(got))]
    np.testing.assert_allclose(got, wanted, atol=1)


def test_sound_track_is_mono_at_16_khz(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", Fraction(25), 25, sound_rate_hz=48_000)
    sound = load_sound_track(tmp_path / "a.mkv")
    assert sound.dtype == np.float32
    assert len(sound) == 16_000
    np.testing.assert_allclose(sound[100:-100], 0.25, atol=1e-3)


def test_no_sound_track(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Fraction(25), 3)
    assert load_sound_track(tmp_path / "a.mp4").shape == (0,)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.mp4: can't be opened"):
        next(frames(tmp_path / "a.mp4"))


class Script:
    """A face finder that finds what it is told, call by call: centres of faces with a side of 20 pixels."""

    def __init__(self, *calls: list[tuple[float, float]]) -> None:
        self._calls = iter(calls)

    def find(self, image: np.ndarray) -> list[FoundFace]:
        return [face(x, y) for x, y in next(self._calls)]


def face(x: float, y: float) -> FoundFace:
    landmarks = (FACE_TEMPLATE - FACE_TEMPLATE.mean(0)) * 20 + [x, y]
    return FoundFace((x - 10, y - 10, x + 10, y + 10), landmarks, 1.0)


def centres(finder: Script, count: int, detect_every: int = 1) -> tuple[np.ndarray, list[bool]]:
    track = track_face(iter([np.zeros((9, 9, 3), np.uint8)] * count), finder, detect_every)  # type: ignore[arg-type]
    return track.landmarks.mean(axis=1), track.valid.tolist()


def test_a_straight_move_is_interpolated() -> None:
    where, valid = centres(Script([(20, 20)], [(28, 20)], [(36, 20)]), 9, detect_every=4)
    assert all(valid)
    np.testing.assert_allclose(where[4], [28, 20], atol=0.05)
    assert (np.diff(where[:, 0]) > 0).all()


def test_frames_between_a_face_and_none_keep_it() -> None:
    where, valid = centres(Script([(20, 20)], [], [], [(20, 20)]), 8, detect_every=2)
    assert valid == [True, True, False, False, False, True, True, True]
    np.testing.assert_allclose(where[[0, 1, 5, 6, 7]], np.tile([20, 20], (5, 1)))
    np.testing.assert_array_equal(where[[2, 3, 4]], 0)


def test_the_same_face_is_followed_though_a_larger_one_appears() -> None:
    where, _ = centres(Script([(20, 20)], [(200, 20), (21, 20)], [(200, 20), (22, 20)]), 3)
    assert (where[:, 0] < 23).all()


def test_another_face_is_no_place_between() -> None:
    where, valid = centres(Script([(20, 20)], [(200, 20)]), 8, detect_every=4)
    assert all(valid)
    assert set(where[:, 0].round().tolist()) == {20, 200}


def test_smoothing_leaves_a_still_face_still() -> None:
    where, _ = centres(Script(*[[(20, 20)]] * 6), 6)
    np.testing.assert_allclose(where, 20)


def test_no_frames_no_track() -> None:
    where, valid = centres(Script(), 0)
    assert where.shape == (0, 2)
    assert valid == []


def test_crops_are_black_without_a_face(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Fraction(25), 60)
    track = track_face(frames(tmp_path / "a.mp4"), Script(*[[(30, 20)]] * 59, []), 1)  # type: ignore[arg-type]
    crops = [decode_image(jpeg) for jpeg in face_crops(tmp_path / "a.mp4", track, CropConfig(size=16))]
    assert len(crops) == 60
    assert crops[58] is not None
    assert crops[59] is not None
    assert crops[58].shape == (16, 16, 3)
    assert abs(crops[58].mean() - 116) < 4
    assert crops[59].max() == 0
