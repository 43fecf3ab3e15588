"""`avemo benchmark train`: what it counts, what it refuses, and that the whole of it runs."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.face import FaceConfig, FaceNetwork, init_variables
from avemo.models.recurrent import Recurrent, RecurrentConfig, initial_carry
from avemo.models.resnet import ResNetConfig
from avemo.stages import fusion, student, teacher
from launch.benchmarks import hardware_peak, input_pipeline, scaling, train, workload
from launch.benchmarks.collectives import Collective, by_kind, collectives, gradient_reductions
from launch.benchmarks.flops import count_flops, has_scan
from launch.benchmarks.input_pipeline import batches_of, prepare_faces
from launch.benchmarks.our_step import OurStep, one_device
from launch.benchmarks.results import installed
from launch.benchmarks.stopwatch import in_turn
from launch.benchmarks.train import BenchmarkTrain
from launch.commands import parse
from launch.errors import LaunchError

# --- operations ---------------------------------------------------------------------------------------------


def test_a_product_counts_two_for_each_multiply_add():
    assert count_flops(lambda a, b: a @ b, jnp.ones((3, 4)), jnp.ones((4, 5))) == 2 * 3 * 4 * 5
    batched = count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5)))
    assert batched == 7 * 2 * 3 * 4 * 5


def convolution(padding, stride):
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("padding", "stride", "pairs"),
    [
        ("VALID", 1, 4 * 3),  # four places of three taps
        ("SAME", 1, 6 * 3 - 2),  # six places, a tap at either end on padding
        ("SAME", 2, 3 * 3 - 1),  # three places from 0, 2, 4 on: only the last one's third tap is on padding
        ("VALID", 2, 2 * 3),
    ],
)
def test_a_convolution_counts_its_taps_on_pixels_alike_forwards_and_backwards(padding, stride, pairs):
    convolve = convolution(padding, stride)
    images, kernel = jnp.ones((2, 6, 6, 5)), jnp.ones((3, 3, 5, 7))
    expected = 2 * 2 * 7 * 5 * pairs**2  # two per multiply-add, images, outputs, inputs, rows and columns
    assert count_flops(convolve, images, kernel) == expected
    for argument in (0, 1):
        gradient = jax.grad(lambda *both: convolve(*both).sum(), argument)
        assert count_flops(jax.jit(gradient), images, kernel) in (expected, 2 * expected)  # with or without forwards
    both = jax.grad(lambda *both: jnp.square(convolve(*both)).sum(), (0, 1))
    assert count_flops(both, images, kernel) == 3 * expected


def test_grouped_convolutions_count_their_groups_only():
    depthwise = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=4
    )
    images, kernel = jnp.ones((2, 5, 4)), jnp.ones((3, 1, 4))
    assert count_flops(depthwise, images, kernel) == 2 * 2 * 3 * 3 * 4
    both = jax.grad(lambda *both: jnp.square(depthwise(*both)).sum(), (0, 1))
    assert count_flops(both, images, kernel) == 3 * 2 * 2 * 3 * 3 * 4


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    matrix = jnp.ones((4, 4))
    scanned = lambda x: jax.lax.scan(lambda carry, _: (carry @ matrix, None), x, None, length=11)[0]
    assert count_flops(scanned, matrix) == 11 * 2 * 4**3
    assert has_scan(jax.jit(scanned), matrix)
    assert not has_scan(lambda x: x @ matrix, matrix)
    branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x, lambda x: x @ matrix, x)
    assert count_flops(branches, matrix) == 2 * 4**3
    with pytest.raises(ValueError, match="how often it runs"):
        count_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ matrix, x), matrix)


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_the_recurrent_core_by_hand(kind, gates):
    batch, frames, inputs, features = 3, 7, 5, 6
    config = RecurrentConfig(kind, features)
    network, carry = Recurrent(config), initial_carry(config, batch)
    params = jax.jit(network.init)(jax.random.key(0), jnp.ones((batch, frames, inputs)), carry)["params"]
    loss = lambda params, x: network.apply({"params": params}, x, carry)[0].sum()
    into, over = (2 * batch * frames * size * gates * features for size in (inputs, features))
    x = jnp.ones((batch, frames, inputs))
    assert count_flops(loss, params, x) == into + over
    # Backwards: the weights' gradient and the inputs', and, of those in the recurrence, the carry's.
    assert count_flops(jax.grad(loss, (0, 1)), params, x) == 3 * (into + over)


def test_a_network_without_loops_counts_as_xla_counts_it():
    config = teacher.DEMO.network
    network, images = FaceNetwork(config), jnp.zeros((2, 40, 40, 3), jnp.uint8)
    variables = jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))
    forward = lambda v, x: network.apply(v, x, train=False)
    counted = count_flops(forward, variables, images)
    assert counted <= jax.jit(forward).lower(variables, images).cost_analysis()["flops"] < 1.15 * counted


# --- what travels between devices ---------------------------------------------------------------------------

HLO = """
%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.9 = f32[4]{0} all-reduce(%x), channel_id=9, to_apply=%add
}

