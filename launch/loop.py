"""The one training loop. It owns devices, checkpoints and logs; the stage owns all the mathematics."""

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avemo.training import Stage, TrainState, stream_key
from launch.checkpoints import Checkpoints, is_whole
from launch.errors import LaunchError
from launch.hosts import compile_together, from_first_host, is_first_host
from launch.interruption import Check, Interrupted, Interruption
from launch.mesh import compiler_options, put_batch, replicated, split_batch, state_sharding, with_whole_parameters
from launch.profile import Profile
from launch.runs import METRICS_FILE, RUN_FILE, RunRecord, first_difference, read_record, write_json

METRICS_DELAY = 2
"""Metrics are read this many steps late, so that reading them never makes the device wait for the host."""


class Batches(Protocol):
    """An endless iterator over batches whose position can be saved, as Grain's are.

    The position is {"next_index": k}: k batches were taken. Batch k is the same whatever the position was saved on, so
    a run can go on with other numbers of threads, devices and hosts.
    """

    def __next__(self) -> Mapping[str, Any]:
        """The next batch, a pytree of numpy arrays."""

    def get_state(self) -> dict[str, int]:
        """The position."""

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position."""


class Together:
    """Several iterators as one: each batch holds one batch of each, by name."""

    def __init__(self, parts: Mapping[str, Batches]) -> None:
        self.parts = parts

    def __next__(self) -> dict[str, Any]:
        return {name: next(part) for name, part in self.parts.items()}

    def get_state(self) -> dict[str, int]:
        """The position, which all parts share."""
        return next(iter(self.parts.values())).get_state()

    def set_state(self, state: dict[str, int]) -> None:
        """Move all to the position."""
        for part in self.parts.values():
            part.set_state(state)


@dataclass(frozen=True)
class Rhythm:
    """How often the loop does what is not training.

    Attributes:
        log_every: steps between lines in metrics.jsonl.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        checkpoint_every: steps between checkpoints; what is evaluated is saved before in any case.
    """

    log_every: int = 20
    evaluate_every: int = 1_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1:
            raise ValueError("log_every, evaluate_every and checkpoint_every must be positive")

    def evaluates(self, step: int, steps: int) -> bool:
        """Whether a step, of so many in all, is evaluated."""
        return step == steps or (step > 0 and step % self.evaluate_every == 0)


def start_run(run: Path, record: RunRecord, steps: int, resume: bool) -> bool:
    """Open a run's folder, or go on with one that asks for the very same thing.

    Returns:
        Whether any of its steps, or the evaluation of the last one, is left to do.

    Raises:
        LaunchError: the folder holds a run and `resume` was not given, or a run of another configuration.
    """
    if not from_first_host((run / RUN_FILE).exists):
        if is_first_host():
            run.mkdir(parents=True, exist_ok=True)
            write_json(run / RUN_FILE, asdict(record))
        return True
    if not resume:
        raise LaunchError(f"{run} holds a run already: add --resume to go on with it, or choose another --out")
    earlier = read_record(run)
    if (difference := first_difference(record.what(), earlier.what())) is not None:
        raise LaunchError(f"{run} can't be resumed: it was started with another {difference}")
    done = from_first_host(lambda: is_evaluated(run / METRICS_FILE, steps) and is_whole(run, steps))
    if done and is_first_host():
        print(f"reused: {run} (all {steps} steps are done)")
    return not done


def train(
    *,
    name: str,
    run: Path,
    stage: Stage,
    batches: Batches,
    steps: int,
    examples_per_step: int,
    seed: int,
    mesh: Mesh,
    rhythm: Rhythm,
    evaluate: Callable[[Any, Check], dict[str, float]],
    profile_steps: int = 0,
) -> TrainState:
    """Train to the last step, going on from the newest whole checkpoint if there is one.

    A step is saved before it is evaluated, so that a signal can cut the evaluation short and loses nothing: the resumed
    run begins with this evaluation.

    Args:
        name: what the progress bar says.
        run: the run's folder, see `start_run`.
        stage: the three functions of the experiment.
        batches: batches of this host, from the beginning of the data.
        steps: updates in all.
        examples_per_step: for the rate in the progress bar.
        seed: seeds the initial parameters.
        mesh: the devices.
        rhythm: when to log, evaluate and save.
        evaluate: (variables, check) -> figures, logged with the step; it calls `check` after each of its batches.
        profile_steps: how many steps are traced, see `launch.profile.Profile`.

    Raises:
        LaunchError: loss or gradient is not finite (the message names step and records); the run's folder can't be
            written; all its checkpoints are damaged; fewer steps are left than are to be traced.
        Interrupted: SIGTERM or SIGINT came; all steps done are saved.
    """
    init = lambda: stage.init(stream_key(seed, "init"))
    shapes = jax.eval_shape(init)
    sharding = state_sharding(mesh, shapes)
    frozen = jax.device_put(stage.frozen, replicated(mesh))
    train_step = jit_step(stage, mesh, sharding)
    message = f"{run} was told to stop, and all its steps are saved: to go on, add --resume to the command"
    with Interruption(message) as interruption, Checkpoints(run, training=True) as checkpoints:
        first_step = checkpoints.latest_step() or 0
        if first_step:
            like = jax.tree.map(lambda leaf, where: leaf.update(sharding=where), shapes, sharding)
            state, position = checkpoints.restore(like, mesh)
            batches.set_state(position["batches"])
        else:
            state, position = jax.jit(init, out_shardings=sharding)(), {"metrics": []}

        left_out = rhythm.evaluates(first_step, steps) and not from_first_host(
            lambda: is_evaluated(run / METRICS_FILE, first_step)
        )
        with (
            Profile(run, first_step, steps, profile_steps) as profile,
            Log(run, name, first_step, steps, rhythm.log_every, examples_per_step, position["metrics"]) as log,
        ):
            log_evaluation = lambda step: log.write_evaluation(step, evaluate(state.variables, interruption.check))
            if left_out:
                log_evaluation(first_step)
            for step in range(first_step + 1, steps + 1):
                with profile.step(step):
                    with jax.profiler.TraceAnnotation("next_batch"):
                        batch = next(batches)
                    given = put_batch(mesh, batch)
                    if step == first_step + 1:
                        compile_together(train_step, state, given, *frozen)
                    state, metrics = train_step(state, given, *frozen)
                    del given  # else its memory would be held until the next one is there
                    log.add(step, metrics, batch)
                if profile.ends_with(step, state):
                    log.restart_clock()  # writing took a while
                told, evaluates = interruption.told_by(step), rhythm.evaluates(step, steps)
                if told or evaluates or step % rhythm.checkpoint_every == 0:
                    log.flush()
                    checkpoints.save(step, state, {"batches": batches.get_state(), "metrics": [*log.recent]})
                if told:
                    raise Interrupted(message)
                if evaluates:
                    log_evaluation(step)
    return state


def jit_step(stage: Stage, mesh: Mesh, sharding: Any) -> jax.stages.Wrapped:
    """The jitted training step, (state, batch, *frozen) -> (state, metrics); the state it is given is used up.

    Args:
        stage: the experiment.
        mesh: the devices.
        sharding: where each array of the state lies, by `launch.mesh.state_sharding`.
    """
    everywhere = replicated(mesh)
    return jax.jit(
        with_whole_parameters(mesh, stage.train_step),
        donate_argnums=0,
        in_shardings=(sharding, split_batch(mesh), *(everywhere for _ in stage.frozen)),
        out_shardings=(sharding, everywhere),
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )


class Log:
    """Reads metrics a little late, checks that the loss is finite, and writes means over `every` steps.

    Only the first host writes and shows progress. To be used with `with`.
    """

    def __init__(
        self,
        run: Path,
        name: str,
        first_step: int,
        steps: int,
        every: int,
        examples_per_step: int,
        recent: list[dict[str, float]],
    ) -> None:
        self.path, self.every, self.examples_per_step = run / METRICS_FILE, every, examples_per_step
        self.pending: deque[tuple[int, dict[str, jax.Array], Mapping[str, Any]]] = deque()
        self.recent = recent  # since the last line
        if is_first_host():
            if first_step:
                tqdm.write(f"{name}: goes on from step {first_step} of {run}")
            truncate_log(self.path, first_step)
        self.progress = tqdm(
            total=steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True, disable=not is_first_host()
        )
        self.restart_clock()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.close()

    def restart_clock(self) -> None:
        """Count examples/s from now, so that evaluations and compilation don't spoil the rate."""
        self.clock, self.clock_steps = time.perf_counter(), 0

    def add(self, step: int, metrics: dict[str, jax.Array], batch: Mapping[str, Any]) -> None:
        """Take the (unfinished) metrics of a step, and read those of an earlier one."""
        self.pending.append((step, metrics, batch))
        if len(self.pending) > METRICS_DELAY:
            self._read()

    def flush(self) -> None:
        """Read all that is pending."""
        while self.pending:
            self._read()

    def write_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """One line with the figures of an evaluation."""
        self.write(step, {f"eval/{name}": value for name, value in figures.items()})
        self.restart_clock()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl. Raises LaunchError where it can't be written."""
        if not is_first_host():
            return
        with explained(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")

    def _read(self) -> None:
        step, metrics, batch = self.pending.popleft()
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values.get("gradient_norm", 0.0))):
            raise LaunchError(
                f"the loss is {values['loss']} at step {step} ({self.path.parent}), or its gradient is not finite; "
                f"{describe_records(batch)}. "
                "Lower --optimizer.learning-rate, or look at these records"
            )
        self.recent.append(values)
        self.clock_steps += 1
        rate = self.clock_steps * self.examples_per_step / (time.perf_counter() - self.clock)
        self.progress.set_postfix_str(f"loss {values['loss']:.3f}, {rate:,.0f} examples/s", refresh=False)
        self.progress.update()
        if step % self.every == 0:
            means = {key: float(np.mean([row[key] for row in self.recent])) for key in values}
            self.write(step, means | {"examples_per_s": rate})
            self.recent.clear()
        if self.clock_steps == 1:  # the first step after a start compiles
            self.restart_clock()


