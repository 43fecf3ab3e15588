"""Faces followed as they come: moved on by optical flow between looks, found anew, lost, several at once."""

import cv2
import numpy as np
import pytest

from data_pipelines import face_follower
from data_pipelines.face_follower import DETECT_EVERY, SEARCH_EVERY, FaceFollower
from data_pipelines.faces import FACE_TEMPLATE, FoundFace, face_box, face_side

SIDE = 60


def scene(*corners: tuple[float, float], seed: int = 0) -> np.ndarray:
    """A picture with a textured square of 60 pixels at each place, on a flat ground."""
    image = np.full((240, 320, 3), 90, np.uint8)
    for number, (x, y) in enumerate(corners):
        texture = np.random.default_rng(seed + number).integers(0, 256, (12, 12, 3), np.uint8)
        face = cv2.resize(texture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        shift = np.array([[1, 0, x], [0, 1, y]], np.float64)
        cv2.warpAffine(face, shift, (320, 240), image, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    return image


def landmarks(x: float, y: float) -> np.ndarray:
    return FACE_TEMPLATE * SIDE + [x, y]


class Script:
    """In place of MTCNN: finds squares at places that the test sets, and counts how often it is asked."""

    def __init__(self) -> None:
        self.places: list[tuple[float, float]] = []
        self.asked = 0

    def everywhere(self, image: np.ndarray) -> list[FoundFace]:
        self.asked += 1
        found = [FoundFace((x, y, x + SIDE, y + SIDE), landmarks(x, y), 1.0) for x, y in self.places]
        return [face for face in found if image.shape[:2] == (240, 320)]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()

    class Finder:
        def __init__(self, **settings: object) -> None:
            pass

        def find(self, image: np.ndarray) -> list[FoundFace]:
            return script.everywhere(image)

    monkeypatch.setattr(face_follower, "FaceFinder", Finder)
    return script


def test_boxes_are_those_the_landmarks_imply() -> None:
    np.testing.assert_allclose(face_box(landmarks(20, 30)), [20, 30, 20 + SIDE, 30 + SIDE], atol=1e-9)
    assert face_side(landmarks(20, 30)) == pytest.approx(SIDE)
    turn = np.array([[0, -1], [1, 0]])
    assert face_side(landmarks(20, 30) @ turn) == pytest.approx(SIDE)


def test_a_face_is_moved_on_between_looks(script: Script) -> None:
    follower, script.places = FaceFollower(), [(100, 80)]
    for frame in range(DETECT_EVERY):
        x, y = 100 + 2.5 * frame, 80 + 1.5 * frame
        (face,) = follower.follow(scene((x, y)))
        np.testing.assert_allclose(face.landmarks, landmarks(x, y), atol=1.0)
        assert face.number == 0
    assert script.asked == 1


def test_a_face_that_is_found_anew_pulls_halfway(script: Script) -> None:
    follower, script.places = FaceFollower(), [(100, 80)]
    still = scene((100, 80))
    for _ in range(DETECT_EVERY):
        follower.follow(still)
    script.places = [(104, 80)]
    (face,) = follower.follow(still)
    np.testing.assert_allclose(face.landmarks, landmarks(102, 80), atol=0.3)


def test_a_cut_looks_at_once_and_another_face_is_another(script: Script) -> None:
    follower, script.places = FaceFollower(), [(30, 30)]
    follower.follow(scene((30, 30)))
    follower.follow(scene((30, 30)))
    script.places = [(220, 150)]
    (face,) = follower.follow(scene((220, 150), seed=5))
    assert face.number == 1
    np.testing.assert_allclose(face.landmarks, landmarks(220, 150), atol=1e-6)


def test_a_face_that_is_gone_is_looked_for_now_and_then(script: Script) -> None:
    follower, script.places = FaceFollower(), [(100, 80)]
    follower.follow(scene((100, 80)))
    script.places = []
    assert follower.follow(scene()) == []
    asked = script.asked
    for _ in range(10 * SEARCH_EVERY):
        assert follower.follow(scene()) == []
    assert script.asked - asked == 10
    script.places = [(100, 80)]
    found = [follower.follow(scene((100, 80))) for _ in range(SEARCH_EVERY)]
    assert {face.number for faces in found for face in faces} == {1}


def test_what_the_detector_misses_once_is_followed_but_not_for_ever(script: Script) -> None:
    follower, script.places = FaceFollower(), [(100, 80)]
    still = scene((100, 80))
    follower.follow(still)
    script.places = []
    seen = [bool(follower.follow(still)) for _ in range(3 * DETECT_EVERY)]
    assert seen == [True] * (2 * DETECT_EVERY - 1) + [False] * (DETECT_EVERY + 1)


def test_several_faces_keep_their_numbers_the_largest_first_and_no_more_than_asked(script: Script) -> None:
    follower = FaceFollower(faces=2)
    places = [(20.0, 20.0), (200.0, 30.0), (110.0, 150.0)]
    for frame in range(2 * DETECT_EVERY):
        moved = [(x + frame, y) for x, y in places]
        script.places = moved[::-1] if frame else moved
        faces = follower.follow(scene(*moved))
        assert [face.number for face in faces] == [0, 1]
        for face, (x, y) in zip(faces, moved, strict=False):
            np.testing.assert_allclose(face.landmarks, landmarks(x, y), atol=1.0)


def test_a_picture_of_another_size_is_looked_at_anew(script: Script) -> None:
    follower, script.places = FaceFollower(), [(100, 80)]
    follower.follow(scene((100, 80)))
    assert follower.follow(np.zeros((100, 100, 3), np.uint8)) == []


def test_nobody_is_no_number_of_faces() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FaceFollower(faces=0)
