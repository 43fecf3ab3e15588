"""The limits that preparing and loading are held against: bare loops over the libraries, nothing of the pipeline.

They call the functions that `data_pipelines.faces` and `data_pipelines.loaders` call, in the same way. All are work
for `launch.benchmarks.stopwatch.seconds`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

Picture = tuple[Path, tuple[int, int, int, int]]
"""A file and the face's left, top, right and bottom in pixels, all inside the picture."""


@contextmanager
def preparing(pictures: Sequence[Picture], size: int, quality: int) -> Iterator[Callable[[], None]]:
    """Reads, decodes, cuts, resizes and encodes; what comes out is dropped.

    Args:
        pictures: What to prepare.
        size: Side of the crops in pixels.
        quality: Of the JPEGs, 1 to 100.

    Yields:
        The loop over all of them.
    """
    cv2.setNumThreads(1)

    def loop() -> None:
        for path, (left, top, right, bottom) in pictures:
            data = np.frombuffer(path.read_bytes(), np.uint8)
            image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
            shrinks = max(right - left, bottom - top) > size
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            crop = cv2.resize(image[top:bottom, left:right], (size, size), interpolation=interpolation)
            cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])

    yield loop


@contextmanager
def decoding(jpegs: Sequence[bytes], passes: int) -> Iterator[Callable[[], None]]:
    """Decodes JPEGs that lie in memory, as our loader does: all into the same array.

    Args:
        jpegs: What to decode; all of one size.
        passes: How often.

    Yields:
        The loop over all of them.
    """
    image = simplejpeg.decode_jpeg(jpegs[0])

    def loop() -> None:
        for _ in range(passes):
            for jpeg in jpegs:
                simplejpeg.decode_jpeg(jpeg, buffer=image)

    yield loop


@contextmanager
def decoding_by_opencv(jpegs: Sequence[bytes], passes: int) -> Iterator[Callable[[], None]]:
    """As `decoding`, by the decoder that most use."""
    cv2.setNumThreads(1)

    def loop() -> None:
        for _ in range(passes):
            for jpeg in jpegs:
                cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)

    yield loop