def describe_records(batch: Mapping[str, Any]) -> str:
    """Which records a batch was made of, by their positions in the prepared data."""
    leaves = jax.tree_util.tree_flatten_with_path(batch)[0]
    indices = {
        jax.tree_util.keystr(path[:-1], simple=True) or "batch": np.asarray(leaf).ravel().tolist()
        for path, leaf in leaves
        if jax.tree_util.keystr(path[-1:], simple=True) == "index"
    }
    return "; ".join(f"{name} records {values}" for name, values in indices.items())


def truncate_log(path: Path, step: int) -> None:
    """Drop lines after a step, and a half-written last one, so that a resumed run logs each step once."""
    if not path.exists():
        return
    kept = [line for line, row in whole_lines(path) if row["step"] <= step]
    shortened = path.with_suffix(".tmp")  # renamed into place, or else a kill now would lose all lines
    with explained(shortened):
        shortened.write_text("".join(f"{line}\n" for line in kept))
    shortened.replace(path)


def is_evaluated(path: Path, step: int) -> bool:
    """Whether a log holds the evaluation of a step."""
    return any(row["step"] == step and "loss" not in row for _, row in whole_lines(path))


def whole_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a log and what they say, up to a half-written last one; none where there is no log."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append((line, json.loads(line)))
        except json.JSONDecodeError:
            break
    return lines


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing a file, such as a full disk, into a LaunchError that says what to do."""
    try:
        yield
    except OSError as error:
        free_mb = shutil.disk_usage(path.parent).free / 1e6
        raise LaunchError(
            f"{path} can't be written ({free_mb:,.1f} MB free): {error.strerror}. "
            "Mend this, such as by making room, and go on with --resume"
        ) from error
