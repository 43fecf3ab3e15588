"""How long classifiers take, each number of threads in a process of its own.

A classifier is timed from an array of faces as its network takes them to an array of probabilities, with whatever its
library does in between. All are timed in turn in one process, so that a machine that slows down slows all alike.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from launch.benchmarks.classifiers import Built, Classifier
from launch.compilation_cache import without_kept_programs
from launch.errors import LaunchError

ROUNDS = 5
CALLS_IN_A_ROUND = 40
WARM_UP_CALLS = 5
BATCHES = (1, 4, 16, 64, 256)
"""Each four times the one before."""

LONGEST_ROUND_S = 1.0
"""A round ends after so many calls, or so many seconds and at least `FEWEST_CALLS` of them."""

FEWEST_CALLS = 6
LONGEST_CALL_S = 2.0
"""Batches that would take longer are left out."""


def measure_apart(
    classifiers: Mapping[str, Classifier], faces: np.ndarray, threads: int | None, batches: Sequence[int] = BATCHES
) -> dict[str, Any]:
    """Time classifiers on the CPU, in a new process that may use only so many processors, None for all there are.

    Args:
        classifiers: By name.
        faces: uint8 N×H×W×3.
        threads: How many.
        batches: Sizes of batches, each four times the one before.

    Returns:
        For each classifier what `measure` says.

    Raises:
        LaunchError: the process failed; what it said stands above.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of the libraries loaded here
    connection, its_connection = context.Pipe()
    process = context.Process(target=_measure_here, args=(its_connection, dict(classifiers), faces, threads, batches))
    process.start()
    its_connection.close()
    try:
        found = connection.recv()
    except EOFError:
        raise LaunchError("a measured process failed; what it said stands above") from None
    finally:
        connection.close()
        process.join()
    if isinstance(found, str):
        raise LaunchError(found)
    return found


def measure(
    classifiers: Mapping[str, Classifier], faces: np.ndarray, threads: int | None, batches: Sequence[int] = BATCHES
) -> dict[str, Any]:
    """Time classifiers in this process.

    Returns:
        For each: "processors" that were free to it; "compile_s" and "memory_bytes" for one face; "latency_s", the
        seconds of every call with one face; "faces_per_s" by size of batch, medians.
    """
    found: dict[str, dict[str, Any]] = {}
    quick = dict(classifiers)
    for batch in batches:
        some = np.resize(faces, (batch, *faces.shape[1:]))  # repeats them if need be
        inputs = {name: each.prepare(some) for name, each in quick.items()}
        with without_kept_programs():
            built: dict[str, Built] = {name: each.build(batch, threads) for name, each in quick.items()}
        for name, seconds in _in_turn(built, inputs).items():
            if batch == 1:
                found[name] = {
                    "processors": len(os.sched_getaffinity(0)),
                    "compile_s": built[name].seconds,
                    "memory_bytes": built[name].memory,
                    "latency_s": seconds,
                    "faces_per_s": {},
                }
            found[name]["faces_per_s"][str(batch)] = rate = batch / float(np.median(seconds))
            if 4 * batch / rate > LONGEST_CALL_S:
                del quick[name]
    return found


def _in_turn(built: Mapping[str, Built], inputs: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Seconds of every call of each, some at a time and then the next one's."""
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(ROUNDS):
        for name, each in built.items():
            given = inputs[name]
            for _ in range(1 if len(given) > 1 else WARM_UP_CALLS):  # others had the caches in between
                each.probabilities(given)
            begin = time.perf_counter()
            for call in range(CALLS_IN_A_ROUND):
                start = time.perf_counter()
                each.probabilities(given)
                end = time.perf_counter()
                seconds[name].append(end - start)
                if call + 1 >= FEWEST_CALLS and end - begin > LONGEST_ROUND_S:
                    break
    return seconds


def _measure_here(
    connection: Connection,
    classifiers: dict[str, Classifier],
    faces: np.ndarray,
    threads: int | None,
    batches: Sequence[int],
) -> None:
    if threads is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before XLA counts the processors
    jax.config.update("jax_platforms", "cpu")
    try:
        connection.send(measure(classifiers, faces, threads, batches))
    except LaunchError as error:
        connection.send(str(error))
