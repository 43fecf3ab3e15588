"""Video: frames at 25 Hz, the sound track, and one aligned face per frame. Frames are uint8 RGB, H×W×3.

Frames come upright: turned and mirrored as the file says, which phones make use of. Memory stays constant however
long the video is: frames are decoded one after another, and twice: once to find the face, once to cut it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from scipy.ndimage import gaussian_filter1d

from avemo.labels import FRAME_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.faces import (
    FACE_TEMPLATE,
    CropConfig,
    FaceFinder,
    FoundFace,
    align_by_landmarks,
    encode_jpeg,
    similarity_transform,
)
from data_pipelines.sound import check_numbers, resample

_SMOOTHING_FRAMES = 1.5
"""Standard deviation of the smoothing of landmarks over time (our choice): removes jitter, keeps nods."""

_SAME_FACE_DISTANCE = 0.75
"""A face this far from the last one, in units of its side, is still the same face (our choice)."""

_BRIDGED_FRAMES = 5
"""Up to so many frames without a face (0.2 s) between two with the same one are bridged (our choice): a detector
misses blurred frames, but nobody leaves and comes back that fast."""


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """Where the face is in each frame.

    Attributes:
        landmarks: float64, T×5×2, in pixels, in the order of `faces.FACE_TEMPLATE`; zeros where there is
            none.
        valid: bool, T: whether the frame has a face.
        several: bool, T: whether more than one face was found in it; False where none was looked for.
        bridged: bool, T: whether its face was missed and lies between those of the frames around.
    """

    landmarks: np.ndarray
    valid: np.ndarray
    several: np.ndarray
    bridged: np.ndarray

    def face_sizes(self) -> np.ndarray:
        """Side in pixels of the face box that the landmarks imply, without margin: float32, T; 0 without a face."""
        sizes = np.zeros(len(self.valid), np.float32)
        for number in np.flatnonzero(self.valid):
            matrix = similarity_transform(self.landmarks[number], FACE_TEMPLATE)
            sizes[number] = 1 / np.hypot(matrix[0, 0], matrix[1, 0])
        return sizes


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


def has_video(path: Path) -> bool:
    """Whether a file has pictures that move; those that only decorate a sound file don't count.

    Raises:
        DataError: The file can't be opened.
    """
    with _open(path) as container:
        return _video_stream(container) is not None


def is_resampled(path: Path) -> bool:
    """Whether `frames` leaves frames of a video out or repeats some: whether it isn't at 25 Hz throughout.

    Read from the times in the container; nothing is decoded.

    Args:
        path: A video, see `has_video`.

    Raises:
        DataError: The file can't be read.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        if stream is None or not stream.time_base:
            return False
        try:
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.FFmpegError as error:
            raise DataError(f"{path}: broken video ({error}); fetch the file anew") from error
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        if len(times) < len(packets):  # Files without times say only how many frames they have per second.
            return stream.average_rate not in (None, FRAME_RATE_HZ)
        numbers = [round((time - times[0]) * stream.time_base * FRAME_RATE_HZ) for time in times]
        return numbers != list(range(len(numbers)))


def load_sound_track(path: Path) -> np.ndarray:
    """The sound of a video file, from the time of its first frame on.

    Args:
        path: Any container that FFmpeg reads.

    Returns:
        float32 in [-1, 1], mono (the mean of the channels), 16 kHz; empty if the file has no sound.

    Raises:
        DataError: The file can't be opened, or its sound can't be decoded.
    """
    with _open(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        stream = container.streams.audio[0]
        rate_hz = stream.rate
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate_hz)
        try:
            parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{path}: broken sound ({error}); fetch the file anew") from error
        video = _video_stream(container)
        sound_start = _seconds(stream)
        video_start = _seconds(video) if video else sound_start
    if not parts:
        return np.zeros(0, np.float32)
    samples = np.concatenate(parts, axis=1).mean(axis=0)
    lead = round(float(sound_start - video_start) * rate_hz)
    samples = np.pad(samples, (lead, 0)) if lead > 0 else samples[-lead:]
    check_numbers(samples, path)
    return resample(samples.astype(np.float32), rate_hz)


