"""Video: 25 upright frames per second whatever the file's rate, the sound track, and following a face."""

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from data_pipelines.errors import DataError
from data_pipelines.faces import FACE_TEMPLATE, CropConfig, FoundFace, decode_image
from data_pipelines.video import (
    FaceTrack,
    face_crops,
    frames,
    has_video,
    is_resampled,
    load_sound_track,
    track_face,
)


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


def numbers(path: Path, step: int = 2) -> list[int]:
    return [round(float(image.mean()) / step) for image in frames(path)]


def write_timed(path: Path, times_ms: list[int]) -> None:
    """A video of variable rate: frame k, grey of level 8 · k, is shown from its time on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1000, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            image = np.full((48, 64, 3), 8 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())


def write_sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples = 0.5 * np.sin(np.arange(16_000) / 5, dtype=np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


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


def test_a_variable_rate_takes_the_nearest_frame(tmp_path: Path) -> None:
    times_ms = [0, 10, 40, 80, 95, 200, 230, 360, 400]
    write_timed(tmp_path / "a.mp4", times_ms)
    got = numbers(tmp_path / "a.mp4", step=8)
    assert got[:11] == [int(np.argmin(np.abs(np.array(times_ms) - 40 * k))) for k in range(11)]
    assert is_resampled(tmp_path / "a.mp4")


@pytest.mark.parametrize(("rate_hz", "resampled"), [(25, False), (50, True), (24, True), (Fraction(25, 2), True)])
def test_only_what_is_not_at_25_hz_is_resampled(tmp_path: Path, rate_hz: Fraction, resampled: bool) -> None:
    write_video(tmp_path / "a.mp4", Fraction(rate_hz), 30)
    assert is_resampled(tmp_path / "a.mp4") == resampled
    write_video(tmp_path / "a.mkv", Fraction(rate_hz), 30)
    assert is_resampled(tmp_path / "a.mkv") == resampled


def test_times_that_jitter_about_25_hz_keep_every_frame(tmp_path: Path) -> None:
    write_timed(tmp_path / "a.mp4", [40 * k + (-9, 0, 9)[k % 3] + 9 for k in range(30)])
    assert not is_resampled(tmp_path / "a.mp4")
    assert numbers(tmp_path / "a.mp4", step=8)[:29] == list(range(29))


def test_a_raw_stream_without_times(tmp_path: Path) -> None:
    write_video(tmp_path / "a.h264", Fraction(25), 10)
    assert not is_resampled(tmp_path / "a.h264")
    assert len(numbers(tmp_path / "a.h264")) == 10


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_come_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16], stored[32:, :16] = 255, 128
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.set_display_rotation(degrees, hflip=mirrored)  # counterclockwise, then mirrored
        for _ in range(2):
            container.mux(video.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(video.encode())
    shown = np.rot90(stored, degrees // 90)
    for image in frames(tmp_path / "a.mp4"):
        assert image.flags.c_contiguous
        np.testing.assert_allclose(image, shown[:, ::-1] if mirrored else shown, atol=8)


def test_odd_sizes(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 37, 51, "bgr0"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((51, 37, 3), 9, np.uint8), format="rgb24")))
        container.mux(video.encode())
    (image,) = frames(tmp_path / "a.mkv")
    assert image.shape == (51, 37, 3)
    assert (image == 9).all()


def test_a_file_with_sound_only(tmp_path: Path) -> None:
    write_sound_only(tmp_path / "a.mp4")
    assert not has_video(tmp_path / "a.mp4")
    assert not is_resampled(tmp_path / "a.mp4")
    assert 15_000 < len(load_sound_track(tmp_path / "a.mp4")) < 18_000
    with pytest.raises(DataError, match=r"a\.mp4: has no video stream"):
        next(frames(tmp_path / "a.mp4"))


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
    assert not has_video(tmp_path / "a.mp4")


def test_sound_track_is_mono_at_16_khz(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", Fraction(25), 25, sound_rate_hz=48_000)
    sound = load_sound_track(tmp_path / "a.mkv")
    assert sound.dtype == np.float32
    assert len(sound) == 16_000
    np.testing.assert_allclose(sound[100:-100], 0.25, atol=1e-3)


def test_no_sound_track(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Fraction(25), 3)
    assert load_sound_track(tmp_path / "a.mp4").shape == (0,)


def test_sound_that_cant_be_decoded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mkv", Fraction(25), 25, sound_rate_hz=48_000)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Frame does not match AudioResampler setup.")

    monkeypatch.setattr(av, "AudioResampler", lambda **_: SimpleNamespace(resample=fail))
    with pytest.raises(DataError, match=r"a\.mkv: broken sound \(Frame does not match"):
        load_sound_track(tmp_path / "a.mkv")


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


def follow(finder: Script, count: int, detect_every: int = 1) -> FaceTrack:
    return track_face(iter([np.zeros((9, 9, 3), np.uint8)] * count), finder, detect_every)  # type: ignore[arg-type]


def centres(finder: Script, count: int, detect_every: int = 1) -> tuple[np.ndarray, list[bool]]:
    track = follow(finder, count, detect_every)
    return track.landmarks.mean(axis=1), track.valid.tolist()


def test_a_straight_move_is_interpolated() -> None:
    where, valid = centres(Script([(20, 20)], [(28, 20)], [(36, 20)]), 9, detect_every=4)
    assert all(valid)
    np.testing.assert_allclose(where[4], [28, 20], atol=0.05)
    assert (np.diff(where[:, 0]) > 0).all()


def test_frames_between_a_face_and_none_keep_it() -> None:
    where, valid = centres(Script([(20, 20)], [], [], [], [(20, 20)]), 10, detect_every=2)
    assert valid == [True, True, False, False, False, False, False, True, True, True]
    np.testing.assert_allclose(where[[0, 1, 7, 8, 9]], np.tile([20, 20], (5, 1)))
    np.testing.assert_array_equal(where[2:7], 0)


def test_short_misses_of_one_face_are_bridged() -> None:
    track = follow(Script([(20, 20)], *[[]] * 5, [(26, 20)]), 7)
    assert track.valid.all()
    assert track.bridged.tolist() == [False, True, True, True, True, True, False]
    centre = track.landmarks.mean(axis=1)
    assert (np.diff(centre[:, 0]) > 0).all()
    np.testing.assert_allclose(centre[3], [23, 20], atol=0.05)


def test_long_misses_are_not_bridged() -> None:
    track = follow(Script([(20, 20)], *[[]] * 6, [(20, 20)]), 8)
    assert track.valid.tolist() == [True, *[False] * 6, True]
    assert not track.bridged.any()


def test_misses_between_two_faces_are_not_bridged() -> None:
    assert follow(Script([(20, 20)], [], [(200, 20)]), 3).valid.tolist() == [True, False, True]


def test_misses_at_either_end_are_not_bridged() -> None:
    assert follow(Script([], [(20, 20)], []), 3).valid.tolist() == [False, True, False]


@pytest.mark.parametrize(("detect_every", "bridged"), [(2, [2]), (5, [5]), (6, [])])
def test_a_miss_stands_for_all_frames_up_to_the_next_look(detect_every: int, bridged: list[int]) -> None:
    track = follow(Script([(20, 20)], [], [(20, 20)]), 2 * detect_every + 1, detect_every)
    assert np.flatnonzero(track.bridged).tolist() == bridged
    assert track.valid.all() == bool(bridged)


def test_several_faces_are_told() -> None:
    track = follow(Script([(20, 20), (60, 20)], [(20, 20)], [], [(20, 20), (60, 20)]), 4)
    assert track.several.tolist() == [True, False, False, True]
    assert follow(Script([(20, 20), (60, 20)]), 3, detect_every=3).several.tolist() == [True, False, False]


def test_face_sizes_are_those_of_the_boxes() -> None:
    sizes = follow(Script([(20, 20)], *[[]] * 6, [(20, 20)]), 8).face_sizes()
    assert sizes.dtype == np.float32
    np.testing.assert_allclose(sizes, [20, *[0] * 6, 20], rtol=1e-5)


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
