"""A batch taken in pieces gives the update of the whole batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_stages

from avemo import losses
from avemo.models.face import FaceConfig
from avemo.models.resnet import ResNetConfig
from avemo.stages import fusion, student, teacher
from avemo.stages.supervision import FaceTraining
from avemo.training import in_pieces, stream_key

EVEN = np.ones(8, np.float32)
ROWS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


def linear(params):
    return lambda rows, number: (jnp.tanh(rows @ params), {"mean": rows.mean(0), "number": jnp.float32(number)})


def same(one, other, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


@pytest.mark.parametrize("pieces", [1, 2, 3, 12])
def test_rows_keep_their_order_and_extras_are_averaged(pieces):
    outputs, extras = jax.jit(lambda rows: in_pieces(linear(KERNEL), rows, pieces))(ROWS)
    same(outputs, np.tanh(ROWS @ KERNEL))
    same(extras["mean"], ROWS.mean(0))
    assert extras["number"] == (pieces - 1) / 2


def masked_loss(outputs):
    return losses.masked_mean(jnp.square(outputs).sum(-1), jnp.arange(12) < 5)


def ccc(outputs):
    return losses.ccc_loss(outputs, jnp.asarray(ROWS[:, :2]), jnp.arange(12)[:, None] + jnp.arange(2) < 9)


@pytest.mark.parametrize("loss", [masked_loss, ccc])
@pytest.mark.parametrize("pieces", [2, 4])
def test_losses_that_are_no_mean_over_rows_are_those_of_the_whole_batch(loss, pieces):
    """Labels that fall unevenly on the pieces, and a CCC that pools all rows."""

    def value_and_gradient(pieces):
        return jax.jit(jax.value_and_grad(lambda params: loss(in_pieces(linear(params), ROWS, pieces)[0])))(KERNEL)

    same(value_and_gradient(pieces), value_and_gradient(1))


def test_only_one_piece_is_in_memory():
    """Activations of a deep network over many rows, by XLA's own account."""

    def loss(params, rows, pieces):
        def deep(rows, _):
            for _ in range(20):
                rows = jnp.tanh(rows @ params)
            return rows.mean(-1), {}

        return in_pieces(deep, rows, pieces)[0].mean()

    def bytes_needed(pieces):
        gradient = jax.jit(jax.grad(loss), static_argnums=2)
        return gradient.lower(jnp.eye(64), jnp.ones((1024, 64)), pieces).compile().memory_analysis().temp_size_in_bytes

    assert bytes_needed(8) < bytes_needed(1) / 4


# --- stages -------------------------------------------------------------------------------------------------

FUSION = fusion.FusionTraining(
    network=test_stages.FUSION.network,
    steps=10,
    batch_size=8,
    window_s=0.4,
    modality_dropout=0.3,
)

FACES = FaceTraining(
    network=FaceConfig(
        image_size=12,
        trunk=ResNetConfig(widths=(8,), blocks=()),
        reduced_channels=16,
        dense_layers=0,
        embedding_size=16,
        triplet_size=4,
    ),
    steps=10,
    batch_size=8,
    triplet_batch_size=4,
)


def windows():
    rng = np.random.default_rng(1)
    labelled = 10 + FUSION.reach_frames
    labels = rng.uniform(-1, 1, (8, labelled, 2)).astype(np.float32)
    return {
        "face": rng.normal(size=(8, 10, 4)).astype(np.float32),
        "face_valid": np.ones((8, 10), bool),
        "waveform": 0.1 * rng.normal(size=(8, 6400)).astype(np.float32),
        "voice_valid": np.ones((8, 10), bool),
        "labels": labels,
        "labels_valid": np.arange(labelled) < FUSION.reach_frames + rng.integers(1, 10, (8, 1)),
        "rating_mean": labels,
        "rating_square": labels**2,
    }


def faces():
    rng = np.random.default_rng(0)
    return {
        "affectnet": {
            "image": rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8),
            "expression": np.arange(8, dtype=np.int32),
            "expression_valid": np.arange(8) < 3,
            "valence_arousal": rng.uniform(-1, 1, (8, 2)).astype(np.float32),
            "valence_arousal_valid": np.arange(8) > 1,
            "index": np.arange(8),
            "epoch": np.zeros(8, np.int32),
        },
        "fec": {
            "image": rng.integers(0, 256, (4, 3, 16, 16, 3), dtype=np.uint8),
            "kind": np.arange(4, dtype=np.int32) % 3,
            "faces": np.arange(12).reshape(4, 3),
            "epoch": np.zeros(4, np.int32),
        },
    }


def updated(stage, batch, steps=2):
    state, step = jax.jit(stage.init)(stream_key(0, "init")), jax.jit(stage.train_step)
    for _ in range(steps):
        state, metrics = step(state, batch, *stage.frozen)
    return state, metrics


def test_fusion_takes_the_step_of_the_whole_batch():
    """Its CCC pools all windows, whose labels are masked unevenly; modality dropout falls on the same windows."""
    whole, pieces = (updated(fusion.build(replace(FUSION, accumulate=n), seed=0), windows()) for n in (1, 4))
    same(pieces[1], whole[1])
    same(pieces[0].params, whole[0].params, rtol=1e-4, atol=1e-5)


def without_batch_statistics(monkeypatch):
    """BatchNorm as in evaluation, where it is a fixed scale: then faces don't influence each other."""
    from avemo.stages import supervision

    apply = supervision.FaceNetwork.apply

    def fixed(self, variables, images, train, mutable=False):
        outputs = apply(self, variables, images, train=False)
        return (outputs, {"batch_stats": variables["batch_stats"]}) if mutable else outputs

    monkeypatch.setattr(supervision.FaceNetwork, "apply", fixed)


def stage_of(name, accumulate):
    if name == "teacher":
        return teacher.build(replace(FACES, accumulate=accumulate), EVEN, seed=0)
    # Untrained and not normalised, the network has nearly one vector for all faces: their distances are rounding.
    config = student.Distillation(**vars(FACES) | {"accumulate": accumulate}, distance_weight=0.0)
    taught = jax.jit(stage_of("teacher", 1).init)(stream_key(1, "init")).variables
    return student.build(config, EVEN, 0, [(FACES.network, taught)])


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_faces_take_the_step_of_the_whole_batch_where_statistics_are_fixed(name, monkeypatch):
    without_batch_statistics(monkeypatch)
    whole, pieces = (updated(stage_of(name, n), faces()) for n in (1, 4))
    same(pieces[1], whole[1], rtol=1e-4)
    same(pieces[0].params, whole[0].params, rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_those_of_the_pieces():
    """Of the first normalised layer: the running mean is as with the whole batch, the variance a little smaller."""
    whole, pieces = (
        updated(stage_of("teacher", n), faces(), steps=1)[0].batch_stats["trunk"]["stem"]["bn"] for n in (1, 4)
    )
    same(pieces["mean"], whole["mean"], rtol=1e-4)
    assert (pieces["var"] < whole["var"]).all()


@pytest.mark.parametrize(("accumulate", "triplets"), [(3, 4), (8, 4), (0, 4)])
def test_pieces_must_be_even(accumulate, triplets):
    with pytest.raises(ValueError, match="accumulate must divide"):
        replace(FACES, accumulate=accumulate, triplet_batch_size=triplets)
    with pytest.raises(ValueError, match="accumulate must divide"):
        replace(FUSION, accumulate=3)