ENTRY %main.5 (a: f32[2]) -> f32[2] {
  %w = (s32[], f32[4]) while(%t), condition=%cond.1, body=%body.1
  %all-reduce.1 = (f32[3,3,2,8]{3,2,1,0}, /*index=1*/bf16[8]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %all-reduce-start.2 = f32[16,4]{1,0} all-reduce-start(%c), channel_id=2, to_apply=%add
  %all-reduce-done.2 = f32[16,4]{1,0} all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (f32[2,5]{1,0}, f32[8,5]{1,0}) all-gather-start(%d), dimensions={0}
  %all-gather.4 = pred[12]{0} all-gather(%e), dimensions={0}
  %sum = f32[] add(%all-reduce.1, %f)
}
"""


def test_collectives_are_read_from_the_compiled_text():
    found = collectives(HLO)
    assert found == [
        Collective("all-reduce", ((4,),), 16, True),
        Collective("all-reduce", ((3, 3, 2, 8), (8,)), 4 * 144 + 2 * 8, False),
        Collective("all-reduce", ((16, 4),), 256, False),
        Collective("all-gather", ((8, 5),), 160, False),
        Collective("all-gather", ((12,),), 12, False),
    ]
    assert by_kind(found) == {
        "all-reduce": {"count": 3, "bytes": 864, "in_loops": 1},
        "all-gather": {"count": 2, "bytes": 172, "in_loops": 0},
    }


def test_gradients_reduced_once_twice_or_never():
    found = collectives(HLO)
    once = {"all_reduces": 2, "kernels": 2, "each_once": True}
    assert gradient_reductions(found, [(3, 3, 2, 8), (16, 4), (8,)]) == once
    assert found[2].sizes == (64,)
    assert gradient_reductions(found, [(2, 3, 8, 3), (1, 1, 4, 16), (1, 8), (8,)]) == once  # (1, 8) is but a vector
    assert not gradient_reductions(found, [(3, 3, 2, 8), (16, 4), (5, 5)])["each_once"]
    assert not gradient_reductions([*found, found[2]], [(3, 3, 2, 8), (16, 4)])["each_once"]
    assert not gradient_reductions(found, [(3, 3, 2, 8), (16, 4), (16, 4)])["each_once"]
    in_a_loop = [replace(found[1], in_loop=True), found[2]]
    assert not gradient_reductions(in_a_loop, [(3, 3, 2, 8), (16, 4)])["each_once"]


# --- turns --------------------------------------------------------------------------------------------------


def test_contestants_take_turns_and_each_as_many_steps_as_fill_a_round():
    calls = []

    def contestant(name, seconds_per_step):
        return lambda steps: calls.append((name, steps)) or steps * seconds_per_step

    told = []
    rates = in_turn({"slow": contestant("slow", 0.5), "fast": contestant("fast", 0.125)}, 2, 1.0, told.append)
    assert rates == {"slow": [2, 2], "fast": [8, 8]}
    assert calls[-4:] == [("slow", 2), ("fast", 8), ("slow", 2), ("fast", 8)]
    assert told[0] == "round 1 of 2: slow: 2 steps/s"


# --- the stages ---------------------------------------------------------------------------------------------

TINY = FaceConfig(
    image_size=24,
    trunk=ResNetConfig(widths=(4, 4), blocks=(1,)),
    reduced_channels=4,
    dense_layers=0,
    growth=4,
    embedding_size=4,
    triplet_size=4,
)


@pytest.fixture
def tiny_presets(monkeypatch):
    faces = {"network": TINY, "batch_size": 8, "triplet_batch_size": 2, "steps": 10}
    configs = {
        "teacher": replace(teacher.DEMO, **faces),
        "student": replace(student.DEMO, **faces),
        "fusion": replace(fusion.DEMO, batch_size=8, window_s=0.4, steps=10),
    }
    monkeypatch.setattr(workload, "PRESETS", {stage: {"demo": config} for stage, config in configs.items()})
    monkeypatch.setitem(hardware_peak.SIDES, "cpu", 256)
    monkeypatch.setitem(hardware_peak.COPIED_BYTES, "cpu", 1 << 20)
    return configs


@pytest.fixture(scope="module")
def few_faces(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_pipeline, "FACES", 128)
        return prepare_faces(tmp_path_factory.mktemp("faces"), size=46, processes=1)


@pytest.mark.parametrize("stage", ["teacher", "fusion"])
def test_batches_are_those_of_the_loaders(few_faces, tiny_presets, stage):
    work = workload.make_workload(stage, "demo", "bfloat16")
    assert work.config == replace(tiny_presets[stage], network=replace(tiny_presets[stage].network, dtype="bfloat16"))
    theirs = next(batches_of(work.config, few_faces))
    kind = lambda leaf: (leaf.shape, leaf.dtype)
    assert jax.tree.map(kind, work.batch) == jax.tree.map(kind, theirs)
    assert work.examples == {"teacher": 8 + 3 * 2, "fusion": 8 * 10}[stage]


def test_the_measured_steps_are_steps_of_training(tiny_presets):
    step = OurStep(workload.make_workload("fusion", "demo", "float32"), one_device())
    assert step(3) > 0
    metrics = step.advance(step.batch)
    assert int(step.state.step) == 4
    assert 0 < float(metrics["loss"]) < 2


def test_the_whole_benchmark_without_torch(tiny_presets, few_faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "prepare_faces", lambda folder, size, processes: few_faces)
    monkeypatch.setattr(train, "installed", lambda package: False)
    out = tmp_path / "results" / "train.json"
    BenchmarkTrain(out, stages=("student", "fusion"), rounds=2, round_s=0.01)()
    results = json.loads(out.read_text())
    assert results["settings"]["stages"] == ["student", "fusion"]
    assert "not installed" in results["torch"]["absent"]
    assert "without PyTorch" in capsys.readouterr().out
    assert results["machine"]["jax"] == jax.__version__
    for stage, found in results["stages"].items():
        core = {train.CORE} if stage == "fusion" else set()
        assert set(found["steps_per_s"]) == {train.STEP, train.LOADER, train.LOOP} | core
        assert all(len(rates) == 2 and min(rates) > 0 for rates in found["steps_per_s"].values())
        assert all(0 <= share < 1 for share in found["ratios"]["waiting for data"])
        assert all(share > 0 for share in found["ratios"]["share of peak FLOP/s"])
        assert (found["bytes_per_step"] is None) == (stage == "fusion")
        assert found["flops_per_step"] > 0
        assert found["equality"] == {}


def test_scaling_counts_what_travels(tmp_path):
    found = scaling.measure_on(2, "fusion", "demo", "float32", 1, 0.01)
    assert found["devices"] == 2
    assert found["gradients"]["each_once"]
    assert found["gradients"]["all_reduces"] == 1
    assert found["collectives"]["all-reduce"]["bytes"] >= 4 * 120_516
    assert "all-reduce" in "".join(
        cell for column in train.scaling_table("fusion", [found]).columns for cell in column.cells
    )


def test_what_a_process_of_its_own_refuses_is_told():
    with pytest.raises(LaunchError, match=r"fusion on 3 devices failed: .*batch_size 16 can't be split over 3 devices"):
        scaling.measure_on(3, "fusion", "demo", "float32", 1, 0.01)


def test_settings(tmp_path):
    command = parse(["benchmark", "train", "--out", "r.json", "--preset", "paper", "--stages", "teacher", "fusion"])
    assert (command.preset, command.stages, command.dtype) == ("paper", ("teacher", "fusion"), "float32")
    assert command.scaling is False
    with pytest.raises(ValueError, match="must be positive"):
        BenchmarkTrain(tmp_path, rounds=0)


# --- beside torch -------------------------------------------------------------------------------------------


@pytest.fixture
def peer():
    if not installed("torch"):
        pytest.skip("torch isn't installed (make torch)")
    from launch.benchmarks import torch_peer

    return torch_peer


@pytest.mark.parity
def test_the_whole_benchmark_with_torch(peer, tiny_presets, few_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "prepare_faces", lambda folder, size, processes: few_faces)
    BenchmarkTrain(tmp_path / "train.json", rounds=1, round_s=0.01, dtype="bfloat16")()
    results = json.loads((tmp_path / "train.json").read_text())
    assert results["torch"]["precision"].startswith("bfloat16")
    for stage, found in results["stages"].items():
        twins = {"teacher": {"network"}, "student": {"network", "teacher"}, "fusion": {"network", "recurrent core"}}
        assert set(found["equality"]) == twins[stage]
        assert all(0 <= each["largest_difference"] <= peer.TOLERANCE for each in found["equality"].values())
        assert min(found["ratios"]["avemo / PyTorch"]) > 0
    assert min(results["stages"]["fusion"]["ratios"]["recurrent core, avemo / PyTorch"]) > 0


@pytest.mark.parity
@pytest.mark.parametrize("stage", ["teacher", "fusion"])
def test_unequal_twins_are_refused(peer, tiny_presets, stage, monkeypatch):
    work = workload.make_workload(stage, "demo", "float32")
    variables = jax.jit(work.stage.init)(jax.random.key(0)).variables
    peer.prove_step(work, variables)
    twin = peer.twin

    def wrong(config):
        network = twin(config)
        network.valence_arousal.register_forward_hook(lambda module, inputs, output: 1.001 * output)
        return network

    monkeypatch.setattr(peer, "twin", wrong)
    with pytest.raises(LaunchError, match="its valence_arousal differs from that of its twin in PyTorch"):
        peer.prove_step(work, variables)


@pytest.mark.parity
def test_not_a_number_is_no_equal(peer):
    import torch

    nothing = np.full(3, np.nan, np.float32)
    with pytest.raises(LaunchError, match="differs"):
        peer.compare("this", {"hidden": nothing}, {"hidden": torch.from_numpy(nothing)})
