"""Worker processes: how they are started, and what becomes of one that dies, or whose parent does."""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from data_pipelines.errors import DataError

OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As `map`: applies a function to tasks and yields the results in the order of the tasks."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_SLOW_TO_IMPORT = ("cv2", "PIL.Image", "tensorflow_datasets", "array_record.python.array_record_data_source")


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Starts processes when they are needed, each with a single thread for OpenCV.

    What they haven't begun at the end is dropped, and they don't outlive their parent, however it ends.

    Args:
        processes: How many.

    Yields:
        The pool.

    Raises:
        DataError: A process died.
    """
    # Forking this process would copy JAX's threads, if the caller uses JAX, in whatever state they are. A server that
    # has imported what takes long, and nothing else, is forked instead.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_SLOW_TO_IMPORT))
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError("a worker process died, probably for lack of memory; use fewer --processes") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def ordered_map(processes: int) -> Iterator[OrderedMap]:
    """A `map` that keeps so many processes busy, and looks only a few tasks ahead.

    Args:
        processes: How many; 1 stays in this process.

    Yields:
        The map; it may be used several times, and starts no process for a single task.
    """
    if processes == 1:
        yield map
        return
    with worker_pool(processes) as pool:

        def apply(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            remaining = iter(tasks)
            first = list(itertools.islice(remaining, 2))
            if len(first) < 2:
                yield from map(function, first)
                return
            remaining = itertools.chain(first, remaining)
            pending: deque[Future[Any]] = deque()
            while True:
                for task in itertools.islice(remaining, 4 * processes - len(pending)):
                    pending.append(pool.submit(function, task))
                if not pending:
                    return
                yield pending.popleft().result()

        yield apply


def _begin() -> None:
    cv2.setNumThreads(1)
    # Pictures are large and short-lived: to give their memory back to the system and get it anew for every one costs a
    # fifth of the time that decoding takes. Where the C library isn't glibc, nothing changes.
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes wait for work for ever, also when their parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
