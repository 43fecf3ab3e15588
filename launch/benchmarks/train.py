"""`avemo benchmark train`: how fast the training steps are, against the machine's peak and against PyTorch."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from avemo.models.layers import TrainingDType
from avemo.stages.fusion import FusionTraining
from launch.benchmarks import scaling
from launch.benchmarks.hardware_peak import measure_peak
from launch.benchmarks.input_pipeline import batches_of, prepare_faces
from launch.benchmarks.our_step import Loader, Loop, OurRecurrent, OurStep, one_device
from launch.benchmarks.results import (
    as_json,
    installed,
    machine,
    round_by_round,
    table,
    used_by_others,
    write_results,
)
from launch.benchmarks.stopwatch import Contestant, in_turn
from launch.benchmarks.workload import PREPARED_SIZE_PX, Preset, StageName, make_workload
from launch.compilation_cache import without_kept_programs
from launch.freed_memory import keep_freed_memory

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
"""Whose versions the results name, where they are installed."""

STEP = "avemo"
TORCH_STEP = "PyTorch"
CORE = "recurrent core, avemo"
TORCH_CORE = "recurrent core, PyTorch"
LOADER = "loader alone"
LOOP = "loader and step together"

GPU_MEMORY_SHARE = "0.45"
"""Of a GPU's memory for JAX, which would take three quarters: PyTorch needs as much."""


@dataclass(frozen=True)
class BenchmarkTrain:
    """Measure the training steps against the machine's peak, and against the same networks in PyTorch if installed.

    Attributes:
        out: JSON file for the results.
        preset: whose networks and batches.
        stages: which training steps.
        dtype: compute dtype; PyTorch's autocast where it is bfloat16.
        rounds: how often everything is measured, in turn.
        round_s: about how long each measurement lasts, seconds.
        scaling: also on 1, 2, 4 and 8 devices (simulated on a CPU), with a count of what they send each other.
    """

    out: Path
    preset: Preset = "demo"
    stages: tuple[StageName, ...] = get_args(StageName)
    dtype: TrainingDType = "float32"
    rounds: int = 5
    round_s: float = 2.0
    scaling: bool = False

    def __post_init__(self) -> None:
        if not self.stages or self.rounds < 1 or self.round_s <= 0:
            raise ValueError("stages must not be empty, rounds and round_s must be positive")

    def __call__(self) -> None:
        """Measure, print the tables and write the results."""
        keep_freed_memory()  # as a training does; PyTorch's steps gain as well
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_MEMORY_SHARE)  # before a device is touched
        with without_kept_programs():
            self._measure(Console())

    def _measure(self, console: Console) -> None:
        used = [used_by_others(console)]
        absence = torch_absence()
        if absence:
            console.print(f"without PyTorch: {absence}", markup=False)
        console.print("measuring the machine's peak ...")
        peak = measure_peak(self.dtype, self.rounds)
        stages: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory(prefix="avemo-benchmark-") as folder:
            prepared = Path(folder) / "prepared"
            if set(self.stages) - {"fusion"}:
                console.print("drawing and preparing faces for the loaders ...")
                prepared = prepare_faces(Path(folder), PREPARED_SIZE_PX[self.preset], os.cpu_count() or 1)
            for stage in self.stages:
                stages[stage] = found = self._measure_stage(stage, prepared, absence is None, peak, console)
                console.print(table(f"{stage}: steps/s", found["steps_per_s"], "{:,.2f}"))
                console.print(table(f"{stage}: ratios, round by round", found["ratios"], "{:.3f}"))
                if self.scaling:
                    found["scaling"] = self._measure_scaling(stage, console)
                    console.print(scaling_table(stage, found["scaling"]))
        giga = {name: [value / 1e9 for value in values] for name, values in peak.items()}
        reached = {"product, GFLOP/s": giga["flops_per_s"], "copy, GB/s": giga["bytes_per_s"]}
        console.print(table(f"peak, {self.dtype}", reached, "{:,.1f}"))
        console.print(summary(f"{self.preset}, {self.dtype}: medians", stages))
        used.append(used_by_others(console))
        device = jax.devices()[0]
        results = {
            "settings": as_json(self),
            "machine": machine(PACKAGES)
            | {
                "platform of jax": device.platform,
                "device": device.device_kind,
                "devices": jax.device_count(),
                "used by others": used,
            },
            "jax": {"products of float32": "TF32" if device.platform == "gpu" else "JAX's default precision"},
            "torch": {"absent": absence} if absence else torch_settings(self.dtype),
            "peak": peak,
            "stages": stages,
        }
        write_results(self.out, results, console)

    def _measure_stage(
        self, name: StageName, prepared: Path, with_torch: bool, peak: Mapping[str, Sequence[float]], console: Console
    ) -> dict[str, Any]:
        """All figures of one stage but its scaling."""
        console.print(f"{name}: compiling ...")
        work = make_workload(name, self.preset, self.dtype)
        step = OurStep(work, one_device())
        loop = Loop(batches_of(work.config, prepared), step)
        contestants: dict[str, Contestant] = {STEP: step}
        compile_s = {f"{STEP}, {part}": seconds for part, seconds in step.seconds.items()}
        core = OurRecurrent(work.config) if isinstance(work.config, FusionTraining) else None
        equality = {}
        if with_torch:
            from launch.benchmarks.torch_peer import TorchRecurrent, TorchStep, prove_recurrent, prove_step

            console.print(f"{name}: comparing outputs with PyTorch's ...")
            equality = prove_step(work, step.state.variables)
            theirs = TorchStep(work, step.state.variables)
            contestants[TORCH_STEP] = theirs
            compile_s[f"{TORCH_STEP}, first step"] = theirs.seconds
        if core:
            contestants[CORE] = core
        if core and with_torch:
            contestants[TORCH_CORE] = torch_core = TorchRecurrent(core)
            equality["recurrent core"] = prove_recurrent(core, torch_core)
        contestants |= {LOADER: Loader(batches_of(work.config, prepared)), LOOP: loop}

        steps_per_s = in_turn(
            contestants, self.rounds, self.round_s, lambda line: console.print(f"{name}: {line}", highlight=False)
        )
        pairs = {
            f"{STEP} / {TORCH_STEP}": (STEP, TORCH_STEP),
            f"{CORE} / PyTorch": (CORE, TORCH_CORE),
            f"{LOADER} / {STEP}": (LOADER, STEP),
            f"{LOOP} / {STEP}": (LOOP, STEP),
        }
        ratios = {
            label: round_by_round(steps_per_s[ours], steps_per_s[other])
            for label, (ours, other) in pairs.items()
            if {ours, other} <= steps_per_s.keys()
        }
        ratios["waiting for data"] = loop.waiting[-self.rounds :]
        ratios["share of peak FLOP/s"] = [rate * step.flops / max(peak["flops_per_s"]) for rate in steps_per_s[STEP]]
        if step.bytes:
            ratios["share of peak bytes/s"] = [
                rate * step.bytes / max(peak["bytes_per_s"]) for rate in steps_per_s[STEP]
            ]
        return {
            "config": asdict(work.config),
            "unit": work.unit,
            "examples_per_step": work.examples,
            "flops_per_step": step.flops,
            "bytes_per_step": step.bytes,
            "compile_s": compile_s,
            "equality": equality,
            "steps_per_s": steps_per_s,
            "ratios": ratios,
        }

    def _measure_scaling(self, name: StageName, console: Console) -> list[dict[str, Any]]:
        found = []
        for count in scaling.device_counts():
            console.print(f"{name}: {count} devices ...")
            found.append(scaling.measure_on(count, name, self.preset, self.dtype, self.rounds, self.round_s))
        return found


