"""Where everything in a face lies: parameters to curves in the picture, and the 68 landmarks among them.

Face coordinates: origin between the ears, x to the image's right, y down, z to the camera; the unit is half
the width of the average face.
"""

from dataclasses import dataclass

import numpy as np

from data_pipelines.synthetic.face_model import Expression, FaceParameters, Identity, Pose

_EYE_X, _EYE_Y, _EYE_HALF_WIDTH = 0.43, -0.06, 0.215
_MOUTH_Y = 0.76
_SIDES = (("left", -1.0), ("right", 1.0))

# Curves are drawn over these, made once as faces are drawn by the thousand.
_T = np.linspace(-1.0, 1.0, 17)
_ARCH = 1.0 - _T**2
_OUTWARD = np.linspace(0.0, 1.0, 9)
_QUARTER_TURN = np.linspace(0.0, np.pi / 2, 9)
_HALF_TURN = np.linspace(0.0, np.pi, 15)
_WHOLE_TURN = np.linspace(0.0, 2 * np.pi, 13)[:-1]


@dataclass(frozen=True)
class Placement:
    """Where a face stands in a picture: the middle of the head and half its width, in pixels."""

    x: float
    y: float
    half_width: float


def _points(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float, on_surface: float) -> np.ndarray:
    points = np.empty((max(np.size(x), np.size(y)), 4))
    points[:, 0], points[:, 1], points[:, 2], points[:, 3] = x, y, z, on_surface
    return points


def _curve(x: np.ndarray | float, y: np.ndarray | float, lift: np.ndarray | float = 0.0) -> np.ndarray:
    """Points (N, 4) on the front of the head, `lift` above its surface."""
    return _points(x, y, lift, 1.0)


def _flat(x: np.ndarray | float, y: np.ndarray | float, z: float = 0.0) -> np.ndarray:
    """Points (N, 4) in one plane."""
    return _points(x, y, z, 0.0)


def _head(identity: Identity, expression: Expression) -> dict[str, np.ndarray]:
    jaw_drop = 0.16 * expression.mouth_open
    jaw_x = np.abs(np.cos(_QUARTER_TURN)) ** identity.jaw
    jaw_y = 0.02 + (1.24 + jaw_drop) * np.sin(_QUARTER_TURN)
    jaw = _flat(np.concatenate([-jaw_x, jaw_x[-2::-1]]), np.concatenate([jaw_y, jaw_y[-2::-1]]))
    crown = _flat(np.cos(_HALF_TURN), 0.02 - 1.34 * np.sin(_HALF_TURN))
    shapes = {"jaw": jaw, "head": np.concatenate([jaw, crown])}
    for side, sign in _SIDES:
        shapes[f"{side} ear"] = _flat(sign * 1.0 + 0.13 * np.cos(_WHOLE_TURN), 0.08 + 0.24 * np.sin(_WHOLE_TURN), -0.15)
    return shapes


def _hair(identity: Identity) -> dict[str, np.ndarray]:
    if identity.hair_length == 0.0:
        return {}
    outer = _flat(1.07 * np.cos(_HALF_TURN), -0.08 - 1.36 * np.sin(_HALF_TURN))
    lift = 0.2 * np.exp(-(((_T - identity.parting) / 0.45) ** 2))
    hairline = np.where(np.abs(_T) < 0.93, identity.hairline - lift + 0.62 * _T**4, -0.02)
    shapes = {"hair": np.concatenate([outer, _flat(_T, hairline, 0.25)])}
    if identity.hair_length > 0.4:
        bottom = -0.2 + 1.75 * identity.hair_length
        width = 1.12 + 0.16 * identity.hair_length
        back = _flat(width * np.cos(_HALF_TURN), -1.44 * np.sin(_HALF_TURN), -0.2)
        ends = _flat(np.array([-width, -0.8 * width, 0.8 * width, width]), bottom + 0.1 * _T[:4], -0.2)
        shapes["back hair"] = np.concatenate([back, ends])
    return shapes


def _eyes(identity: Identity, expression: Expression) -> dict[str, np.ndarray]:
    size = identity.eye_size
    openness = 1.0 + (0.95 if expression.eye_open < 0 else 0.85) * expression.eye_open
    upper = 0.098 * size * max(0.05, openness - 0.2 * expression.squint)
    lower = 0.062 * size * max(0.05, 1.0 + 0.5 * min(expression.eye_open, 0.6) - 0.75 * expression.squint)
    shapes = {}
    for side, sign in _SIDES:
        x = sign * _EYE_X * identity.eye_spacing + _EYE_HALF_WIDTH * size * _T
        slant = -sign * (identity.eye_slant + 0.04) * _T * 0.5
        middle = _EYE_Y + slant
        lid = middle - upper * _ARCH**0.7
        shapes[f"{side} upper lid"] = _curve(x, lid)
        shapes[f"{side} lower lid"] = _curve(x, middle + lower * _ARCH**0.8)
        shapes[f"{side} crease"] = _curve(x, lid - 0.045 - 0.01 * _ARCH)
        shapes[f"{side} iris"] = _curve(sign * _EYE_X * identity.eye_spacing, _EYE_Y + 0.004)
        shapes[f"{side} bag"] = _curve(x[3:-3], middle[3:-3] + lower * _ARCH[3:-3] ** 0.8 + 0.055)
    return shapes


