"""Pictures and sound made small enough to travel inside a page, in forms that every browser plays.

Videos come at exactly 25 frames per second, so that frame k is row k of what was predicted, and sound as the networks
hear it: 16 kHz, mono.
"""

import contextlib
import io
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from avemo.labels import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from data_pipelines.errors import DataError
from data_pipelines.faces import read_picture
from data_pipelines.video import frames, look_into, play

FRAME_LIMIT = 20 * 60 * FRAME_RATE_HZ
"""Only the first 20 minutes are encoded (our choice): browsers struggle with pages of some hundred megabytes."""

_LINES = 360
_JPEG_QUALITY = 88
_VIDEO_OPTIONS = {"crf": "26", "preset": "veryfast", "g": str(FRAME_RATE_HZ)}
"""A key frame each second, so that any frame is found at once."""

Size = tuple[int, int]
"""Width and height in pixels."""

Moment = tuple[np.ndarray | None, np.ndarray | None]
"""Picture and sound of a frame, where there are any."""


@dataclass(frozen=True, eq=False)
class Media:
    """What a browser shows or plays.

    Attributes:
        kind: what it is.
        data: the content of the file: MP4, or JPEG for a picture.
        size: of the upright source; the file's own may be smaller. (0, 0) for sound.
        frame_count: how many frames of 40 ms it lasts; 1 for a picture.
        complete: whether it holds all of the source, rather than its first 20 minutes.
    """

    kind: Literal["video", "sound", "picture"]
    data: bytes
    size: Size
    frame_count: int
    complete: bool


def encode(source: Path) -> Media:
    """Encode a video as H.264 and AAC, sound as AAC, a picture as JPEG: upright, at most 360 lines, never enlarged.

    Args:
        source: any file that FFmpeg reads.

    Raises:
        DataError: the file can't be opened or decoded, or holds neither pictures nor sound.
    """
    contents = look_into(source)
    if contents.picture:
        return _encode_picture(source)
    if not contents.video:
        return _encode_mp4(source, None, contents.sound)
    image = next(frames(source, _untold), None)
    if image is None:
        raise DataError(f"{source}: holds no picture; fetch the file anew")
    height, width, _ = image.shape
    return _encode_mp4(source, (width, height), contents.sound)


def _encode_picture(source: Path) -> Media:
    decoded = read_picture(source, upright=True)
    if isinstance(decoded, str):
        raise DataError(f"{source}: {decoded}; fetch the file anew")
    image = Image.fromarray(decoded)
    size = image.size
    image.thumbnail((image.width, _LINES))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return Media("picture", file.getvalue(), size, 1, True)


def _encode_mp4(source: Path, size: Size | None, has_sound: bool) -> Media:
    """Encode the sound of a file and, unless their size is None, its pictures, one 40 ms frame after the other.

    Sound ends with the pictures, and both where the file turns out to be broken. What is encoded goes to a file on disk
    first: for a fast start, MP4 is written twice.
    """
    if size is None and not has_sound:
        raise DataError(f"{source}: holds neither pictures nor sound; give another file")
    blocks = _blocks(source)
    moments: Iterator[Moment]
    if size is None:
        moments = ((None, block) for block in blocks)
    else:
        moments = zip(frames(source, _untold), itertools.chain(blocks, itertools.repeat(None)), strict=False)
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "media.mp4"
        with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
            video = audio = None
            if size is not None:
                video = container.add_stream("libx264", rate=FRAME_RATE_HZ, options=_VIDEO_OPTIONS)
                video.width, video.height = _reduced(size)
                video.pix_fmt = "yuv420p"
            if has_sound:
                audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            shown = tqdm(itertools.islice(moments, FRAME_LIMIT), desc=f"encode {source.name}", unit="frame")
            for count, (image, block) in enumerate(_until_broken(shown), start=1):
                if video is not None and image is not None:
                    container.mux(video.encode(_picture(image, video.width, video.height, count - 1)))
                if audio is not None and block is not None:
                    container.mux(audio.encode(_sound(block, count - 1)))
            for stream in (video, audio):
                if stream is not None:
                    container.mux(stream.encode(None))
        complete = next(_until_broken(moments), None) is None
        return Media("sound" if size is None else "video", file.read_bytes(), size or (0, 0), count, complete)


def _blocks(source: Path) -> Iterator[np.ndarray]:
    """The sound of a file, frame by frame; the last block may be shorter."""
    rest = np.zeros(0, np.float32)
    for _, samples in play(source, pictures=False, damage=_untold):
        rest = np.concatenate([rest, samples])
        whole = len(rest) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
        yield from rest[:whole].reshape(-1, SAMPLES_PER_FRAME)
        rest = rest[whole:]
    if len(rest):
        yield rest


def _untold(kind: str) -> None:
    """What is damaged is left out as in the prediction, which has told it."""


def _until_broken(moments: Iterator[Moment]) -> Iterator[Moment]:
    """What can be read of a file."""
    with contextlib.suppress(DataError):
        yield from moments


def _picture(image: np.ndarray, width: int, height: int, number: int) -> av.VideoFrame:
    """A frame, uint8 RGB H×W×3, scaled for the encoder."""
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame = frame.reformat(width, height, "yuv420p", interpolation="AREA")
    frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE_HZ)
    return frame


def _sound(samples: np.ndarray, number: int) -> av.AudioFrame:
    """The samples of a frame, float32, for the encoder."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE_HZ
    frame.pts, frame.time_base = number * SAMPLES_PER_FRAME, Fraction(1, SAMPLE_RATE_HZ)
    return frame


def _reduced(size: Size) -> Size:
    """The same shape with at most 360 lines; both numbers are even, as H.264 wants them."""
    scale = min(1.0, _LINES / size[1])
    return max(2, 2 * round(scale * size[0] / 2)), max(2, 2 * round(scale * size[1] / 2))
