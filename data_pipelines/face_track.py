"""The face of a recording, followed from its first frame to its last, and cut out of every frame.

The whole is known before anything is cut, so faces between two others can be filled in; for what comes as it happens
see `face_follower`. Memory stays constant however long a video is: its frames are decoded one after another, and
twice: once to find the face, once to cut it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from data_pipelines.faces import (
    SAME_FACE_DISTANCE,
    CropConfig,
    FaceFinder,
    FoundFace,
    align_by_landmarks,
    encode_jpeg,
    face_side,
)
from data_pipelines.video import frames

_SMOOTHING_FRAMES = 1.5
"""Standard deviation of the smoothing of landmarks over time (our choice): removes jitter, keeps nods."""

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
            sizes[number] = face_side(self.landmarks[number])
        return sizes


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
    if _distance(nearest, last.face) <= SAME_FACE_DISTANCE * (last.face.box[2] - last.face.box[0]):
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
