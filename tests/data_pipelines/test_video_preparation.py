"""Video: 25 upright frames per second whatever the file's rate, and the sound track."""

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from small_videos import write_sound_only, write_timed, write_video

from data_pipelines import video
from data_pipelines.errors import DataError
from data_pipelines.video import frames, has_video, is_resampled, load_sound_track, look_into, play


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


def write_moments(
    path: Path,
    video_from_s: float = 0.0,
    sound_from_s: float = 0.0,
    broken: range = range(0),
    without: range = range(0),
) -> None:
    """2 s from 0 on: the picture at t s is grey of level 100 · t, the sound a constant of t / 4; 25 packets a second.

    Of both only what comes after the given times is written; the pictures' packets `without` are not, and the sound's
    packets `broken` hold nonsense.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1", "g": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("flac" if path.suffix == ".mkv" else "mp2", rate=16_000, layout="mono")
        sound_packets = []
        for k in range(50):
            if k / 25 >= sound_from_s:
                samples = np.full((1, 640), round(k / 100 * 32767), np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, 640 * k, Fraction(1, 16_000)
                sound_packets += sound.encode(frame)
        sound_packets += sound.encode(None)
        for number, packet in enumerate(sound_packets):
            if number in broken:
                nonsense = av.Packet(bytes(100))
                nonsense.pts, nonsense.dts, nonsense.time_base = packet.pts, packet.dts, packet.time_base
                nonsense.stream = sound
                packet = nonsense
            container.mux(packet)
        pictures = [k for k in range(50) if k / 25 >= video_from_s]
        packets = []
        for k in pictures:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        for k, packet in zip(pictures, packets, strict=True):
            if k not in without:
                container.mux(packet)


def played(source: Path | str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """When the pictures were shown, in frames, as their grey tells; and the sound."""
    parts = list(play(source, **options))
    levels = np.array([image.mean() / 4 for kind, image in parts if kind == "picture"])
    return levels, np.concatenate([np.zeros(0), *(samples for kind, samples in parts if kind == "sound")])


@pytest.mark.parametrize(("video_from_s", "sound_from_s"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6)])
def test_sound_begins_with_the_first_picture(tmp_path: Path, video_from_s: float, sound_from_s: float) -> None:
    write_moments(tmp_path / "a.mkv", video_from_s, sound_from_s)
    shown, heard = played(tmp_path / "a.mkv")
    first = round(25 * video_from_s)
    np.testing.assert_allclose(shown, range(first, 50), atol=1)
    middles = heard[320::640]
    wanted = (
        np.arange(first, first + len(middles)) / 100 * (np.arange(first, first + len(middles)) >= 25 * sound_from_s)
    )
    np.testing.assert_allclose(middles, wanted, atol=0.02)
    assert len(middles) >= 50 - first - 1


def test_however_late_the_first_picture_of_a_file_comes_its_sound_begins_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_LONGEST_WAIT_S", 0.2)
    write_moments(tmp_path / "a.mkv", video_from_s=0.8)
    _, heard = played(tmp_path / "a.mkv")
    np.testing.assert_allclose(heard[320::640][:3], [0.2, 0.21, 0.22], atol=0.02)


def test_a_stream_that_is_joined_before_a_key_frame_keeps_sound_and_pictures_together(tmp_path: Path) -> None:
    write_moments(tmp_path / "a.ts", without=range(1))  # the first picture that can be decoded is the tenth
    for source in (tmp_path / "a.ts", str(tmp_path / "a.ts")):  # as a file, and as what a server sends
        shown, heard = played(source)
        assert shown[0] == pytest.approx(10, abs=1)
        delay_s = 481 / 16_000  # of the encoder
        at = heard[320::640]
        np.testing.assert_allclose(at[2:-3] * 100 + 25 * delay_s, np.arange(10, 10 + len(at))[2:-3], atol=1.5)


def test_damaged_packets_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    write_moments(tmp_path / "a.mkv", broken=range(2, 5))
    whole = tmp_path / "whole.mkv"
    write_moments(whole)
    with pytest.raises(DataError, match=r"a\.mkv: broken sound"):
        played(tmp_path / "a.mkv")
    told: list[str] = []
    shown, heard = played(tmp_path / "a.mkv", damage=told.append)
    assert told == ["sound"] * 3
    np.testing.assert_array_equal(shown, played(whole)[0])
    unbroken = played(whole)[1]
    assert len(heard) == len(unbroken)
    differs = np.flatnonzero(np.abs(heard - unbroken) > 0.02)
    assert 0 < np.ptp(differs) < 16_000
    assert np.abs(heard[differs[len(differs) // 2]]) < 0.02


def test_pixels_are_made_square(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 48, 36, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stored = np.zeros((36, 48, 3), np.uint8)
        stored[:, :24] = 200
        container.mux(video.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(video.encode())
    (image,) = frames(tmp_path / "a.mp4")
    assert image.shape == (36, 64, 3)
    np.testing.assert_allclose(image[:, [4, 28, 36, 60], 0].mean(0), [200, 200, 0, 0], atol=12)


def test_of_many_channels_the_front_ones_are_heard(tmp_path: Path) -> None:
    layout = av.AudioLayout("5.1")
    levels = {"FL": 0.1, "FR": 0.2, "FC": 0.3, "LFE": 0.9, "BL": 0.8, "BR": 0.7}
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout=layout)
        samples = np.tile(np.array([levels[channel.name] for channel in layout.channels], np.float32), 16_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout=layout)
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(load_sound_track(tmp_path / "a.wav"), 0.2, atol=1e-5)


def test_how_long_a_file_lasts_is_told_from_its_first_picture(tmp_path: Path) -> None:
    write_moments(tmp_path / "a.mkv", video_from_s=0.6)
    assert look_into(tmp_path / "a.mkv").duration_s == pytest.approx(1.4, abs=0.1)
