"""Every stage's step, in the demo's sizes and both compute dtypes, lowers for a TPU; no TPU is needed to find out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.stages import fusion, student, teacher
from avemo.training import stream_key

EVEN = np.ones(8, np.float32)
SIZE = 46
"""Pixels of the demo's prepared faces."""


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def labelled_faces(batch):
    return {
        "image": shape(batch, SIZE, SIZE, 3, dtype=jnp.uint8),
        "expression": shape(batch, dtype=jnp.int32),
        "expression_valid": shape(batch, dtype=bool),
        "valence_arousal": shape(batch, 2),
        "valence_arousal_valid": shape(batch, dtype=bool),
        "index": shape(batch, dtype=jnp.int32),
        "epoch": shape(batch, dtype=jnp.int32),
        "valid": shape(batch, dtype=bool),
    }


def triplets(batch):
    return {
        "image": shape(batch, 3, SIZE, SIZE, 3, dtype=jnp.uint8),
        "kind": shape(batch, dtype=jnp.int32),
        "faces": shape(batch, 3, dtype=jnp.int32),
        "epoch": shape(batch, dtype=jnp.int32),
        "valid": shape(batch, dtype=bool),
    }


def recordings(batch, frames, reach=0):
    return {
        "face": shape(batch, frames, fusion.DEMO.network.face_size),
        "face_valid": shape(batch, frames, dtype=bool),
        "waveform": shape(batch, frames * 640),
        "voice_valid": shape(batch, frames, dtype=bool),
        "labels": shape(batch, frames + reach, 2),
        "labels_valid": shape(batch, frames + reach, dtype=bool),
        "rating_mean": shape(batch, frames + reach, 2),
        "rating_square": shape(batch, frames + reach, 2),
    }


def state_of(stage):
    return jax.eval_shape(lambda: stage.init(stream_key(0, "init")))


def computing_in(dtype, config):
    return replace(config, network=replace(config.network, dtype=dtype))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def stages(request):
    configs = (teacher.DEMO, student.DEMO, fusion.DEMO)
    of_teacher, of_student, of_fusion = (computing_in(request.param, config) for config in configs)
    teaching = teacher.build(of_teacher, EVEN, seed=0)
    return {
        "teacher": teaching,
        "student": student.build(of_student, EVEN, 0, [(of_teacher.network, state_of(teaching).variables)]),
        "fusion": fusion.build(of_fusion, seed=0),
    }


def lowers(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=["tpu"])(*arguments)
    assert exported.platforms == ("tpu",)
    assert exported.mlir_module_serialized


FACES = {"affectnet": labelled_faces(teacher.DEMO.batch_size), "fec": triplets(teacher.DEMO.triplet_batch_size)}
WINDOWS = recordings(fusion.DEMO.batch_size, fusion.DEMO.window_frames, fusion.DEMO.reach_frames)


@pytest.mark.parametrize(("name", "batch"), [("teacher", FACES), ("student", FACES), ("fusion", WINDOWS)])
def test_training_steps(stages, name, batch):
    stage = stages[name]
    lowers(stage.train_step, state_of(stage), batch, *stage.frozen)


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("teacher", {"affectnet": labelled_faces(128)}),
        ("teacher", {"fec": triplets(128)}),
        ("student", {"affectnet": labelled_faces(128)}),
        ("student", {"fec": triplets(128)}),
        ("fusion", recordings(2, 1500)),
    ],
)
def test_evaluation_steps(stages, name, batch):
    lowers(stages[name].eval_step, state_of(stages[name]).variables, batch)
