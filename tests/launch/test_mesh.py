"""Devices in a grid: where arrays lie, and what the compiled training step sends between devices."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from launch.benchmarks.collectives import collectives
from launch.commands import parse
from launch.errors import LaunchError
from launch.mesh import SMALLEST_SPLIT, MeshShape, check_batch_size, data_mesh, device_mesh, own_rows, state_sharding

FOUR = AbstractMesh((2, 2), ("data", "fsdp"))


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=8"], MeshShape(8)),
        (["data=4", "fsdp=2"], MeshShape(4, 2)),
        (["fsdp=2"], MeshShape(None, 2)),
    ],
)
def test_a_mesh_is_given_by_its_axes(words, expected):
    assert MeshShape.parse(words) == expected
    assert MeshShape.parse(expected.words()) == expected
    paths = ["--data", "data", "--out", "run"]
    assert parse(["train", "teacher", *paths, "--mesh", *words, "--seed", "3"]).mesh == expected
    assert parse(["train", "teacher", *paths]).mesh == MeshShape()


@pytest.mark.parametrize("words", [["8"], ["data"], ["data=x"], ["model=2"], ["data=2", "data=2"], ["data=0"]])
def test_anything_else_is_no_mesh(words):
    with pytest.raises(ValueError, match="mesh"):
        MeshShape.parse(words)


def test_a_mesh_must_fit_the_devices():
    assert device_mesh(MeshShape(1, 1)).shape == {"data": 1, "fsdp": 1} == data_mesh().shape
    for shape, words in ((MeshShape(8), "data=8 fsdp=1"), (MeshShape(fsdp=2), "fsdp=2")):
        with pytest.raises(LaunchError, match=f"--mesh {words} doesn't fit the 1 devices there are"):
            device_mesh(shape)


def test_batches_and_their_pieces_must_be_even():
    check_batch_size(FOUR, 2, batch_size=16, triplet_batch_size=0)
    with pytest.raises(LaunchError, match="batch_size 6 can't be split over 4 devices: choose a multiple of 4"):
        check_batch_size(FOUR, 1, batch_size=6)
    with pytest.raises(LaunchError, match=r"4 devices in 2 pieces \(--accumulate\): choose a multiple of 8"):
        check_batch_size(FOUR, 2, batch_size=12)


def test_large_arrays_are_split_on_their_largest_even_axis():
    state = {"kernel": shape(3, 3, 64, 128), "odd": shape(8192, 129), "prime": shape(129, 131), "bias": shape(128)}
    specs = {name: sharding.spec for name, sharding in state_sharding(FOUR, state).items()}
    assert specs == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "odd": PartitionSpec("fsdp"),
        "prime": PartitionSpec(),
        "bias": PartitionSpec(),
    }
    whole = state_sharding(AbstractMesh((4, 1), ("data", "fsdp")), state)
    assert {sharding.spec for sharding in whole.values()} == {PartitionSpec()}
    assert 64 * 128 * 9 >= SMALLEST_SPLIT > 128


def test_hosts_share_a_batch_by_rows(monkeypatch):
    batch = {"x": np.arange(12).reshape(6, 2)}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    rows = []
    for host in range(3):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        rows.append(own_rows(batch)["x"])
    assert [len(part) for part in rows] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(rows), batch["x"])


# --- compiled on four simulated devices ---------------------------------------------------------------------

SCRIPT = """
import json, sys
from dataclasses import replace
import jax, numpy as np
from avemo.stages import fusion
from avemo.training import stream_key
from launch.mesh import MeshShape, device_mesh, put_batch, replicated, split_batch, state_sharding
from launch.mesh import with_whole_parameters

rng, frames = np.random.default_rng(0), 40
batch = {
    "face": rng.normal(size=(8, frames, 128)).astype(np.float32),
    "face_valid": np.ones((8, frames), bool),
    "waveform": 0.1 * rng.normal(size=(8, 640 * frames)).astype(np.float32),
    "voice_valid": np.ones((8, frames), bool),
}
results = {}
config = replace(fusion.DEMO, optimizer=replace(fusion.DEMO.optimizer, averaging=0.9), longest_delay_s=2.0)
labelled = frames + config.reach_frames
labels = rng.uniform(-1, 1, (8, labelled, 2)).astype(np.float32)
batch |= {"labels": labels, "rating_mean": labels, "rating_square": labels**2}
batch["labels_valid"] = np.arange(labelled) < config.reach_frames + rng.integers(1, frames, (8, 1))
for data, fsdp in ((4, 1), (2, 2)):
    stage, mesh = fusion.build(config, seed=0), device_mesh(MeshShape(data, fsdp))
    init = lambda: stage.init(stream_key(0, "init"))
    placed = state_sharding(mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=placed)()
    rows = put_batch(mesh, batch)
    compiled = jax.jit(
        with_whole_parameters(mesh, stage.train_step),
        in_shardings=(placed, split_batch(mesh)),
        out_shardings=(placed, replicated(mesh)),
    ).lower(state, rows).compile()
    kept = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    metrics = []
    for _ in range(4):
        state, values = compiled(state, rows)
        metrics.append({name: float(value) for name, value in values.items()})
    learned = {name: part for name, part in state.params.items() if name != fusion.DELAY}  # which is fixed
    sizes = [leaf.size for leaf in jax.tree.leaves(learned)]
    averages = [float(abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(state.variables)]
    results[f"{data}x{fsdp}"] = {"hlo": compiled.as_text(), "metrics": metrics, "bytes": kept, "parameters": sizes}
    results[f"{data}x{fsdp}"]["averages"] = averages
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def on_four():
    """The fusion step in the demo's size, by the shape of the mesh."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def operations(run, kind):
    return [operation for operation in collectives(run["hlo"]) if operation.kind == kind]


def test_gradients_are_summed_once(on_four):
    """Every parameter's gradient is in one group and in no other; what else is summed are scalars of the loss."""
    reductions = operations(on_four["4x1"], "all-reduce")
    groups = [
        (sorted(size for size in each.sizes if size > 1), each.in_loop) for each in reductions if max(each.sizes) > 1
    ]
    assert groups == [(sorted(on_four["4x1"]["parameters"]), False)]


def test_parameters_are_gathered_once_and_outside_of_loops(on_four):
    split = sorted(size for size in on_four["2x2"]["parameters"] if size >= SMALLEST_SPLIT)
    gathers = operations(on_four["2x2"], "all-gather")
    assert sorted(size for each in gathers for size in each.sizes if size in split) == split
    assert not any(each.in_loop for each in gathers)


def test_split_parameters_take_less_memory_and_give_the_same_training(on_four):
    whole, halves = on_four["4x1"], on_four["2x2"]
    # With Adam's two moments and the moving average.
    split = 4 * 4 * sum(size for size in whole["parameters"] if size >= SMALLEST_SPLIT)
    assert split > 0.4 * whole["bytes"]
    assert halves["bytes"] == whole["bytes"] - split // 2
    for mine, theirs in zip(whole["metrics"], halves["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert whole["averages"] == pytest.approx(halves["averages"], rel=1e-4)
