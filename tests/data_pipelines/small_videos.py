"""Small videos, written by FFmpeg."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


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
