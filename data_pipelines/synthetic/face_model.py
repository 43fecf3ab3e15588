"""What synthetic faces are drawn from, and what that means: class, valence, arousal, similarity.

A face is an identity, an expression, a pose and a light. The expression alone decides the labels; its twelve
numbers are loosely the action units of FACS. All of this is our choice: it only has to be known exactly.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np

from avemo.labels import EXPRESSIONS

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""

_SKINS: tuple[Colour, ...] = (
    (246, 214, 190),
    (235, 195, 165),
    (222, 178, 142),
    (198, 150, 112),
    (166, 116, 82),
    (128, 86, 60),
    (98, 66, 48),
)
_HAIRS: tuple[Colour, ...] = (
    (28, 24, 24),
    (58, 40, 30),
    (96, 64, 40),
    (142, 100, 60),
    (202, 168, 108),
    (132, 58, 34),
    (150, 148, 146),
)
_EYES: tuple[Colour, ...] = ((66, 44, 30), (94, 66, 40), (84, 110, 74), (70, 108, 140), (98, 112, 120))


@dataclass(frozen=True)
class Identity:
    """Whose face it is; nothing in here may inform a label. Lengths are relative to the average face."""

    face_width: float
    face_height: float
    jaw: float
    """Exponent of the jaw line: small is square, large is pointed."""
    eye_spacing: float
    eye_size: float
    eye_slant: float
    brow_thickness: float
    brow_height: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_thickness: float
    hair_length: float
    """0 is shaven, 0.5 ends at the ears, 1 falls on the shoulders."""
    hairline: float
    parting: float
    """Where the hair parts, from -1 (image left) to 1."""
    skin: Colour
    hair: Colour
    eye: Colour
    clothes: Colour


@dataclass(frozen=True)
class Expression:
    """What the face does; 0 everywhere is the neutral face, 1 is as much as a face can do."""

    brow_inner_raise: float = 0.0
    """-1 (lowered) to 1 (raised); likewise the outer end."""
    brow_outer_raise: float = 0.0
    brow_furrow: float = 0.0
    eye_open: float = 0.0
    """-1 (closed) to 1 (wide open)."""
    squint: float = 0.0
    nose_wrinkle: float = 0.0
    lip_corner: float = 0.0
    """-1 (both corners down) to 1 (both up)."""
    corner_asymmetry: float = 0.0
    """One corner up: the image's left for negative, its right for positive values."""
    mouth_open: float = 0.0
    mouth_stretch: float = 0.0
    """-1 (rounded) to 1 (stretched wide)."""
    upper_lip_raise: float = 0.0
    lip_press: float = 0.0

    def vector(self) -> np.ndarray:
        """The twelve numbers as float64 of shape (12,), in the order of the fields."""
        return np.array(astuple(self))

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> "Expression":
        """The nearest possible expression to twelve numbers: each is clipped to its range."""
        return cls(*(float(value) for value in np.clip(vector, _LOWEST, 1.0)))


_NAMES = tuple(field.name for field in fields(Expression))
_TWO_SIDED = (
    "brow_inner_raise",
    "brow_outer_raise",
    "eye_open",
    "lip_corner",
    "corner_asymmetry",
    "mouth_stretch",
)
_LOWEST = np.array([-1.0 if name in _TWO_SIDED else 0.0 for name in _NAMES])
_ASYMMETRY = _NAMES.index("corner_asymmetry")


@dataclass(frozen=True)
class Pose:
    """Rotation of the head in radians; positive yaw is to the image's right, positive pitch looks down."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True)
class Light:
    """Where the light stands (x to the right, y down; the camera is 1 away from the head) and how strong."""

    x: float = 0.0
    y: float = -0.5
    strength: float = 0.4


@dataclass(frozen=True)
class FaceParameters:
    """Everything that a picture of a face is drawn from."""

    identity: Identity
    expression: Expression = Expression()
    pose: Pose = Pose()
    light: Light = Light()


PROTOTYPES: dict[str, Expression] = {
    "neutral": Expression(),
    "happiness": Expression(
        squint=0.8, lip_corner=1.0, mouth_open=0.35, mouth_stretch=0.5, upper_lip_raise=0.2, eye_open=-0.1
    ),
    "sadness": Expression(
        brow_inner_raise=1.0, brow_outer_raise=-0.6, brow_furrow=0.3, eye_open=-0.45, lip_corner=-1.0
    ),
    "surprise": Expression(
        brow_inner_raise=1.0, brow_outer_raise=1.0, eye_open=1.0, mouth_open=0.9, mouth_stretch=-0.7
    ),
    "fear": Expression(
        brow_inner_raise=0.9,
        brow_outer_raise=0.2,
        brow_furrow=0.8,
        eye_open=0.9,
        lip_corner=-0.35,
        mouth_open=0.4,
        mouth_stretch=1.0,
    ),
    "disgust": Expression(
        brow_inner_raise=-0.5,
        brow_outer_raise=-0.2,
        brow_furrow=0.3,
        eye_open=-0.35,
        squint=0.5,
        nose_wrinkle=1.0,
        lip_corner=-0.5,
        mouth_open=0.15,
        upper_lip_raise=1.0,
    ),
    "anger": Expression(
        brow_inner_raise=-1.0,
        brow_outer_raise=0.3,
        brow_furrow=1.0,
        eye_open=0.35,
        squint=0.3,
        lip_corner=-0.35,
        mouth_stretch=-0.15,
        lip_press=1.0,
    ),
    "contempt": Expression(corner_asymmetry=1.0, eye_open=-0.2, lip_press=0.4, brow_outer_raise=0.1),
}
"""The eight classes at full intensity, in AffectNet's order."""

