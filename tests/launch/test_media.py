import io

import av
import cv2
import numpy as np
import pytest
import soundfile
from grey_videos import write_video
from PIL import Image

from data_pipelines.errors import DataError
from launch import media


def streams(encoded):
    with av.open(io.BytesIO(encoded.data)) as container:
        return {
            stream.type: (stream.codec_context.name, float(stream.duration * stream.time_base))
            for stream in container.streams
        }


def pictures(encoded):
    with av.open(io.BytesIO(encoded.data)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_a_video_keeps_each_frame_at_its_time(tmp_path):
    encoded = media.encode(write_video(tmp_path / "a.mp4", 50, sound_s=2.0))
    assert (encoded.kind, encoded.size, encoded.frame_count, encoded.complete) == ("video", (64, 48), 50, True)
    assert streams(encoded) == {"video": ("h264", 2.0), "audio": ("aac", pytest.approx(2.0, abs=0.1))}
    times, images = zip(*pictures(encoded), strict=True)
    np.testing.assert_allclose(times, np.arange(50) / 25)
    np.testing.assert_allclose([image.mean() for image in images], 16 + 3 * np.arange(50), atol=3)


def test_other_rates_become_25_hz(tmp_path):
    encoded = media.encode(write_video(tmp_path / "a.mp4", 60, rate=30))
    assert encoded.frame_count == len(pictures(encoded)) == 50
    assert streams(encoded) == {"video": ("h264", 2.0)}


@pytest.mark.parametrize(("size", "shown"), [((1280, 720), (640, 360)), ((90, 66), (90, 66)), ((480, 854), (202, 360))])
def test_large_videos_are_reduced_and_small_ones_left(tmp_path, size, shown):
    encoded = media.encode(write_video(tmp_path / "a.mp4", 2, size=size))
    assert encoded.size == size
    assert pictures(encoded)[0][1].shape == (shown[1], shown[0], 3)


def test_a_video_starts_fast(tmp_path):
    data = media.encode(write_video(tmp_path / "a.mp4", 5)).data
    assert data.index(b"moov") < data.index(b"mdat")


def test_sound_alone(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(44_100 * 2) / 20), 44_100)
    encoded = media.encode(tmp_path / "a.wav")
    assert (encoded.kind, encoded.frame_count, encoded.complete) == ("sound", 50, True)
    assert streams(encoded) == {"audio": ("aac", pytest.approx(2.0, abs=0.1))}


def test_a_picture_is_shown_upright(tmp_path):
    stored = np.zeros((400, 800, 3), np.uint8)
    stored[:, :400] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side: its left is the top.
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif)
    encoded = media.encode(tmp_path / "a.jpg")
    assert (encoded.kind, encoded.size, encoded.frame_count) == ("picture", (400, 800), 1)
    shown = cv2.imdecode(np.frombuffer(encoded.data, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (360, 180, 3)
    assert shown[:170].min() > 240
    assert shown[190:].max() < 15


def test_what_is_long_is_cut(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 40, sound_s=1.6)
    monkeypatch.setattr(media, "FRAME_LIMIT", 30)
    encoded = media.encode(source)
    assert (encoded.frame_count, encoded.complete) == (30, False)
    assert streams(encoded)["audio"][1] < 1.3


def test_what_is_no_media_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"a\.mp4"):
        media.encode(tmp_path / "a.mp4")