def _brows(identity: Identity, expression: Expression) -> dict[str, np.ndarray]:
    outward = _OUTWARD
    furrow = expression.brow_furrow * (1.0 - outward)
    thickness = 0.042 * identity.brow_thickness * (1.0 - 0.6 * outward**2)
    shapes = {}
    for side, sign in _SIDES:
        smirk = 0.8 * max(0.0, sign * expression.corner_asymmetry)
        inner = expression.brow_inner_raise
        outer = expression.brow_outer_raise + smirk
        inner_lift = (0.17 if inner > 0 else 0.13) * inner * (1.0 - outward) ** 1.2
        outer_lift = 0.15 * outer * outward**0.7
        y = _EYE_Y - 0.285 * identity.brow_height - 0.055 * np.sin(np.pi * outward * 0.85)
        y = y - inner_lift - outer_lift + 0.05 * furrow + 0.05 * expression.nose_wrinkle * (1 - outward)
        x = sign * (0.17 * identity.eye_spacing + 0.54 * outward - 0.07 * furrow)
        shapes[f"{side} brow"] = _curve(x, y)
        outline_y = np.concatenate([y - thickness, (y + thickness)[::-1]])
        shapes[f"{side} brow outline"] = _curve(np.concatenate([x, x[::-1]]), outline_y)
        wrinkle_y = _EYE_Y - np.array([0.36, 0.2]) + 0.05
        shapes[f"{side} frown line"] = _curve(sign * np.array([0.075, 0.055]), wrinkle_y)
    return shapes


def _nose(identity: Identity, expression: Expression) -> dict[str, np.ndarray]:
    lift = 0.06 * expression.nose_wrinkle
    base = 0.37 * identity.nose_length
    width = 0.19 * identity.nose_width * (1.0 + 0.12 * expression.nose_wrinkle)
    shapes = {}
    bridge_y = np.linspace(_EYE_Y + 0.02, base - 0.07, 4)
    shapes["bridge"] = _curve(0.0, bridge_y, np.array([0.02, 0.1, 0.2, 0.28]))
    base_x = width * np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
    base_y = base + np.array([0.03, 0.055, 0.065, 0.055, 0.03]) - 0.5 * lift
    shapes["nose base"] = _curve(base_x, base_y, 0.12)
    for side, sign in _SIDES:
        around = np.linspace(-0.4 * np.pi, 0.55 * np.pi, 9)
        ala_x = sign * (0.58 * width + 0.42 * width * np.cos(around))
        shapes[f"{side} ala"] = _curve(ala_x, base - 0.02 - lift + 0.075 * np.sin(around), 0.08)
        shapes[f"{side} nostril"] = _curve(sign * 0.5 * width, base + 0.035 - 0.7 * lift, 0.1)
        flank = sign * np.array([0.08, 0.09, 0.11, 0.16])
        shapes[f"{side} flank"] = _curve(flank, np.linspace(_EYE_Y - 0.06, base - 0.05, 4), 0.1)
        for number in range(3):
            wrinkle_x = sign * np.array([0.02, 0.09, 0.15])
            wrinkle_y = 0.02 + 0.07 * number + np.array([-0.02, 0.0, 0.045])
            shapes[f"{side} nose wrinkle {number}"] = _curve(wrinkle_x, wrinkle_y, 0.1)
        fold_x = sign * np.array([0.23, 0.34, 0.42, 0.45])
        fold_y = np.array([0.33, 0.45, 0.58, 0.72]) - lift
        shapes[f"{side} fold"] = _curve(fold_x, fold_y)
    return shapes


