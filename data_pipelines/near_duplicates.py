"""Near-duplicate faces, by a perceptual hash: the same photograph at another size, crop or compression."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MAX_DISTANCE = 32
"""Hashes that differ in at most so many of 255 bits are near-duplicates (our choice).

Among 94 million pairs of 30,314 photographed faces, all pairs that near had correlated pixels (0.9 in the median of
the farthest); pairs of different pictures begin at about 75.
"""

_SIDE = 32
_FREQUENCIES = 16
_MEDIAN = (_FREQUENCIES**2 - 1) // 2


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Signs of the lowest frequencies of a picture, relative to their median (pHash, Zauner 2010, with 16×16 bits).

    Args:
        image: uint8 RGB, H×W×3.

    Returns:
        uint64, 4: 255 bits, the constant term left out.
    """
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES].ravel()
    bits = frequencies > np.partition(frequencies[1:], _MEDIAN)[_MEDIAN]
    bits[0] = False
    return np.packbits(bits).view(np.uint64)


@dataclass(frozen=True, eq=False)
class KnownFaces:
    """Faces that others are compared with.

    Attributes:
        keys: Their names.
        hashes: uint64, 4×N, see `perceptual_hash`: word by word, as they are compared fastest.
    """

    keys: Sequence[str]
    hashes: np.ndarray

    @classmethod
    def of(cls, faces: Sequence[tuple[str, np.ndarray]]) -> "KnownFaces":
        """Faces given by name and hash."""
        words = np.array([bits for _, bits in faces], np.uint64).reshape(-1, 4).T
        return cls([key for key, _ in faces], np.ascontiguousarray(words))

    def nearest(self, image: np.ndarray) -> tuple[str, int] | None:
        """The near-duplicate of a picture among them.

        Args:
            image: uint8 RGB, H×W×3.

        Returns:
            Name and distance of the nearest face within `MAX_DISTANCE`, the first of several; else None.
        """
        if not self.keys:
            return None
        words = np.bitwise_count(self.hashes ^ perceptual_hash(image)[:, None])
        distances = words[0].astype(np.uint16) + words[1] + words[2] + words[3]
        nearest = int(distances.argmin())
        return (self.keys[nearest], int(distances[nearest])) if distances[nearest] <= MAX_DISTANCE else None
