"""`avemo train --profile STEPS`: a trace of what the host and its devices do during a few steps."""

from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from launch.errors import LaunchError
from launch.hosts import is_first_host

FOLDER = "profile"

WARM_UP_STEPS = 5
"""Steps before the trace: the first one compiles, and the input has to get ahead (our choice)."""


class Profile:
    """Traces a few steps of a training into `<run>/profile`, for Perfetto and XProf; to be used with `with`.

    Only the first host does, for the others do the same.

    Args:
        run: The run's folder.
        first_step: Steps that are done already.
        steps: Steps in all.
        count: How many are traced; 0 for none.

    Raises:
        LaunchError: so many are not left.
    """

    def __init__(self, run: Path, first_step: int, steps: int, count: int) -> None:
        self.folder = run / FOLDER
        self.first, self.last = first_step + WARM_UP_STEPS + 1, first_step + WARM_UP_STEPS + count
        self.tracing, self.wanted = False, count > 0 and is_first_host()
        if count and self.last > steps:
            raise LaunchError(
                f"--profile {count} takes {WARM_UP_STEPS} steps more, to warm up, but {run} has only "
                f"{steps - first_step} left: ask for fewer, or for more --steps"
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.tracing:
            self._stop()

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """To be used with `with`: what happens inside is this step, "train" in the trace."""
        if self.wanted and number == self.first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of a Python function would bury the rest
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True, profiler_options=options)
            self.tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def ends_with(self, number: int, results: Any) -> bool:
        """Whether this was the last of its steps; if so, the trace is written once the devices have the results."""
        if not (self.tracing and number == self.last):
            return False
        jax.block_until_ready(results)
        self._stop()
        return True

    def _stop(self) -> None:
        self.tracing = False
        jax.profiler.stop_trace()
        perfetto = max(self.folder.glob("plugins/profile/*/perfetto_trace.json.gz"))
        tqdm.write(f"profile: open {perfetto} at https://ui.perfetto.dev, or run: xprof --logdir {self.folder}")