def _mouth(identity: Identity, expression: Expression) -> dict[str, np.ndarray]:
    stretch = expression.mouth_stretch
    half_width = 0.34 * identity.mouth_width * (1.0 + (0.26 if stretch > 0 else 0.42) * stretch)
    half_width *= 1.0 + 0.1 * max(expression.lip_corner, 0.0)
    smirk = expression.corner_asymmetry
    left = 0.15 * expression.lip_corner + 0.23 * max(-smirk, 0.0)
    right = 0.15 * expression.lip_corner + 0.23 * max(smirk, 0.0)
    corner = np.where(_T < 0, left, right)
    middle = _MOUTH_Y - corner * np.abs(_T) ** 1.6 + 0.3 * (left + right) / 2
    x = half_width * _T + 0.07 * smirk

    roundness = 0.7 - 0.25 * max(-stretch, 0.0)
    lip_raise = expression.upper_lip_raise * (1.0 - np.abs(_T) ** 3)
    gap = 0.42 * expression.mouth_open * _ARCH**roundness
    inner_top = middle - 0.35 * gap - 0.075 * lip_raise
    inner_bottom = middle + 0.65 * gap + 0.01 * lip_raise

    teeth = 1.0 - 0.55 * max(-stretch, 0.0)
    fullness = identity.lip_thickness * (1.0 - 0.75 * expression.lip_press)
    bow = 1.0 - 0.25 * np.exp(-((_T / 0.16) ** 2))
    outer_top = inner_top - 0.072 * fullness * _ARCH**0.6 * bow - 0.02 * lip_raise
    outer_bottom = inner_bottom + 0.1 * fullness * _ARCH**0.55
    shapes = {
        "outer top": _curve(x, outer_top, 0.08),
        "outer bottom": _curve(x, outer_bottom, 0.08),
        "inner top": _curve(0.93 * x, inner_top, 0.06),
        "inner bottom": _curve(0.93 * x, inner_bottom, 0.06),
        "upper teeth": _curve(0.93 * x, inner_top + teeth * np.minimum(0.085, inner_bottom - inner_top), 0.06),
        "tongue": _curve(0.93 * x[4:-4], np.maximum(inner_bottom - 0.09, middle)[4:-4], 0.06),
        "under lip": _curve(0.6 * x, outer_bottom.max() + 0.07 - 0.02 * _ARCH, 0.0),
    }
    for side, index, lift in (("left", 0, left), ("right", -1, right)):
        turn = np.array([0.03, -0.01, -0.05]) * np.sign(lift)
        dimple_x = x[index] + np.sign(x[index]) * np.array([0.02, 0.05, 0.055])
        shapes[f"{side} dimple"] = _curve(dimple_x, middle[index] + turn)
    return shapes


def _project(points_Nx4: np.ndarray, identity: Identity, pose: Pose, placement: Placement) -> np.ndarray:
    """Face coordinates to pixels (N, 2): the head turns, then is seen from far away."""
    x, y, lift, on_surface = points_Nx4.T
    z = lift + 0.85 * on_surface * np.sqrt(np.maximum(1.0 - (x / 1.05) ** 2 - (y / 1.45) ** 2, 0.0))
    x, y = x * identity.face_width, y * identity.face_height
    turned_x = x * np.cos(pose.yaw) + z * np.sin(pose.yaw)
    turned_z = z * np.cos(pose.yaw) - x * np.sin(pose.yaw)
    tilted_y = y * np.cos(pose.pitch) + turned_z * np.sin(pose.pitch)
    rolled_x = turned_x * np.cos(pose.roll) - tilted_y * np.sin(pose.roll)
    rolled_y = turned_x * np.sin(pose.roll) + tilted_y * np.cos(pose.roll)
    scaled = np.stack([rolled_x, rolled_y], axis=-1) * placement.half_width
    return scaled + np.array([placement.x, placement.y])


def face_curves(parameters: FaceParameters, placement: Placement) -> dict[str, np.ndarray]:
    """Every line of a face by name, each an array (N, 2) of x, y in pixels."""
    identity, expression = parameters.identity, parameters.expression
    shapes = {
        **_head(identity, expression),
        **_hair(identity),
        **_eyes(identity, expression),
        **_brows(identity, expression),
        **_nose(identity, expression),
        **_mouth(identity, expression),
    }
    pixels = _project(np.concatenate(list(shapes.values())), identity, parameters.pose, placement)
    curves, start = {}, 0
    for name, shape in shapes.items():
        curves[name] = pixels[start : start + len(shape)]
        start += len(shape)
    return curves


def landmarks_68(curves: dict[str, np.ndarray]) -> np.ndarray:
    """The landmarks of a face in the order of iBUG 300-W, as (68, 2) x, y in pixels."""

    def eye(side: str) -> list[np.ndarray]:
        upper, lower = curves[f"{side} upper lid"], curves[f"{side} lower lid"]
        return [upper[[0, 5, 11, 16]], lower[[11, 5]]]

    return np.concatenate(
        [
            curves["jaw"],
            curves["left brow"][[8, 6, 4, 2, 0]],
            curves["right brow"][[0, 2, 4, 6, 8]],
            curves["bridge"],
            curves["nose base"],
            *eye("left"),
            *eye("right"),
            curves["outer top"][[0, 3, 6, 8, 10, 13, 16]],
            curves["outer bottom"][[13, 10, 8, 6, 3]],
            curves["inner top"][[0, 5, 8, 11, 16]],
            curves["inner bottom"][[11, 8, 5]],
        ]
    )


def face_box(landmarks_68x2: np.ndarray) -> tuple[float, float, float, float]:
    """The square round a face, from chin to forehead, as x, y of its top left, width and height in pixels."""
    left, brow = landmarks_68x2.min(axis=0)
    right, chin = landmarks_68x2.max(axis=0)
    side = 1.04 * max(right - left, 1.25 * (chin - brow))
    middle = (left + right) / 2
    return float(middle - side / 2), float(chin - side), float(side), float(side)
