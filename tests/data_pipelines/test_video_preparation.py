"""Video: 25 upright frames per second whatever the file's rate, and the sound track."""

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition
from small_videos import write_sound_only, write_timed, write_video

from data_pipelines.errors import DataError
from data_pipelines.video import frames, has_video, is_resampled, load_sound_track


def numbers(path: Path, step: int = 2) -> list[int]:
    return [round(float(image.mean()) / step) for image in frames(path)]


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
