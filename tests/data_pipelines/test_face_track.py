"""Following one face through a whole recording, and cutting it out."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from small_videos import write_video

from data_pipelines.face_track import FaceTrack, face_crops, track_face
from data_pipelines.faces import FACE_TEMPLATE, CropConfig, FoundFace, decode_image
from data_pipelines.video import frames


class Script:
    """A face finder that finds what it is told, call by call: centres of faces with a side of 20 pixels."""

    def __init__(self, *calls: list[tuple[float, float]]) -> None:
        self._calls = iter(calls)

    def find(self, image: np.ndarray) -> list[FoundFace]:
        return [face(x, y) for x, y in next(self._calls)]


def face(x: float, y: float) -> FoundFace:
    landmarks = (FACE_TEMPLATE - FACE_TEMPLATE.mean(0)) * 20 + [x, y]
    return FoundFace((x - 10, y - 10, x + 10, y + 10), landmarks, 1.0)


def follow(finder: Script, count: int, detect_every: int = 1) -> FaceTrack:
    return track_face(iter([np.zeros((9, 9, 3), np.uint8)] * count), finder, detect_every)  # type: ignore[arg-type]


def centres(finder: Script, count: int, detect_every: int = 1) -> tuple[np.ndarray, list[bool]]:
    track = follow(finder, count, detect_every)
    return track.landmarks.mean(axis=1), track.valid.tolist()


def test_a_straight_move_is_interpolated() -> None:
    where, valid = centres(Script([(20, 20)], [(28, 20)], [(36, 20)]), 9, detect_every=4)
    assert all(valid)
    np.testing.assert_allclose(where[4], [28, 20], atol=0.05)
    assert (np.diff(where[:, 0]) > 0).all()


def test_frames_between_a_face_and_none_keep_it() -> None:
    where, valid = centres(Script([(20, 20)], [], [], [], [(20, 20)]), 10, detect_every=2)
    assert valid == [True, True, False, False, False, False, False, True, True, True]
    np.testing.assert_allclose(where[[0, 1, 7, 8, 9]], np.tile([20, 20], (5, 1)))
    np.testing.assert_array_equal(where[2:7], 0)


def test_short_misses_of_one_face_are_bridged() -> None:
    track = follow(Script([(20, 20)], *[[]] * 5, [(26, 20)]), 7)
    assert track.valid.all()
    assert track.bridged.tolist() == [False, True, True, True, True, True, False]
    centre = track.landmarks.mean(axis=1)
    assert (np.diff(centre[:, 0]) > 0).all()
    np.testing.assert_allclose(centre[3], [23, 20], atol=0.05)


def test_long_misses_are_not_bridged() -> None:
    track = follow(Script([(20, 20)], *[[]] * 6, [(20, 20)]), 8)
    assert track.valid.tolist() == [True, *[False] * 6, True]
    assert not track.bridged.any()


def test_misses_between_two_faces_are_not_bridged() -> None:
    assert follow(Script([(20, 20)], [], [(200, 20)]), 3).valid.tolist() == [True, False, True]


def test_misses_at_either_end_are_not_bridged() -> None:
    assert follow(Script([], [(20, 20)], []), 3).valid.tolist() == [False, True, False]


@pytest.mark.parametrize(("detect_every", "bridged"), [(2, [2]), (5, [5]), (6, [])])
def test_a_miss_stands_for_all_frames_up_to_the_next_look(detect_every: int, bridged: list[int]) -> None:
    track = follow(Script([(20, 20)], [], [(20, 20)]), 2 * detect_every + 1, detect_every)
    assert np.flatnonzero(track.bridged).tolist() == bridged
    assert track.valid.all() == bool(bridged)


def test_several_faces_are_told() -> None:
    track = follow(Script([(20, 20), (60, 20)], [(20, 20)], [], [(20, 20), (60, 20)]), 4)
    assert track.several.tolist() == [True, False, False, True]
    assert follow(Script([(20, 20), (60, 20)]), 3, detect_every=3).several.tolist() == [True, False, False]


def test_face_sizes_are_those_of_the_boxes() -> None:
    sizes = follow(Script([(20, 20)], *[[]] * 6, [(20, 20)]), 8).face_sizes()
    assert sizes.dtype == np.float32
    np.testing.assert_allclose(sizes, [20, *[0] * 6, 20], rtol=1e-5)


def test_the_same_face_is_followed_though_a_larger_one_appears() -> None:
    where, _ = centres(Script([(20, 20)], [(200, 20), (21, 20)], [(200, 20), (22, 20)]), 3)
    assert (where[:, 0] < 23).all()


def test_another_face_is_no_place_between() -> None:
    where, valid = centres(Script([(20, 20)], [(200, 20)]), 8, detect_every=4)
    assert all(valid)
    assert set(where[:, 0].round().tolist()) == {20, 200}


def test_smoothing_leaves_a_still_face_still() -> None:
    where, _ = centres(Script(*[[(20, 20)]] * 6), 6)
    np.testing.assert_allclose(where, 20)


def test_no_frames_no_track() -> None:
    where, valid = centres(Script(), 0)
    assert where.shape == (0, 2)
    assert valid == []


def test_crops_are_black_without_a_face(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", Fraction(25), 60)
    track = track_face(frames(tmp_path / "a.mp4"), Script(*[[(30, 20)]] * 59, []), 1)  # type: ignore[arg-type]
    crops = [decode_image(jpeg) for jpeg in face_crops(tmp_path / "a.mp4", track, CropConfig(size=16))]
    assert len(crops) == 60
    assert crops[58] is not None
    assert crops[59] is not None
    assert crops[58].shape == (16, 16, 3)
    assert abs(crops[58].mean() - 116) < 4
    assert crops[59].max() == 0
