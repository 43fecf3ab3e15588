"""Every stage's step, in the demo's sizes, lowers for a TPU; no TPU is needed to find out."""

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
        "valid": shape(batch, dtype=bool),
    }


def triplets(batch):
    return {
        "image": shape(batch, 3, SIZE, SIZE, 3, dtype=jnp.uint8),
        "kind": shape(batch, dtype=jnp.int32),
        "valid": shape(batch, dtype=bool),
    }


def recordings(batch, frames):
    return {
        "face": shape(batch, frames, fusion.DEMO.network.face_size),
        "face_valid": shape(batch, frames, dtype=bool),
        "waveform": shape(batch, frames * 640),
        "voice_valid": shape(batch, frames, dtype=bool),
        "labels": shape(batch, frames, 2),
        "labels_valid": shape(batch, frames, dtype=bool),
    }


def state_of(stage):
    return jax.eval_shape(lambda: stage.init(stream_key(0, "init")))


TEACHER = teacher.build(teacher.DEMO, EVEN, seed=0)
STUDENT = student.build(student.DEMO, EVEN, 0, teacher.DEMO.network, state_of(TEACHER).variables)
FUSION = fusion.build(fusion.DEMO, seed=0)
FACES = {"affectnet": labelled_faces(teacher.DEMO.batch_size), "fec": triplets(teacher.DEMO.triplet_batch_size)}
WINDOWS = recordings(fusion.DEMO.batch_size, fusion.DEMO.window_frames)


def lowers(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=["tpu"])(*arguments)
    assert exported.platforms == ("tpu",)
    assert exported.mlir_module_serialized


@pytest.mark.parametrize(
    ("stage", "batch"), [(TEACHER, FACES), (STUDENT, FACES), (FUSION, WINDOWS)], ids=["teacher", "student", "fusion"]
)
def test_training_steps(stage, batch):
    lowers(stage.train_step, state_of(stage), batch, *stage.frozen)


@pytest.mark.parametrize(
    ("stage", "batch"),
    [
        (TEACHER, {"affectnet": labelled_faces(128)}),
        (TEACHER, {"fec": triplets(128)}),
        (STUDENT, {"affectnet": labelled_faces(128)}),
        (STUDENT, {"fec": triplets(128)}),
        (FUSION, recordings(2, 1500)),
    ],
    ids=["teacher-affectnet", "teacher-fec", "student-affectnet", "student-fec", "fusion"],
)
def test_evaluation_steps(stage, batch):
    lowers(stage.eval_step, state_of(stage).variables, batch)