def track_face(images: Iterator[np.ndarray], finder: FaceFinder, detect_every: int) -> FaceTrack:
    """Follows one face through a video: the largest at first, then the one nearest to where it was.

    Between two detections of the same face its landmarks are interpolated, also where misses of at most five frames
    lie between them; between a detection and a longer miss the detection's are held, between two faces the nearer
    one's. Frames with a face on neither side have none. Finally landmarks are smoothed.

    Args:
        images: The frames.
        finder: Finds faces.
        detect_every: Look for faces in every n-th frame.

    Returns:
        The track of all T frames.
    """
    detections: list[_Detection | None] = []
    several: list[bool] = []
    last: _Detection | None = None
    for number, image in enumerate(images):
        several.append(False)
        if number % detect_every == 0:
            found = finder.find(image)
            several[number] = len(found) > 1
            detections.append(_follow(found, last))
            last = detections[-1] or last
    return _fill(_bridge(detections, detect_every), np.array(several, bool), detect_every)


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


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The pictures of a file; not the cover of an album."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


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
        stream = _video_stream(container)
        if stream is None:
            raise DataError(f"{path}: has no video stream; give a video")
        stream.thread_type = "AUTO"
        duration = 1 / Fraction(stream.average_rate or FRAME_RATE_HZ)
        first: Fraction | None = None
        try:
            for number, frame in enumerate(container.decode(stream)):
                time = number * duration  # Files without times say only how many frames they have per second.
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base
                first = time if first is None else first
                yield _TimedFrame(_upright(frame), time - first, duration)
        except av.FFmpegError as error:
            raise DataError(f"{path}: broken video ({error}); fetch the file anew") from error


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """A frame as it is to be shown: turned by quarters and mirrored as its display matrix says."""
    image = frame.to_ndarray(format="rgb24")
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is None:
        return image
    # Of x' = a·x + c·y, y' = b·x + d·y, in rows (a, b, 0), (c, d, 0), only the signs matter for quarter turns.
    a, b, _, c, d = np.frombuffer(display, np.int32)[:5].tolist()  # type: ignore[call-overload]  # It is a buffer.
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@dataclass(frozen=True, eq=False)
class _Detection:
    """A face in one frame; detections of the same face share their identity. A bridged one was missed."""

    face: FoundFace
    identity: int
    bridged: bool = False


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


def _bridge(detections: Sequence[_Detection | None], detect_every: int) -> list[_Detection | None]:
    """The same with short runs of misses filled, between two detections of one face, by what lies between."""
    bridged = list(detections)
    found = [(place, detection) for place, detection in enumerate(detections) if detection is not None]
    for (first, before), (second, after) in itertools.pairwise(found):
        if before.identity == after.identity and (second - first - 1) * detect_every <= _BRIDGED_FRAMES:
            for place in range(first + 1, second):
                landmarks = _between(before, after, (place - first) / (second - first))
                bridged[place] = _Detection(replace(before.face, landmarks=landmarks), before.identity, bridged=True)
    return bridged


def _between(before: _Detection, after: _Detection, share: float) -> np.ndarray:
    return (1 - share) * before.face.landmarks + share * after.face.landmarks


def _fill(detections: Sequence[_Detection | None], several: np.ndarray, detect_every: int) -> FaceTrack:
    """The track of all frames from the detections in every n-th."""
    count = len(several)
    landmarks, identity, bridged = np.zeros((count, 5, 2)), np.full(count, -1), np.zeros(count, bool)
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
        bridged[number] = all(detection is None or detection.bridged for detection in (before, after))
        if before is not None and after is not None and before.identity == after.identity:
            landmarks[number] = _between(before, after, share)
    return FaceTrack(_smooth(landmarks, identity), identity >= 0, several, bridged)


def _smooth(landmarks: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Smooths each unbroken run of one face by itself."""
    runs = np.split(landmarks, np.flatnonzero(np.diff(identity)) + 1)
    return np.concatenate([gaussian_filter1d(run, _SMOOTHING_FRAMES, axis=0, mode="nearest") for run in runs])
