"""Size and speed of a face network: parameters, floating-point operations, latency and throughput."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from avemo.models.face import FaceConfig, FaceNetwork, variable_shapes
from launch.mesh import compiler_options

THROUGHPUT_BATCH = 64
REPEATS = 30


def measure_speed(config: FaceConfig, variables: Any) -> dict[str, float]:
    """Measure the compiled network on one device, after warm-up; medians over repeats.

    Returns:
        "parameters"; "flops" of one face, see `count_flops`; "ms_batch_1", milliseconds for
        one face alone; "images_per_s" in batches of 64.
    """
    variables = jax.device_put(variables, jax.devices()[0])
    network = FaceNetwork(config)

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        outputs: Any = network.apply(variables, images, train=False)
        return outputs["expression"], outputs["valence_arousal"], outputs["embedding"]

    def seconds(batch: int) -> float:
        images = np.zeros((batch, config.image_size, config.image_size, 3), np.uint8)
        compiled = forward.lower(variables, images).compile(compiler_options(jax.devices()[0]))
        on_device = jax.device_put(images, jax.devices()[0])
        return median_s(lambda: compiled(variables, on_device))

    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "flops": count_flops(config),
        "ms_batch_1": 1e3 * seconds(1),
        "images_per_s": THROUGHPUT_BATCH / seconds(THROUGHPUT_BATCH),
    }


def median_s(call: Callable[[], Any]) -> float:
    """Seconds that a call takes until its results are there: the median over repeats, after warm-up."""
    times = []
    for _ in range(REPEATS + 3):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]))


def count_flops(config: FaceConfig) -> float:
    """Floating-point operations of one face through the whole network, as XLA counts them (a multiply-add is two)."""
    network = FaceNetwork(config)
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.uint8)
    variables = variable_shapes(network)
    forward = jax.jit(lambda v, x: network.apply(v, x, train=False))
    costs: Any = forward.lower(variables, images).cost_analysis()
    return float(costs["flops"])
