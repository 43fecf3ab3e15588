"""Faces followed frame by frame as a video comes: found now and then, moved on by optical flow in between.

Nothing that comes later is known here; for recordings that are there as a whole see `face_track`.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from data_pipelines.faces import SAME_FACE_DISTANCE, FaceFinder, FoundFace, face_box, face_side

DETECT_EVERY = 12
"""Faces are looked for in every twelfth frame (0.48 s; our choice), and where they seem to be lost."""

SEARCH_EVERY = 5
"""Where there is no face, faces are looked for in every fifth frame (0.2 s; our choice)."""

_TRUST = 0.5
"""How far a face that was followed goes towards where it was found anew (our choice: it must not jump)."""

_LOOKS_MISSED = 2
"""A face that wasn't found so many times in a row has gone (our choice)."""

_WORKING_LINES = 360
_WORKING_SIDE = 96
"""Pixels to which a picture, and then a face's surroundings of twice its side, are shrunk to follow it (our choice)."""

_POINTS = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 8), np.linspace(0.1, 0.95, 8)), axis=-1).reshape(-1, 2)
"""What is followed: points all over the face box, as fractions of it."""

_FLOW = {
    "winSize": (13, 13),
    "maxLevel": 2,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
}


@dataclass(frozen=True, eq=False)
class FollowedFace:
    """A face in one frame.

    Attributes:
        number: Which face it is; a face that comes back after it had gone has another number.
        landmarks: float64, 5×2, in pixels, in the order of `faces.FACE_TEMPLATE`.
    """

    number: int
    landmarks: np.ndarray


@dataclass(frozen=True, eq=False)
class _Face:
    """As `FollowedFace`, with the number of looks in a row that missed it."""

    number: int
    landmarks: np.ndarray
    missed: int = 0


class FaceFollower:
    """Follows up to so many faces, the largest first; each step takes the next frame of a video at 25 Hz."""

    def __init__(self, faces: int = 1) -> None:
        """Load the detector.

        Args:
            faces: How many faces are followed at most. One alone is looked for where it was, which is much faster;
                several are looked for in the whole picture.

        Raises:
            ValueError: `faces` is less than one.
        """
        if faces < 1:
            raise ValueError(f"faces is {faces}; at least one is to be followed")
        self._most = faces
        self._everywhere = FaceFinder()
        self._nearby = FaceFinder(working_size=120, min_face_share=0.3)
        self._faces: list[_Face] = []
        self._last: np.ndarray | None = None
        self._frame = self._count = 0

    def follow(self, image: np.ndarray) -> list[FollowedFace]:
        """Take the next frame.

        Args:
            image: uint8 RGB, H×W×3.

        Returns:
            The faces in it, in the order in which they were first seen.
        """
        scale = min(1.0, _WORKING_LINES / image.shape[0])
        small = _scaled(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), scale)
        followed = {face.number: _moved(face.landmarks * scale, self._last, small) for face in self._faces}
        lost = [number for number, landmarks in followed.items() if landmarks is None]
        faces = [
            face if (landmarks := followed[face.number]) is None else replace(face, landmarks=landmarks / scale)
            for face in self._faces
        ]
        rhythm = DETECT_EVERY if faces else SEARCH_EVERY
        if lost or self._frame % rhythm == 0:
            faces = self._look(image, faces, lost)
        self._faces, self._last, self._frame = faces, small, self._frame + 1
        return [FollowedFace(face.number, face.landmarks) for face in faces]

    def _look(self, image: np.ndarray, faces: list[_Face], lost: list[int]) -> list[_Face]:
        """The faces after looking for them: found, new, or missed but followed still."""
        found = self._find(image, faces)
        kept = []
        for face in faces:
            distances = [_distance(other.landmarks, face.landmarks) for other in found]
            if distances and min(distances) <= SAME_FACE_DISTANCE * face_side(face.landmarks):
                nearest = found.pop(int(np.argmin(distances)))
                trust = 1.0 if face.number in lost else _TRUST
                landmarks = face.landmarks + trust * (nearest.landmarks - face.landmarks)
                kept.append(replace(face, landmarks=landmarks, missed=0))
            elif face.number not in lost and face.missed + 1 < _LOOKS_MISSED:
                kept.append(replace(face, missed=face.missed + 1))
        for new in found[: self._most - len(kept)]:
            kept.append(_Face(self._count, new.landmarks))
            self._count += 1
        return kept

    def _find(self, image: np.ndarray, faces: list[_Face]) -> list[FoundFace]:
        """The faces in the picture; of one that is followed, only those about it if there are any."""
        if self._most > 1 or not faces:
            return self._everywhere.find(image)
        left, top, right, bottom = _surroundings(faces[0].landmarks, image.shape)
        found = self._nearby.find(image[top:bottom, left:right]) if right > left and bottom > top else []
        if not found:
            return self._everywhere.find(image)
        return [replace(face, landmarks=face.landmarks + np.array([left, top])) for face in found]


def _moved(landmarks: np.ndarray, last: np.ndarray | None, grey: np.ndarray) -> np.ndarray | None:
    """A face's landmarks in the next picture; None where it can't be followed (a cut, something before it)."""
    left, top, right, bottom = _surroundings(landmarks, grey.shape)
    if last is None or last.shape != grey.shape or right - left < 8 or bottom - top < 8:
        return None
    scale = min(1.0, _WORKING_SIDE / (right - left))
    before, after = (_scaled(picture[top:bottom, left:right], scale) for picture in (last, grey))
    x0, y0, x1, _ = face_box(landmarks)
    corner = np.array([left, top])
    points = ((_POINTS * (x1 - x0) + [x0, y0] - corner) * scale).astype(np.float32)[:, None]
    there, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **_FLOW)  # type: ignore[call-overload]
    back, seen_again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **_FLOW)  # type: ignore[call-overload]
    good = (seen & seen_again).ravel().astype(bool) & (np.abs(back - points).max(axis=(1, 2)) < 1)
    if good.sum() < len(_POINTS) / 4:
        return None
    matrix, agreed = cv2.estimateAffinePartial2D(points[good], there[good], ransacReprojThreshold=1.5)
    if matrix is None or agreed.sum() < len(_POINTS) / 4:
        return None
    return (((landmarks - corner) * scale) @ matrix[:, :2].T + matrix[:, 2]) / scale + corner


def _scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    return picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _surroundings(landmarks: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A square of twice the face's side about it, clipped to the picture: left, top, right, bottom."""
    x0, y0, x1, y1 = face_box(landmarks)
    margin = (x1 - x0) / 2
    height, width = shape[:2]
    left, right = np.clip([int(x0 - margin), int(x1 + margin)], 0, width).tolist()
    top, bottom = np.clip([int(y0 - margin), int(y1 + margin)], 0, height).tolist()
    return left, top, right, bottom


def _distance(landmarks: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks.mean(0) - others.mean(0)))
