"""The training steps that are measured: the stages in the sizes of their presets, with a batch of chance numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from avemo.labels import EXPRESSIONS, SAMPLES_PER_FRAME, TRIPLET_KINDS
from avemo.models.face import FaceNetwork, init_variables
from avemo.models.layers import TrainingDType
from avemo.stages import fusion, student, teacher
from avemo.stages.fusion import FusionTraining
from avemo.stages.student import Distillation
from avemo.stages.supervision import FaceTraining
from avemo.training import Stage
from launch.demo import FACE_SIZE
from launch.train import PRESETS

StageName = Literal["teacher", "student", "fusion"]
Preset = Literal["demo", "paper"]

PREPARED_SIZE_PX = {"demo": FACE_SIZE, "paper": 160}
"""Side of the prepared faces, from which the networks see random crops: those of `avemo demo`, and what we advise."""

CLASS_WEIGHTS = np.ones(len(EXPRESSIONS), np.float32)


@dataclass(frozen=True)
class Workload:
    """A stage's training step, and what it is fed with.

    Attributes:
        config: The stage's configuration.
        stage: What the training loop takes.
        batch: A batch as the loaders give it, on the host.
        examples: How many examples a step takes.
        unit: What an example is: "images" or "frames".
        taught_by: The teacher's training, where there is a teacher.
    """

    config: FaceTraining | FusionTraining
    stage: Stage
    batch: Mapping[str, Any]
    examples: int
    unit: str
    taught_by: FaceTraining | None = None


def make_workload(name: StageName, preset: Preset, dtype: TrainingDType) -> Workload:
    """The training step of a stage as a preset has it, but for the compute dtype."""
    config = _with_dtype(PRESETS[name][preset], dtype)
    if isinstance(config, FusionTraining):
        frames = config.batch_size * config.window_frames
        return Workload(config, fusion.build(config, seed=0), _windows(config), frames, "frames")
    batch = _faces(config, PREPARED_SIZE_PX[preset])
    images = config.batch_size + 3 * config.triplet_batch_size
    if not isinstance(config, Distillation):
        return Workload(config, teacher.build(config, CLASS_WEIGHTS, seed=0), batch, images, "images")
    taught_by = _with_dtype(PRESETS["teacher"][preset], dtype)
    variables = jax.jit(lambda key: init_variables(FaceNetwork(taught_by.network), key))(jax.random.key(1))
    stage = student.build(config, CLASS_WEIGHTS, 0, [(taught_by.network, variables)])
    return Workload(config, stage, batch, images, "images", taught_by)


def _with_dtype(config: Any, dtype: TrainingDType) -> Any:
    return replace(config, network=replace(config.network, dtype=dtype))


def _faces(config: FaceTraining, size: int) -> dict[str, Any]:
    rng, count, triplets = np.random.default_rng(0), config.batch_size, config.triplet_batch_size
    pictures = lambda *shape: rng.integers(0, 256, (*shape, size, size, 3), np.uint8)
    batch: dict[str, Any] = {
        "affectnet": {
            "image": pictures(count),
            "expression": rng.integers(0, len(EXPRESSIONS), count, np.int32),
            "expression_valid": np.ones(count, bool),
            "valence_arousal": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
            "valence_arousal_valid": np.ones(count, bool),
            "index": np.arange(count),
            "epoch": np.zeros(count, np.int32),
        }
    }
    if triplets:
        kind = rng.integers(0, len(TRIPLET_KINDS), triplets, np.int32)
        batch["fec"] = {
            "image": pictures(triplets, 3),
            "kind": kind,
            "index": np.arange(triplets),
            "faces": np.arange(3 * triplets).reshape(triplets, 3),
            "epoch": np.zeros(triplets, np.int32),
        }
    return batch


def _windows(config: FusionTraining) -> dict[str, np.ndarray]:
    windows = [random_recording(config, config.window_frames, seed, reach=True) for seed in range(config.batch_size)]
    batch = {name: np.stack([window[name] for window in windows]) for name in windows[0]}
    return batch | {
        "begins": np.ones(config.batch_size, bool),
        "index": np.zeros((config.batch_size, 2), np.int64),
        "epoch": np.zeros(config.batch_size, np.int32),
    }


def random_recording(config: FusionTraining, frames: int, seed: int, reach: bool = False) -> dict[str, np.ndarray]:
    """A recording as `launch.evaluation.fusion_arrays` makes it, of chance numbers; with labels beyond it if wanted."""
    rng = np.random.default_rng(seed)
    ratings = rng.uniform(-1, 1, (frames + reach * config.reach_frames, 6, 2)).astype(np.float32)
    return {
        "face": rng.normal(size=(frames, config.network.face_size)).astype(np.float32),
        "face_valid": np.ones(frames, bool),
        "waveform": 0.1 * rng.standard_normal(SAMPLES_PER_FRAME * frames, np.float32),
        "voice_valid": np.ones(frames, bool),
        "labels": ratings.mean(1),
        "labels_valid": np.ones(len(ratings), bool),
        "rating_mean": ratings.mean(1),
        "rating_square": np.square(ratings).mean(1),
    }
