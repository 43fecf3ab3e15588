"""Times work: what several processes do at the same time, and what several contestants do in turn in this one."""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from launch.errors import LaunchError

Work = Callable[..., AbstractContextManager[Callable[[], Any]]]
"""A context manager that gets everything ready and gives what is to be timed; a function at the top of a module."""

Contestant = Callable[[int], float]
"""Does so many steps and returns the seconds they took, from nothing begun to all done."""

MOST_STEPS = 1_000
"""Steps in one round of the fastest contestants."""


def in_turn(
    contestants: Mapping[str, Contestant], rounds: int, round_s: float, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Time contestants one after the other, round by round, so that a machine that slows down slows all alike.

    Args:
        contestants: By name.
        rounds: How often each is timed.
        round_s: About how long each shall take in a round; a step is never cut.
        tell: Is told of every figure.

    Returns:
        Steps per second of each, one figure for each round. Two steps before the first round warm up.
    """
    steps = {}
    for name, contestant in contestants.items():
        contestant(1)
        steps[name] = min(max(math.ceil(round_s / contestant(1)), 1), MOST_STEPS)
    steps_per_s: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            steps_per_s[name].append(steps[name] / contestant(steps[name]))
            tell(f"round {number} of {rounds}: {name}: {steps_per_s[name][-1]:,.3g} steps/s")
    return steps_per_s


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
    processes, connections = [], []
    for share in shares:
        connection, its_connection = context.Pipe()
        processes.append(context.Process(target=_do, args=(work, share, its_connection)))
        connections.append(connection)
        processes[-1].start()
        its_connection.close()
    try:
        for connection in connections:
            connection.recv()
        start = time.perf_counter()
        for connection in connections:
            connection.send(None)
        for connection in connections:
            connection.recv()
        return time.perf_counter() - start
    except (EOFError, BrokenPipeError):
        raise LaunchError("a measured process failed; what it said stands above") from None
    finally:
        for connection in connections:
            connection.close()
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


def _do(work: Work, share: tuple[Any, ...], connection: Connection) -> None:
    with work(*share) as timed:
        connection.send(None)
        try:
            connection.recv()
        except EOFError:  # another process failed
            return
        timed()
        connection.send(None)
