"""The same training step on 1, 2, 4 and 8 devices, each number in a process of its own.

On a CPU the devices are simulated and share its cores: what counts there is what travels between them, not the speed.
"""

import json
import os
import subprocess
import sys
from typing import Any

import jax

from avemo.models.layers import TrainingDType
from launch.benchmarks.collectives import by_kind, collectives, gradient_reductions
from launch.benchmarks.our_step import OurStep
from launch.benchmarks.stopwatch import in_turn
from launch.benchmarks.workload import Preset, StageName, make_workload
from launch.errors import LaunchError
from launch.mesh import check_batch_size, data_mesh

DEVICES = (1, 2, 4, 8)


def device_counts() -> list[int]:
    """Those of `DEVICES` that this machine has; a CPU has all. Raises LaunchError on any but CPUs and GPUs."""
    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        raise LaunchError(f"--scaling works on CPUs and GPUs, not on {platform}")
    return [count for count in DEVICES if platform == "cpu" or count <= jax.device_count()]


def measure_on(count: int, stage: StageName, preset: Preset, dtype: TrainingDType, rounds: int, round_s: float) -> dict:
    """Measure a stage's step on so many devices, in a new process; the batch stays what it is.

    Returns:
        "devices", "steps_per_s" of each round, "collectives" (see `collectives.by_kind`) and "gradients" (see
        `collectives.gradient_reductions`).

    Raises:
        LaunchError: the process failed, for instance because the batch can't be split so.
    """
    settings = json.dumps([stage, preset, dtype, rounds, round_s])
    command = [sys.executable, "-m", "launch.benchmarks.scaling", settings]
    child = subprocess.run(command, env=os.environ | _only(count), capture_output=True, text=True)
    if child.returncode:
        raise LaunchError(f"{stage} on {count} devices failed: {child.stderr.strip().splitlines()[-1]}")
    return json.loads(child.stdout.splitlines()[-1])


def _only(count: int) -> dict[str, str]:
    """Variables that let a process see so many devices."""
    if jax.default_backend() == "cpu":
        return {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(jax.device_count())))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[:count])}


def measure(stage: StageName, preset: Preset, dtype: TrainingDType, rounds: int, round_s: float) -> dict[str, Any]:
    """What `measure_on` returns, on all devices of this process."""
    work, mesh = make_workload(stage, preset, dtype), data_mesh()
    check_batch_size(mesh, 1, batch_size=work.config.batch_size)
    step = OurStep(work, mesh)
    found = collectives(step.compiled.as_text() or "")
    return {
        "devices": mesh.size,
        "steps_per_s": in_turn({stage: step}, rounds, round_s, lambda line: None)[stage],
        "collectives": by_kind(found),
        "gradients": gradient_reductions(found, [leaf.shape for leaf in jax.tree.leaves(step.state.params)]),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
