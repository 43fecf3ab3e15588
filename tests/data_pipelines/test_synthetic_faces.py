from dataclasses import replace

import numpy as np
import pytest

from avemo.labels import EXPRESSIONS
from data_pipelines.faces import FaceFinder
from data_pipelines.synthetic.drawing import draw_face, draw_photograph
from data_pipelines.synthetic.face_geometry import Placement, face_curves, landmarks_68
from data_pipelines.synthetic.face_model import (
    CIRCUMPLEX,
    PROTOTYPES,
    Expression,
    FaceParameters,
    affect,
    expression_of_affect,
    expression_of_class,
    sample_identity,
    sample_light,
    sample_pose,
    similarity_points,
)


def landmarks_of(expression: Expression, seed: int = 0) -> np.ndarray:
    """Landmarks of an upright face whose half width is 1."""
    identity = sample_identity(np.random.default_rng(seed))
    return landmarks_68(face_curves(FaceParameters(identity, expression), Placement(0.0, 0.0, 1.0)))


def corner_height(landmarks: np.ndarray) -> float:
    """How far the mouth's corners lie above the middle of its inner lips."""
    return float(landmarks[[62, 66], 1].mean() - landmarks[[48, 54], 1].mean())


def random_face(rng: np.random.Generator, number: int) -> FaceParameters:
    expression = expression_of_class(EXPRESSIONS[number % len(EXPRESSIONS)], rng.uniform(0.5, 1.0), rng)
    return FaceParameters(sample_identity(rng), expression, sample_pose(rng), sample_light(rng))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_prototypes_lie_on_their_place_of_the_circumplex(name: str) -> None:
    assert affect(PROTOTYPES[name]) == pytest.approx(CIRCUMPLEX[name], abs=1e-9)


def test_affect_and_similarity_ignore_the_side_of_a_smirk() -> None:
    left, right = Expression(corner_asymmetry=-0.8), Expression(corner_asymmetry=0.8)
    assert affect(left) == affect(right)
    points = similarity_points(np.stack([left.vector(), right.vector()]))
    np.testing.assert_array_equal(points[0], points[1])


def test_affect_is_smooth() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        vector = rng.uniform(0.1, 0.9, 12)
        step = 1e-4 * rng.normal(size=12)
        before, after = (affect(Expression.from_vector(v)) for v in (vector, vector + step))
        assert np.abs(np.subtract(before, after)).max() < 0.01


def test_classes_can_be_told_apart_by_their_expressions() -> None:
    rng = np.random.default_rng(1)
    prototypes = similarity_points(np.stack([PROTOTYPES[name].vector() * 0.8 for name in EXPRESSIONS]))
    for code, name in enumerate(EXPRESSIONS):
        faces = [expression_of_class(name, rng.uniform(0.6, 1.0), rng).vector() for _ in range(60)]
        distances = np.linalg.norm(similarity_points(np.stack(faces))[:, None] - prototypes, axis=-1)
        assert np.mean(distances.argmin(axis=1) == code) > 0.95, name


