"""Worker processes: how they are started, and what becomes of one that dies."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import cv2

from data_pipelines.errors import DataError


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Starts processes, each with a single thread for OpenCV; what they haven't begun at the end is dropped.

    Args:
        processes: How many.

    Yields:
        The pool.

    Raises:
        DataError: A process died.
    """
    # Forking would copy JAX's threads, if the caller uses JAX, in whatever state they are.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError("a worker process died, probably for lack of memory; use fewer --processes") from error
    finally:
        pool.shutdown(cancel_futures=True)
