"""Video: frames at 25 Hz, the sound track, and one aligned face per frame. Frames are uint8 RGB, H×W×3.

Memory stays constant however long the video is: frames are decoded one after another, and twice: once to find
the face, once to cut it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scipy.ndimage import gaussian_filter1d

from avemo.labels import FRAME_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.faces import CropConfig, FaceFinder, FoundFace, align_by_landmarks, encode_jpeg
from data_pipelines.sound import resample

_SMOOTHING_FRAMES = 1.5
"""Standard deviation of the smoothing of landmarks over time (our choice): removes jitter, keeps nods."""

_SAME_FACE_DISTANCE = 0.75
"""A face this far from the last one, in units of its side, is still the same face (our choice)."""


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """Where the face is in each frame.

    Attributes:
        landmarks: float64, T×5×2, in pixels, in the order of `faces.FACE_TEMPLATE`; zeros where there is
            none.
        valid: bool, T: whether the frame has a face.
    """

    landmarks: np.ndarray
    valid: np.ndarray


def frames(path: Path) -> Iterator[np.ndarray]:
    """Decodes a video at 25 frames per second.

    Frame k is the one whose time is nearest to k / 25 s after the first; a video at 25 Hz keeps every frame,
    of others some are left out or repeated. A video that lasts D seconds gives 25 · D frames, rounded.

    Args:
        path: Any video that FFmpeg reads.

    Yields:
        uint8 RGB, H×W×3; the same array may be yielded more than once.

    Raises:
        DataError: The file can't be opened or has no video stream.
    """
    number = 0
    shown: _TimedFrame | None = None
    for frame in _timed_frames(path):
        if shown is not None:
            while Fraction(number, FRAME_RATE_HZ) <= (shown.start + frame.start) / 2:
                yield shown.image
                number += 1
        shown = frame
    while shown is not None and number < round((shown.start + shown.duration) * FRAME_RATE_HZ):
        yield shown.image
        number += 1


def load_sound_track(path: Path) -> np.ndarray:
    """The sound of a video file, from the time of its first frame on.

    Args:
        path: Any container that FFmpeg reads.

    Returns:
        float32 in [-1, 1], mono (the mean of the channels), 16 kHz; empty if the file has no sound.

    Raises:
        DataError: The file can't be opened.
    """
    with _open(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        stream = container.streams.audio[0]
        rate_hz = stream.rate
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate_hz)
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
        sound_start = _seconds(stream)
        video_start = _seconds(container.streams.video[0]) if container.streams.video else sound_start
    if not parts:
        return np.zeros(0, np.float32)
    samples = np.concatenate(parts, axis=1).mean(axis=0)
    lead = round(float(sound_start - video_start) * rate_hz)
    samples = np.pad(samples, (lead, 0)) if lead > 0 else samples[-lead:]
    return resample(samples.astype(np.float32), rate_hz)


def track_face(images: Iterator[np.ndarray], finder: FaceFinder, detect_every: int) -> FaceTrack:
    """Follows one face through a video: the largest at first, then the one nearest to where it was.

    Between two detections of the same face its landmarks are interpolated; between a detection and a miss, or
    another face, the nearer end's are held. Frames with a face on neither side have none. Finally landmarks
    are smoothed.

    Args:
        images: The frames.
        finder: Finds faces.
        detect_every: Look for faces in every n-th frame.

    Returns:
        The track of all T frames.
    """
    detections: list[_Detection | None] = []
    count = 0
    last: _Detection | None = None
    for number, image in enumerate(images):
        count = number + 1
        if number % detect_every == 0:
            detections.append(_follow(finder.find(image), last))
            last = detections[-1] or last
    return _fill(detections, count, detect_every)


def face_crops(path: Path, track: FaceTrack, config: CropConfig) -> Iterator[bytes]:
    """Cuts the tracked face out of every frame.

    Args:
        path: The video.
        track: Its track.
        config: How to cut and encode.

    Yields:
        One JPEG per frame; black where the frame has no face.
    """
    black = black_jpeg(config)
    for image, landmarks, valid in zip(frames(path), track.landmarks, track.valid, strict=True):
        yield (encode_jpeg(align_by_landmarks(image, landmarks, config), config.jpeg_quality) if valid else black)


def black_jpeg(config: CropConfig) -> bytes:
    """What stands in for a frame without a face."""
    return encode_jpeg(np.zeros((config.size, config.size, 3), np.uint8), config.jpeg_quality)


def _open(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: can't be opened as video ({error}); fetch the file anew") from error


def _seconds(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """When a stream begins."""
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


@dataclass(frozen=True, eq=False)
class _TimedFrame:
    """A frame, when it begins (in seconds after the first) and how long it is shown."""

    image: np.ndarray
    start: Fraction
    duration: Fraction


def _timed_frames(path: Path) -> Iterator[_TimedFrame]:
    """Every frame of a video with its time."""
    with _open(path) as container:
        if not container.streams.video:
            raise DataError(f"{path}: has no video stream; give a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        duration = 1 / Fraction(stream.average_rate or FRAME_RATE_HZ)
        first: Fraction | None = None
        try:
            for number, frame in enumerate(container.decode(stream)):
                time = number * duration  # Files without times say only how many frames they have per second.
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base
                first = time if first is None else first
                yield _TimedFrame(frame.to_ndarray(format="rgb24"), time - first, duration)
        except av.FFmpegError as error:
            raise DataError(f"{path}: broken video ({error}); fetch the file anew") from error


@dataclass(frozen=True, eq=False)
class _Detection:
    """A face in one frame; detections of the same face share their identity."""

    face: FoundFace
    identity: int


def _follow(found: list[FoundFace], last: _Detection | None) -> _Detection | None:
    """The face to go on with, out of those found in a frame, largest first."""
    if not found:
        return None
    if last is None:
        return _Detection(found[0], 0)
    nearest = min(found, key=lambda face: _distance(face, last.face))
    if _distance(nearest, last.face) <= _SAME_FACE_DISTANCE * (last.face.box[2] - last.face.box[0]):
        return _Detection(nearest, last.identity)
    return _Detection(found[0], last.identity + 1)


def _distance(face: FoundFace, other: FoundFace) -> float:
    return float(np.linalg.norm(face.landmarks.mean(0) - other.landmarks.mean(0)))


def _fill(detections: list[_Detection | None], count: int, detect_every: int) -> FaceTrack:
    """The track of all frames from the detections in every n-th."""
    landmarks, identity = np.zeros((count, 5, 2)), np.full(count, -1)
    for number in range(count):
        step, rest = divmod(number, detect_every)
        share = rest / detect_every
        before = detections[step]
        after = detections[min(step + 1, len(detections) - 1)] if rest else before
        nearer = after if before is None or (after is not None and share > 0.5) else before
        if nearer is None:
            continue
        identity[number] = nearer.identity
        landmarks[number] = nearer.face.landmarks
        if before is not None and after is not None and before.identity == after.identity:
            landmarks[number] = (1 - share) * before.face.landmarks + share * after.face.landmarks
    return FaceTrack(_smooth(landmarks, identity), identity >= 0)


def _smooth(landmarks: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Smooths each unbroken run of one face by itself."""
    runs = np.split(landmarks, np.flatnonzero(np.diff(identity)) + 1)
    return np.concatenate([gaussian_filter1d(run, _SMOOTHING_FRAMES, axis=0, mode="nearest") for run in runs])