def test_face_of_affect_shows_valence_more_than_arousal() -> None:
    grid = np.linspace(-0.8, 0.8, 9)
    heights = [corner_height(landmarks_of(expression_of_affect(v, 0.0))) for v in grid]
    assert np.all(np.diff(heights) > 0)
    lids = []
    for arousal in grid:
        points = landmarks_of(expression_of_affect(0.0, arousal))
        lids.append(points[[40, 41, 46, 47], 1].sum() - points[[37, 38, 43, 44], 1].sum())
    assert np.all(np.diff(lids) > 0)
    moved_by_valence, moved_by_arousal = (
        np.abs(landmarks_of(expression_of_affect(*one)) - landmarks_of(expression_of_affect(*other))).sum()
        for one, other in (((0.8, 0.0), (-0.8, 0.0)), ((0.0, 0.8), (0.0, -0.8)))
    )
    assert moved_by_valence > moved_by_arousal


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_show_the_expression(seed: int) -> None:
    neutral = landmarks_of(PROTOTYPES["neutral"], seed)
    assert corner_height(landmarks_of(PROTOTYPES["happiness"], seed)) > corner_height(neutral) + 0.05
    assert corner_height(landmarks_of(PROTOTYPES["sadness"], seed)) < corner_height(neutral) - 0.05
    surprise = landmarks_of(PROTOTYPES["surprise"], seed)
    assert surprise[66, 1] - surprise[62, 1] > 0.25  # open mouth
    assert surprise[17:27, 1].mean() < neutral[17:27, 1].mean() - 0.05  # raised brows
    anger = landmarks_of(PROTOTYPES["anger"], seed)
    assert anger[[21, 22], 1].mean() > neutral[[21, 22], 1].mean() + 0.05  # lowered inner brows
    smirk = landmarks_of(PROTOTYPES["contempt"], seed)
    assert smirk[54, 1] < smirk[48, 1] - 0.1  # on the image's right


def test_landmarks_follow_ibug_order() -> None:
    points = landmarks_of(PROTOTYPES["happiness"])
    assert points.shape == (68, 2)
    assert np.all(np.diff(points[:17, 0]) > 0)  # jaw from left to right
    assert points[:, 1].argmax() == 8  # the chin is lowest
    for row in (points[17:22], points[22:27], points[31:36], points[48:55], points[60:65]):
        assert np.all(np.diff(row[:, 0]) > 0)
    assert points[36:42, 0].mean() < points[30, 0] < points[42:48, 0].mean()
    assert points[36, 0] == points[36:42, 0].min()
    assert points[45, 0] == points[42:48, 0].max()
    assert np.all(points[37:39, 1] < points[40:42, 1])
    assert points[51, 1] < points[62, 1] < points[66, 1] < points[57, 1]


def test_identity_moves_no_label_and_expression_moves_no_background() -> None:
    rng = np.random.default_rng(2)
    face = random_face(rng, 1)
    other = replace(face, expression=PROTOTYPES["anger"])
    first, _ = draw_face(face, 128, np.random.default_rng(7))
    second, _ = draw_face(other, 128, np.random.default_rng(7))
    np.testing.assert_array_equal(first[:4], second[:4])
    assert np.abs(first.astype(int) - second).max() > 30


def test_drawing_is_reproducible_and_well_formed() -> None:
    face = random_face(np.random.default_rng(3), 3)
    image, drawn = draw_face(face, 96, np.random.default_rng(1))
    again, drawn_again = draw_face(face, 96, np.random.default_rng(1))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(drawn.landmarks, drawn_again.landmarks)
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    x, y, width, height = drawn.box
    assert np.all(drawn.landmarks >= (x, y))
    assert np.all(drawn.landmarks <= (x + width, y + height + 1e-9))


def test_people_at_the_edge_of_a_photograph_do_no_harm() -> None:
    face = random_face(np.random.default_rng(4), 4)
    places = [Placement(-60.0, 40.0, 20.0), Placement(0.0, 0.0, 20.0), Placement(80.0, 60.0, 20.0)]
    image, faces = draw_photograph([(face, place) for place in places], 60, 80, np.random.default_rng(0))
    assert image.shape == (60, 80, 3)
    assert len(faces) == 3


def test_mtcnn_finds_the_faces_where_they_are() -> None:
    finder, rng = FaceFinder(), np.random.default_rng(0)
    found, errors = 0, []
    for number in range(40):
        image, drawn = draw_face(random_face(rng, number), 160, rng)
        faces = finder.find(image)
        if faces:
            found += 1
            points = drawn.landmarks
            eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
            expected = np.stack([*eyes, points[30], points[48], points[54]])
            distance = np.linalg.norm(eyes[0] - eyes[1])
            errors.append(np.linalg.norm(faces[0].landmarks - expected, axis=1).mean() / distance)
    assert found >= 39
    assert np.median(errors) < 0.12
