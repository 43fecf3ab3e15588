"""What a teacher adds to a student's training step: run along with it, or read from what it said before."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from avemo.labels import EXPRESSIONS
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.stages import student, teacher
from avemo.stages.student import Distillation, teach
from avemo.stages.supervision import training_faces
from avemo.training import Stage
from data_pipelines.loaders import FaceSet
from launch.benchmarks.our_step import Loop, OurStep, repeated
from launch.benchmarks.results import round_by_round
from launch.benchmarks.stopwatch import Contestant, in_turn
from launch.benchmarks.workload import Workload
from launch.loop import Together
from launch.mesh import compiler_options, put_batch, replicated
from launch.teacher_cache import TeacherCache
from launch.train import face_streams, faces_in_a_step, from_kept_outputs, sources_of, without_teacher

ALONE = "from labels alone"
CACHED = "with what the teacher said before"
ONLINE = "with the teacher"
TEACHER = "teacher's forward pass"

ROUNDS = 7
ROUND_S = 3.0


def measure_steps(
    config: Distillation, taught_by: tuple[FaceConfig, Any], data: Path, faces: FaceSet, mesh: Mesh
) -> dict[str, Any]:
    """Time a student's step, loader included, with and without its teacher, in turn.

    Args:
        config: the distillation; without a number of views what the teacher said before isn't timed.
        taught_by: the teacher's network and variables.
        data: folder of the prepared corpora.
        faces: the labelled faces.
        mesh: the devices.

    Returns:
        "seconds" of a step of each, round by round, and "ratios", of cached to alone, and of online to alone and the
        teacher's forward pass together.
    """
    weights = np.ones(len(EXPRESSIONS), np.float32)
    stages = {ALONE: teacher.build(without_teacher(config), weights, seed=0)}
    stages[ONLINE] = distilled = student.build(config, weights, 0, [taught_by])
    batches = {ALONE: face_streams(data, faces, config, 0), ONLINE: face_streams(data, faces, config, 0)}
    if config.views:
        sources = sources_of(config, faces).items()
        config = replace(config, views=1)  # of which one costs as much as another
        caches = {stream: TeacherCache(data, stream, source, *taught_by, config, mesh) for stream, source in sources}
        for cache in caches.values():
            cache.fill()
        stages[CACHED] = from_kept_outputs(distilled)
        kept = {stream: [cache.kept] for stream, cache in caches.items()}
        batches[CACHED] = face_streams(data, faces, config, 0, taught=kept)

    contestants: dict[str, Contestant] = {
        name: Loop(batches[name], OurStep(_workload(config, stage, batches[name]), mesh))
        for name, stage in stages.items()
    }
    contestants[TEACHER] = Forward(config, taught_by, put_batch(mesh, next(batches[ONLINE])), mesh)
    rates = in_turn(contestants, ROUNDS, ROUND_S, lambda line: None)
    seconds = {name: [1 / rate for rate in values] for name, values in rates.items()}
    apart = [sum(pair) for pair in zip(seconds[ALONE], seconds[TEACHER], strict=True)]
    ratios = {"online / (alone + teacher's forward pass)": round_by_round(seconds[ONLINE], apart)}
    if config.views:
        ratios["cached / alone"] = round_by_round(seconds[CACHED], seconds[ALONE])
    return {"seconds": seconds, "ratios": ratios}


class Forward:
    """A teacher over the faces of one batch, as the student's step runs it."""

    def __init__(self, config: Distillation, taught_by: tuple[FaceConfig, Any], batch: Any, mesh: Mesh) -> None:
        network, self.variables = FaceNetwork(taught_by[0]), jax.device_put(taught_by[1], replicated(mesh))
        self.images = jax.jit(partial(training_faces, config=config, seed=0))(batch)
        options = compiler_options(mesh.devices.flat[0])
        self.teach = jax.jit(lambda v, x: teach(network, v, config.both_ways, x)[0], compiler_options=options)

    def __call__(self, steps: int) -> float:
        """Run it so many times. Returns the seconds it took."""
        return repeated(lambda: self.teach(self.variables, self.images), steps)


def _workload(config: Distillation, stage: Stage, batches: Together) -> Workload:
    return Workload(config, stage, next(batches), faces_in_a_step(config), "images")
