"""Pictures of synthetic faces: painted twice as large with OpenCV, lit, made smaller, blurred and grained."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from data_pipelines.synthetic.face_geometry import Placement, face_box, face_curves, landmarks_68
from data_pipelines.synthetic.face_model import Colour, FaceParameters, Light

_SUPERSAMPLING = 2
_SHIFT = 4
"""Fractional bits of the coordinates given to OpenCV."""
_SIDES = (("left", -1.0), ("right", 1.0))
"""Sides of the image, not of the person."""


@dataclass(frozen=True)
class DrawnFace:
    """Where a face came to lie in its picture."""

    landmarks: np.ndarray
    """(68, 2) float64: x, y in pixels, in iBUG's order."""
    box: tuple[float, float, float, float]
    """x, y of the top left corner, width and height in pixels."""


def draw_face(parameters: FaceParameters, size: int, rng: np.random.Generator) -> tuple[np.ndarray, DrawnFace]:
    """A square portrait with a little of the shoulders.

    Args:
        parameters: What to draw.
        size: Width and height in pixels.
        rng: Draws the background and the grain, nothing of the face.

    Returns:
        The picture, uint8 RGB of shape (size, size, 3), and where its face lies.
    """
    image, faces = draw_photograph([(parameters, Placement(0.5 * size, 0.47 * size, 0.27 * size))], size, size, rng)
    return image, faces[0]


def draw_photograph(
    people: Sequence[tuple[FaceParameters, Placement]], height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[DrawnFace]]:
    """A picture of several people, later ones before earlier ones.

    Args:
        people: What each looks like and where each stands.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        rng: Draws the background and the grain.

    Returns:
        The picture, uint8 RGB of shape (height, width, 3), and where each face lies, in `people`'s order.
    """
    large = _background(height * _SUPERSAMPLING, width * _SUPERSAMPLING, rng)
    all_curves = [face_curves(parameters, placement) for parameters, placement in people]
    for (parameters, placement), curves in zip(people, all_curves, strict=True):
        _Painter(large, parameters, placement, curves).paint()
    image = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    for (parameters, placement), curves in zip(people, all_curves, strict=True):
        _light_head(image, parameters.light, placement, curves)
    image = cv2.GaussianBlur(image, (3, 3), 0.5)
    faces = []
    for curves in all_curves:
        landmarks = landmarks_68(curves)
        faces.append(DrawnFace(landmarks, face_box(landmarks)))
    return _grain(image, rng), faces


def draw_background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A picture with nobody in it, uint8 RGB of shape (height, width, 3)."""
    return _grain(_background(height, width, rng), rng)


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Something far out of focus."""
    patches = rng.uniform(60, 200) + rng.normal(0, 20, (4, 4, 1)) + rng.normal(0, 8, (4, 4, 3))
    small = np.clip(patches, 10, 245).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@cache
def _grain_tile() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3.0, (1024, 1024, 3)).round().astype(np.int16)


def _grain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of a camera, cut at a random place out of one large tile as drawing it anew would take long."""
    height, width = image.shape[:2]
    tile = _grain_tile()
    top, left = rng.integers(0, tile.shape[0] - height), rng.integers(0, tile.shape[1] - width)
    return cv2.add(image, tile[top : top + height, left : left + width], dtype=cv2.CV_8U)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with a share of `other` in it."""
    share = min(max(share, 0.0), 1.0)
    return (
        round(colour[0] + (other[0] - colour[0]) * share),
        round(colour[1] + (other[1] - colour[1]) * share),
        round(colour[2] + (other[2] - colour[2]) * share),
    )


def _darker(colour: Colour, share: float) -> Colour:
    return _mix(colour, (20, 8, 6), share)