CIRCUMPLEX: dict[str, tuple[float, float]] = {
    "neutral": (0.0, 0.0),
    "happiness": (0.8, 0.4),
    "sadness": (-0.7, -0.45),
    "surprise": (0.25, 0.8),
    "fear": (-0.55, 0.75),
    "disgust": (-0.7, 0.3),
    "anger": (-0.5, 0.65),
    "contempt": (-0.45, 0.1),
}
"""(valence, arousal) of the prototypes, after Russell's circumplex."""

_SALIENCE = np.array([0.7, 0.7, 0.7, 0.8, 0.5, 0.8, 1.2, 1.0, 1.2, 0.8, 0.8, 0.6])
"""How much each number counts when two expressions are compared: roughly how far it moves a drawn face."""


def _mirror_free(expressions_NxE: np.ndarray) -> np.ndarray:
    """The same expressions with the smirk on one side: left and right mean the same."""
    folded = np.array(expressions_NxE, dtype=np.float64)
    folded[..., _ASYMMETRY] = np.abs(folded[..., _ASYMMETRY])
    return folded


def _affect_weights() -> np.ndarray:
    """The smallest weights (12, 2) whose tanh puts every prototype on its place of the circumplex."""
    prototypes = np.stack([PROTOTYPES[name].vector() for name in EXPRESSIONS])
    targets = np.arctanh(np.array([CIRCUMPLEX[name] for name in EXPRESSIONS]))
    return np.linalg.lstsq(prototypes, targets, rcond=None)[0]


_AFFECT_WEIGHTS = _affect_weights()


def affect(expression: Expression) -> tuple[float, float]:
    """The true (valence, arousal) of an expression, in (-1, 1): smooth, the same for its mirror image."""
    valence, arousal = np.tanh(_mirror_free(expression.vector()) @ _AFFECT_WEIGHTS)
    return float(valence), float(arousal)


def similarity_points(expressions_NxE: np.ndarray) -> np.ndarray:
    """Expressions (N, 12) as points (N, 12) whose Euclidean distance is the true dissimilarity of faces."""
    return _mirror_free(expressions_NxE) * _SALIENCE


def expression_of_class(name: str, intensity: float, rng: np.random.Generator) -> Expression:
    """An expression of one class as one person might make it at one moment.

    Args:
        name: One of `avemo.labels.EXPRESSIONS`.
        intensity: 0 to 1; how much of the prototype is shown (nothing changes for neutral).
        rng: Draws the side of a smirk, how far the mouth opens, and a little of everything else.

    Returns:
        The expression.
    """
    vector = PROTOTYPES[name].vector() * intensity
    vector[_ASYMMETRY] *= rng.choice((-1.0, 1.0))
    vector[_NAMES.index("mouth_open")] *= rng.uniform(0.5, 1.3)
    return Expression.from_vector(vector + rng.normal(0.0, 0.06, len(vector)))


def expression_of_affect(valence: float, arousal: float) -> Expression:
    """A face that shows valence plainly, by mouth and lids, and arousal discreetly, by lids and brows.

    For the videos, where valence and arousal move on their own and no class is meant.
    """
    good, bad = max(valence, 0.0), max(-valence, 0.0)
    return Expression.from_vector(
        Expression(
            brow_inner_raise=0.35 * arousal - 0.4 * bad,
            brow_outer_raise=0.45 * arousal,
            brow_furrow=0.9 * bad,
            eye_open=0.65 * arousal,
            squint=0.7 * good,
            nose_wrinkle=0.3 * bad,
            lip_corner=1.15 * valence,
            mouth_stretch=0.4 * good,
            lip_press=0.3 * bad,
        ).vector()
    )


def _vary(colour: Colour, spread: float, rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 8, 250).astype(int).tolist()
    return red, green, blue


def sample_identity(rng: np.random.Generator) -> Identity:
    """A person, drawn independently of any expression."""

    def around_one(spread: float) -> float:
        return float(np.clip(rng.normal(1.0, spread), 1 - 2 * spread, 1 + 2 * spread))

    return Identity(
        face_width=around_one(0.04),
        face_height=around_one(0.04),
        jaw=float(rng.uniform(0.5, 0.8)),
        eye_spacing=around_one(0.04),
        eye_size=around_one(0.07),
        eye_slant=float(rng.normal(0.0, 0.05)),
        brow_thickness=around_one(0.22),
        brow_height=around_one(0.05),
        nose_width=around_one(0.1),
        nose_length=around_one(0.05),
        mouth_width=around_one(0.06),
        lip_thickness=around_one(0.16),
        hair_length=float(rng.choice((0.0, 0.35, 0.5, 1.0), p=(0.08, 0.3, 0.27, 0.35))),
        hairline=float(rng.uniform(-0.92, -0.74)),
        parting=float(rng.uniform(-0.7, 0.7)),
        skin=_vary(_SKINS[rng.integers(len(_SKINS))], 5, rng),
        hair=_vary(_HAIRS[rng.integers(len(_HAIRS))], 6, rng),
        eye=_vary(_EYES[rng.integers(len(_EYES))], 6, rng),
        clothes=_vary((110, 110, 120), 40, rng),
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """A head turned a little: standard deviations of about 9, 5 and 5 degrees."""
    yaw, pitch, roll = np.clip(rng.normal(0.0, (0.16, 0.08, 0.08)), -0.4, 0.4).tolist()
    return Pose(yaw, pitch, roll)


def sample_light(rng: np.random.Generator) -> Light:
    """Light from any side, mostly from above."""
    return Light(
        x=float(rng.uniform(-0.9, 0.9)),
        y=float(rng.uniform(-0.8, 0.1)),
        strength=float(rng.uniform(0.2, 0.6)),
    )
