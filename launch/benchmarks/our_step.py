"""Our side of the measurement: the very step that the training loop runs, and the recurrent core alone."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from avemo.models.recurrent import Recurrent, initial_carry
from avemo.stages.fusion import FusionTraining
from avemo.training import stream_key
from launch.benchmarks.flops import count_flops, has_scan
from launch.benchmarks.workload import Workload
from launch.loop import METRICS_DELAY, Batches, jit_step
from launch.mesh import MeshShape, device_mesh, put_batch, replicated, state_sharding

READ_AHEAD = 12
"""Batches taken out of a loader before the clock starts: more than it reads ahead while nobody waits."""


def one_device() -> Mesh:
    """The first device alone: what a measurement against PyTorch runs on."""
    return device_mesh(MeshShape(), jax.devices()[:1])


class OurStep:
    """The compiled training step of `launch.loop`, ready to run.

    Attributes:
        state: The training state; every step uses the one before up.
        compiled: The program.
        seconds: What it took to "lower" (trace) and to "compile" the step.
        flops: Floating-point operations of one step, see `flops.count_flops`.
        bytes: Moved by one step as XLA counts them for the compiled program; None where a scan hides most of them.
    """

    def __init__(self, work: Workload, mesh: Mesh) -> None:
        self.mesh = mesh
        init = lambda: work.stage.init(stream_key(0, "init"))
        sharding = state_sharding(mesh, jax.eval_shape(init))
        self.state = jax.jit(init, out_shardings=sharding)()
        self.frozen = jax.device_put(work.stage.frozen, replicated(mesh))
        self.batch = put_batch(mesh, work.batch)
        arguments = (self.state, self.batch, *self.frozen)
        start = time.perf_counter()
        lowered = jit_step(work.stage, mesh, sharding).lower(*arguments)
        traced = time.perf_counter()
        self.compiled = lowered.compile()
        self.seconds = {"lower": traced - start, "compile": time.perf_counter() - traced}
        self.flops = count_flops(work.stage.train_step, *arguments)
        costs: Any = self.compiled.cost_analysis()
        scans = has_scan(work.stage.train_step, *arguments)
        self.bytes = None if scans or not costs else costs.get("bytes accessed")

    def advance(self, batch: Any) -> dict[str, jax.Array]:
        """Begin one step; its metrics."""
        self.state, metrics = self.compiled(self.state, batch, *self.frozen)
        return metrics

    def __call__(self, steps: int) -> float:
        """Do steps with a batch that lies on the device. Returns the seconds they took."""
        start = time.perf_counter()
        for _ in range(steps):
            metrics = self.advance(self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


class Loader:
    """A loader alone, as fast as it can.

    Args:
        batches: Its endless iterator.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __call__(self, steps: int) -> float:
        """Take so many batches. Returns the seconds it took."""
        drain(self.batches)
        start = time.perf_counter()
        for _ in range(steps):
            next(self.batches)
        return time.perf_counter() - start


class Loop:
    """Loader and step together, as `launch.loop.train` runs them.

    Args:
        batches: An endless iterator of its own.
        step: What takes the batches.

    Attributes:
        waiting: For each call, the share of the time that the loop waited for its next batch.
    """

    def __init__(self, batches: Batches, step: OurStep) -> None:
        self.batches, self.step = batches, step
        self.waiting: list[float] = []

    def __call__(self, steps: int) -> float:
        """Do steps with batches from the loader. Returns the seconds they took."""
        drain(self.batches)
        pending: deque[dict[str, jax.Array]] = deque()
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - asked
            pending.append(self.step.advance(put_batch(self.step.mesh, batch)))
            if len(pending) > METRICS_DELAY:
                jax.device_get(pending.popleft())
        jax.block_until_ready((self.step.state, pending))
        seconds = time.perf_counter() - start
        self.waiting.append(waited / seconds)
        return seconds


def drain(batches: Batches) -> None:
    """Take what a loader has read ahead while nobody waited."""
    for _ in range(READ_AHEAD):
        next(batches)


class OurRecurrent:
    """The recurrent core alone, forward and backward: gradients of its parameters and of its inputs.

    Attributes:
        network: The core.
        params: Its parameters.
        inputs: What it is run on, BxTxD.
    """

    def __init__(self, config: FusionTraining) -> None:
        recurrent = config.network.recurrent
        self.network = Recurrent(recurrent)
        self.carry = initial_carry(recurrent, config.batch_size)
        shape = (config.batch_size, config.window_frames, 2 * config.network.projection)
        self.inputs = jax.random.normal(jax.random.key(0), shape)
        self.params = jax.jit(self.network.init)(jax.random.key(1), self.inputs, self.carry)["params"]

        def loss(params: Any, inputs: jax.Array) -> jax.Array:
            return jnp.square(self.outputs(params, inputs)).sum()

        self.gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))

    def outputs(self, params: Any, inputs: jax.Array) -> jax.Array:
        """Hidden states BxTxF."""
        hidden: Any = self.network.apply({"params": params}, inputs, self.carry)
        return hidden[0]

    def __call__(self, steps: int) -> float:
        """Take gradients so many times. Returns the seconds it took."""
        return repeated(lambda: self.gradients(self.params, self.inputs), steps)


def repeated(compute: Callable[[], Any], times: int) -> float:
    """Seconds that it takes to compute the same thing so many times, until the last is done."""
    start = time.perf_counter()
    for _ in range(times):
        found = compute()
    jax.block_until_ready(found)
    return time.perf_counter() - start