def _fixed_point(points_Nx2: np.ndarray, scale: float) -> np.ndarray:
    # OpenCV counts from the middle of the first pixel, we from its corner.
    return np.rint((points_Nx2 * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


class _Painter:
    """Paints one person on a canvas that is `_SUPERSAMPLING` times as large as the picture."""

    def __init__(
        self,
        canvas: np.ndarray,
        parameters: FaceParameters,
        placement: Placement,
        curves: dict[str, np.ndarray],
    ) -> None:
        self.canvas = canvas
        self.identity = parameters.identity
        self.expression = parameters.expression
        self.placement = placement
        self.curves = curves
        self.unit = placement.half_width * _SUPERSAMPLING
        self.points: dict[str, np.ndarray] = {}
        fixed, start = _fixed_point(np.concatenate(list(curves.values())), _SUPERSAMPLING), 0
        for name, curve in curves.items():
            self.points[name] = fixed[start : start + len(curve)]
            start += len(curve)

    def paint(self) -> None:
        """From back to front."""
        self._body()
        self._head()
        self._skin_folds()
        for side, _ in _SIDES:
            self._eye(side)
        self._nose()
        self._mouth()
        for side, _ in _SIDES:
            self._fill(f"{side} brow outline", self._brow_colour())
        self._hair()

    def _brow_colour(self) -> Colour:
        return _mix(_darker(self.identity.hair, 0.35), self.identity.skin, 0.12)

    def _fill_points(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.canvas, [points], colour, cv2.LINE_AA, _SHIFT)

    def _fill(self, name: str, colour: Colour) -> None:
        self._fill_points(self.points[name], colour)

    def _fill_between(self, first: str, second: str, colour: Colour) -> None:
        self._fill_points(np.concatenate([self.points[first], self.points[second][::-1]]), colour)

    def _line(self, name: str, colour: Colour, thickness: float) -> None:
        width = max(1, round(thickness * self.unit))
        cv2.polylines(self.canvas, [self.points[name]], False, colour, width, cv2.LINE_AA, _SHIFT)

    def _disc(self, centre: np.ndarray, radius: tuple[float, float], colour: Colour) -> None:
        x, y = (round(float(value)) for value in centre)
        axes = (
            max(1, round(radius[0] * self.unit * (1 << _SHIFT))),
            max(1, round(radius[1] * self.unit * (1 << _SHIFT))),
        )
        cv2.ellipse(self.canvas, (x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)

    def _body(self) -> None:
        identity, skin = self.identity, self.identity.skin
        if "back hair" in self.points:
            self._fill("back hair", _darker(identity.hair, 0.25))
        x, y, half = self.placement.x, self.placement.y, self.placement.half_width
        chin = self.curves["jaw"][8]
        neck_x = (0.35 * chin[0] + 0.65 * x) + half * np.array([-0.52, -0.56, -0.66, 0.66, 0.56, 0.52])
        neck_y = y + half * np.array([0.6, 1.3, 1.75, 1.75, 1.3, 0.6])
        self._fill_points(_fixed_point(np.c_[neck_x, neck_y], _SUPERSAMPLING), _darker(skin, 0.22))
        across = np.linspace(-1.0, 1.0, 15)
        shoulder_y = y + half * (1.52 + 0.1 * np.cos(np.pi * across) + 0.9 * across**2)
        shoulder_x = x + half * 2.3 * across
        floor = self.canvas.shape[0] / _SUPERSAMPLING + 2
        body = np.c_[np.r_[shoulder_x, shoulder_x[[-1, 0]]], np.r_[shoulder_y, floor, floor]]
        self._fill_points(_fixed_point(body, _SUPERSAMPLING), identity.clothes)

    def _head(self) -> None:
        skin = self.identity.skin
        for side, _ in _SIDES:
            self._fill(f"{side} ear", _darker(skin, 0.12))
        self._fill("head", skin)

    def _skin_folds(self) -> None:
        expression, skin = self.expression, self.identity.skin
        fold = max(expression.lip_corner, expression.nose_wrinkle, 0.8 * expression.upper_lip_raise, 0.0)
        for side, sign in _SIDES:
            one_sided = max(fold, sign * expression.corner_asymmetry)
            self._line(f"{side} fold", _darker(skin, 0.06 + 0.3 * one_sided), 0.025 + 0.015 * one_sided)
            self._line(f"{side} bag", _darker(skin, 0.1 + 0.22 * expression.squint), 0.025)
            if expression.brow_furrow > 0.1:
                self._line(f"{side} frown line", _darker(skin, 0.45 * expression.brow_furrow), 0.03)
            if expression.nose_wrinkle > 0.1:
                colour = _darker(skin, 0.5 * expression.nose_wrinkle)
                for number in range(3):
                    self._line(f"{side} nose wrinkle {number}", colour, 0.025)

    def _eye(self, side: str) -> None:
        identity, skin = self.identity, self.identity.skin
        upper, lower = self.points[f"{side} upper lid"], self.points[f"{side} lower lid"]
        outline = np.concatenate([upper, lower[::-1]])
        self._line(f"{side} crease", _darker(skin, 0.22), 0.03)
        low = np.maximum(outline.min(axis=0) // (1 << _SHIFT) - 2, 0)
        high = outline.max(axis=0) // (1 << _SHIFT) + 3
        window = self.canvas[low[1] : high[1], low[0] : high[0]]
        if window.size == 0:
            return
        before = window.copy()
        window[:] = (236, 234, 230)
        iris = self.points[f"{side} iris"][0]
        radius = 0.1 * identity.eye_size
        self._disc(iris, (radius, radius), _darker(identity.eye, 0.35))
        self._disc(iris, (0.82 * radius, 0.82 * radius), identity.eye)
        self._disc(iris, (0.42 * radius, 0.42 * radius), (12, 10, 10))
        glint = iris - np.array([0.03, 0.035]) * self.unit * (1 << _SHIFT)
        self._disc(glint, (0.022, 0.022), (250, 250, 250))
        mask = np.zeros(window.shape[:2], np.uint8)
        cv2.fillPoly(mask, [outline - (low << _SHIFT).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
        inside = mask.astype(np.float32) / 255
        window[:] = cv2.blendLinear(window, before, inside, 1 - inside)
        self._line(f"{side} lower lid", _darker(skin, 0.35), 0.015)
        self._line(f"{side} upper lid", _darker(identity.hair, 0.5), 0.04)

    def _nose(self) -> None:
        skin = self.identity.skin
        for side, _ in _SIDES:
            self._line(f"{side} flank", _darker(skin, 0.1), 0.035)
            self._line(f"{side} ala", _darker(skin, 0.3), 0.025)
            self._disc(self.points[f"{side} nostril"][0], (0.055, 0.03), _darker(skin, 0.7))
        self._line("nose base", _darker(skin, 0.28), 0.025)
        self._disc(self.points["bridge"][3], (0.07, 0.06), _mix(skin, (255, 250, 244), 0.25))

    def _mouth(self) -> None:
        skin = self.identity.skin
        lips = _mix(_darker(skin, 0.12), (186, 62, 66), 0.45)
        self._line("under lip", _darker(skin, 0.16), 0.04)
        for side, _ in _SIDES:
            self._line(f"{side} dimple", _darker(skin, 0.4), 0.03)
        self._fill_between("outer top", "outer bottom", lips)
        self._fill_between("outer top", "inner top", _darker(lips, 0.12))
        self._fill_between("inner top", "inner bottom", (58, 18, 20))
        if self.expression.mouth_open > 0.3:
            tongue = np.concatenate([self.points["tongue"], self.points["inner bottom"][4:-4][::-1]])
            self._fill_points(tongue, (150, 64, 66))
        self._fill_between("inner top", "upper teeth", (236, 230, 220))
        self._line("inner top", _darker(lips, 0.55), 0.022)
        self._line("inner bottom", _darker(lips, 0.35), 0.015)

    def _hair(self) -> None:
        if "hair" in self.points:
            self._fill("hair", self.identity.hair)


def _light_head(image: np.ndarray, light: Light, placement: Placement, curves: dict[str, np.ndarray]) -> None:
    """Light the head, in place, as an ellipsoid with darker eye sockets and a shadow of the nose."""
    half = placement.half_width
    outline = np.concatenate([curves["head"], *(curves[f"{side} ear"] for side, _ in _SIDES)])
    if "hair" in curves:
        outline = np.concatenate([outline, curves["hair"]])
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 2, 0)
    high = np.ceil(outline.max(axis=0)).astype(int) + round(0.5 * half)
    window = image[low[1] : high[1], low[0] : high[0]]
    if window.size == 0:
        return
    height, width = window.shape[:2]

    head = np.zeros((height, width), np.uint8)
    for name in ("left ear", "right ear", "head", "hair"):
        if name in curves:
            cv2.fillPoly(head, [_fixed_point(curves[name] - low, 1)], 255, cv2.LINE_AA, _SHIFT)
    rows = ((np.arange(height, dtype=np.float32) + low[1] - placement.y) / (1.5 * half))[:, None]
    columns = ((np.arange(width, dtype=np.float32) + low[0] - placement.x) / (1.2 * half))[None]
    towards_camera = np.sqrt(np.maximum(0.0, 1.0 - rows**2 - columns**2))
    lambert = columns * np.float32(light.x) + rows * np.float32(light.y) + towards_camera
    lambert = np.maximum(lambert, 0.0) * np.float32(1.35 / np.sqrt(light.x**2 + light.y**2 + 1.0))
    lit = 1.0 + np.float32(light.strength) * (lambert - 1.0) * (head * np.float32(1 / 255))
    # Factors in 128ths: bytes are multiplied many times faster than floats.
    shade = cv2.multiply(lit, _soft_shadows(height, width, low, half, light, curves), scale=128, dtype=cv2.CV_8U)
    cv2.multiply(window, cv2.merge([shade] * 3), window, scale=1 / 128)


def _soft_shadows(
    height: int, width: int, origin: np.ndarray, half: float, light: Light, curves: dict[str, np.ndarray]
) -> np.ndarray:
    """Factors (height, width) for eye sockets, the side of the nose and the throat.

    They are painted at a third of the size: what is blurred anyway needs no more.
    """
    small = np.ones((height // 3 + 1, width // 3 + 1), np.float32)

    def dim(centre: np.ndarray, radius: tuple[float, float], factor: float) -> None:
        x, y = _fixed_point(centre - origin, 1 / 3).tolist()
        axes = [max(1, round(value * half / 3 * (1 << _SHIFT))) for value in radius]
        cv2.ellipse(small, (x, y), axes, 0, 0, 360, factor, -1, cv2.LINE_8, _SHIFT)

    for side, _ in _SIDES:
        dim(curves[f"{side} iris"][0] - (0, 0.05 * half), (0.3, 0.2), 0.85)
    beside_nose = curves["bridge"][2] - (np.sign(light.x) * 0.17 * half, 0.0)
    dim(beside_nose, (0.07, 0.22), 1.0 - 0.35 * light.strength)
    dim(curves["jaw"][8] + (0, 0.2 * half), (0.6, 0.14), 0.75)
    blurred = cv2.GaussianBlur(small, (0, 0), 0.03 * half)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
