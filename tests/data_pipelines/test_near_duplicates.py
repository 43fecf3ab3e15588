"""Near-duplicates: the same picture at another size, quality or crop is found, another picture isn't."""

import cv2
import numpy as np
import pytest

from data_pipelines.faces import decode_image, encode_jpeg
from data_pipelines.near_duplicates import MAX_DISTANCE, KnownFaces, perceptual_hash


def scene(seed: int) -> np.ndarray:
    """A smooth random picture with much going on in its low frequencies."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(small, (120, 120), interpolation=cv2.INTER_CUBIC)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(perceptual_hash(a) ^ perceptual_hash(b)).sum())


def test_a_cosine_sets_the_bits_of_its_frequency() -> None:
    # A cosine along x of frequency 3 has one large coefficient; all others are near the median, 0.
    wave = 128 + 100 * np.cos(np.pi * (np.arange(32) + 0.5) * 3 / 32)
    image = np.repeat(np.broadcast_to(wave, (32, 32))[..., None], 3, axis=2).astype(np.uint8)
    bits = np.unpackbits(perceptual_hash(image).view(np.uint8)).reshape(16, 16)
    assert bits[0, 3] == 1
    assert bits[0, 0] == 0
    negative = np.unpackbits(perceptual_hash(255 - image).view(np.uint8)).reshape(16, 16)
    assert negative[0, 3] == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_happens_to_copies_on_the_way_changes_little(seed: int) -> None:
    image = scene(seed)
    assert distance(image, image) == 0
    worse = decode_image(encode_jpeg(image, 40))
    assert worse is not None
    assert distance(image, worse) <= MAX_DISTANCE
    assert distance(image, cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)) <= MAX_DISTANCE
    assert distance(image, cv2.convertScaleAbs(image, alpha=0.8, beta=10)) <= MAX_DISTANCE
    assert distance(image, scene(seed + 100)) > 2 * MAX_DISTANCE


def test_the_nearest_known_face_is_named() -> None:
    known = KnownFaces.of([(str(seed), perceptual_hash(scene(seed))) for seed in range(4)])
    assert known.nearest(scene(2)) == ("2", 0)
    assert known.nearest(scene(9)) is None
    assert KnownFaces.of([]).nearest(scene(0)) is None