def torch_absence() -> str | None:
    """Why PyTorch isn't measured, if it isn't."""
    if not installed("torch"):
        return 'not installed (in the project folder: pip install -e ".[benchmark]")'
    from launch.benchmarks.torch_peer import absence

    return absence()


def torch_settings(dtype: TrainingDType) -> dict[str, str]:
    """How PyTorch's side runs."""
    from launch.benchmarks.torch_peer import settings

    return settings(dtype)


def summary(title: str, stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """One column for each stage, of medians over the rounds."""
    shown = Table("", *stages, title=title, title_justify="left")
    for name, figure in SUMMARY.items():
        shown.add_row(name, *map(figure, stages.values()))
    return shown


def _rate(found: Mapping[str, Any]) -> float:
    return float(np.median(found["steps_per_s"][STEP]))


def _ratio(label: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda found: form.format(np.median(found["ratios"][label])) if label in found["ratios"] else "–"


def _compile_s(found: Mapping[str, Any]) -> float:
    return sum(seconds for part, seconds in found["compile_s"].items() if part.startswith(STEP))


SUMMARY: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "steps/s": lambda found: f"{_rate(found):,.2f}",
    "examples/s": lambda found: f"{_rate(found) * found['examples_per_step']:,.0f} {found['unit']}",
    "× PyTorch": _ratio(f"{STEP} / {TORCH_STEP}", "{:.2f}"),
    "recurrent core × PyTorch": _ratio(f"{CORE} / PyTorch", "{:.2f}"),
    "GFLOP/s": lambda found: f"{_rate(found) * found['flops_per_step'] / 1e9:,.0f}",
    "share of peak FLOP/s": _ratio("share of peak FLOP/s", "{:.0%}"),
    "share of peak bytes/s": _ratio("share of peak bytes/s", "{:.0%}"),
    "compiling, s": lambda found: f"{_compile_s(found):,.1f}",
    "loader / step": _ratio(f"{LOADER} / {STEP}", "{:.1f}"),
    "waiting for data": _ratio("waiting for data", "{:.1%}"),
}
"""The rows of the summary."""


def scaling_table(stage: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each number of devices."""
    columns = ("devices", "steps/s", "collectives in a step", "gradients in", "each once")
    shown = Table(*columns, title=f"{stage}: devices", title_justify="left")
    for row in found:
        sent = ", ".join(
            f"{total['count']} {kind} ({total['bytes'] / 1e6:,.2f} MB)" for kind, total in row["collectives"].items()
        )
        gradients = row["gradients"]
        once = "yes" if gradients["each_once"] else "no"
        shown.add_row(
            str(row["devices"]),
            f"{np.median(row['steps_per_s']):,.2f}",
            sent or "none",
            f"{gradients['all_reduces']} all-reduces" if sent else "",
            once if sent else "",
        )
    return shown
