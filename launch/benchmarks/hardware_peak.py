"""What the device reaches at most: the yardsticks of achieved FLOP/s and bytes/s."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from avemo.models.layers import TrainingDType

SIDES = {"cpu": 2048, "accelerator": 8192}
"""Rows and columns of the matrices whose product is timed; large enough that nothing but the product counts."""

COPIED_BYTES = {"cpu": 1 << 28, "accelerator": 1 << 30}
"""Size of the array that is copied; far more than any cache holds."""

REPEATS = 10
"""Runs within one timing, so that the start of a run doesn't count."""


def measure_peak(dtype: TrainingDType, rounds: int) -> dict[str, list[float]]:
    """Time a large matrix product and a large copy on the first device.

    Args:
        dtype: Of the matrices. Products of float32 run at JAX's default precision (TF32 on NVIDIA's GPUs), as they do
            in the networks.
        rounds: How often each is timed.

    Returns:
        "flops_per_s" (a multiply-add is two) and "bytes_per_s" (read and written) of every round.
    """
    device = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    side, copied = SIDES[device], COPIED_BYTES[device]
    matrix = jnp.full((side, side), 1 / side, dtype)
    array = jnp.ones(copied // 4, jnp.float32)
    product = jax.jit(lambda a: a @ a)
    negated = jax.jit(lambda a: -a)  # a copy that no compiler can leave out
    return {
        "flops_per_s": [2 * side**3 / _seconds(product, matrix) for _ in range(rounds)],
        "bytes_per_s": [2 * copied / _seconds(negated, array) for _ in range(rounds)],
    }


def _seconds(function: Callable[[jax.Array], jax.Array], start: jax.Array) -> float:
    """Time of one run, each taking what the one before gave."""
    value = jax.block_until_ready(function(start))
    began = time.perf_counter()
    for _ in range(REPEATS):
        value = function(value)
    jax.block_until_ready(value)
    return (time.perf_counter() - began) / REPEATS
