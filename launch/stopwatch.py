"""Times work that several processes do at the same time, each ready before the clock starts."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from launch.errors import LaunchError

Work = Callable[..., AbstractContextManager[Callable[[], Any]]]
"""A context manager that gets everything ready and gives what is to be timed; a function at the top of a module."""

TIMEOUT_S = 3600


def seconds(work: Work, shares: Sequence[tuple[Any, ...]]) -> float:
    """Time that new processes take for their work, all at once.

    Args:
        work: What each does.
        shares: The arguments of `work`, one tuple for each process.

    Returns:
        Seconds from the moment when all are ready to the moment when the last is done.

    Raises:
        LaunchError: a process failed.
    """
    context = multiprocessing.get_context("spawn")  # forking would copy the threads of the libraries loaded here
    barrier = context.Barrier(len(shares) + 1)
    processes = [context.Process(target=_do, args=(work, share, barrier)) for share in shares]
    for process in processes:
        process.start()
    try:
        barrier.wait(TIMEOUT_S)
        start = time.perf_counter()
        barrier.wait(TIMEOUT_S)
        return time.perf_counter() - start
    except BrokenBarrierError:
        raise LaunchError("a measured process failed; what it said stands above") from None
    finally:
        for process in processes:
            process.join()


@contextmanager
def taking(batches: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], warm_up: int, count: int) -> Iterator:
    """Work for `seconds`: take batches out of a loader that runs already.

    Args:
        batches: Makes the loader, an endless iterator.
        arguments: Its arguments.
        warm_up: How many batches are taken before the clock starts. Until then the loader may have read ahead while
            nobody waited; afterwards it does only what is asked of it.
        count: How many are timed.

    Yields:
        What is to be timed.
    """
    iterator = batches(*arguments)
    for _ in range(warm_up):
        next(iterator)

    def take() -> None:
        for _ in range(count):
            next(iterator)

    yield take


def _do(work: Work, share: tuple[Any, ...], barrier: Barrier) -> None:
    try:
        with work(*share) as timed:
            barrier.wait(TIMEOUT_S)
            timed()
            barrier.wait(TIMEOUT_S)
    except BrokenBarrierError:
        pass  # another process failed and tells
    except BaseException:
        barrier.abort()
        raise
