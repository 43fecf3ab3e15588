"""From tiny corpora to a report, by the commands that users type."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import avemo

from launch.checkpoints import Checkpoints

SMALLEST = ["--network.trunk.width", "0.125", "--network.dense-layers", "1", "--network.reduced-channels", "16"]
FACES = ["--preset", "demo", "--batch-size", "8", "--triplet-batch-size", "4", "--log-every", "1"]
TEACHER = [*FACES, *SMALLEST, "--network.growth", "8", "--steps", "6"]
TEACHER += ["--optimizer.learning-rate", "1e-4"]  # Adam makes much of rounding where a gradient is nearly zero


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A teacher, a student and a fusion network, hardly trained."""
    root = tmp_path_factory.mktemp("runs")
    avemo("train", "teacher", "--data", tiny.data, "--out", root / "teacher", *TEACHER)
    student = ["--teacher", root / "teacher", *FACES, "--steps", "4", "--network.trunk.widths", "8", "8", "8", "8"]
    avemo("train", "student", "--data", tiny.data, "--out", root / "student", *student)
    fusion = ["--face", root / "student", "--preset", "demo", "--steps", "4", "--batch-size", "4", "--window-s", "2"]
    fusion += ["--annotation-delay-s", "1", "1", "--network.audio.features", "16", "--network.recurrent.features", "16"]
    avemo("train", "fusion", "--data", tiny.data, "--out", root / "fusion", *fusion)
    return root


def variables(run):
    with Checkpoints(run) as checkpoints:
        return checkpoints.manager.restore(checkpoints.latest_step())["variables"]


def latest_step(run):
    with Checkpoints(run) as checkpoints:
        return checkpoints.latest_step()


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def subprocess_avemo(*arguments, limit=(), **environment):
    command = [*limit, sys.executable, "-c", "from launch.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def evaluation(tiny, runs, tmp_path_factory):
    """The arguments of an evaluation but its --out, and the folder of its results."""
    truth = [tiny.corpora / name / "truth.json" for name in ("affectnet", "fec", "recola")]
    which = [f"--{name}={runs / name}" for name in ("teacher", "student", "fusion")]
    arguments, out = ["--data", tiny.data, *which, "--truth", *truth], tmp_path_factory.mktemp("evaluation")
    avemo("evaluate", "--out", out, *arguments)
    return arguments, out


def results_of(evaluation):
    return json.loads((evaluation / "results.json").read_text())


def test_evaluation_writes_every_figure(evaluation):
    out = evaluation[1]
    avemo("report", out)
    results = results_of(out)
    for name in ("teacher", "student"):
        figures = {
            "accuracy_8",
            "accuracy_7",
            "macro_f1_8",
            "ccc_valence",
            "ccc_arousal",
            "rmse_valence",
            "sagr_arousal",
        }
        assert figures <= set(results["affectnet"][name])
        assert "triplet_accuracy" in results["fec"][name]
        assert {"parameters", "flops", "ms_batch_1", "images_per_s"} == set(results["speed"][name])
    assert "voice_swapped" not in results["recola"]  # one recording has nobody to swap voices with
    for which in ("fused", "face", "voice", "post_processed"):
        for dimension in ("valence", "arousal"):
            poolings = ("ccc_concatenated", "ccc_per_file")
            figures = {f"{pooling}{part}" for pooling in poolings for part in ("", "_interval")}
            assert figures == set(results["recola"][which][dimension])
            assert 0 <= results["recola"]["spread"][dimension]["coverage"] <= 1
    assert {"accuracy_8", "accuracy_7", "macro_f1_8", "ccc_valence", "ccc_arousal"} <= set(
        results["ceiling"]["affectnet"]
    )
    assert "triplet_accuracy" in results["ceiling"]["fec"]
    assert "ccc_concatenated" in results["ceiling"]["recola"]["fused"]["valence"]
    assert {"affectnet", "fec", "recola"} == set(results["provenance"]["data"])
    assert (out / "report.html").stat().st_size > 10_000


def test_four_devices_give_the_results_of_one(evaluation, tmp_path):
    arguments, out = evaluation
    process = subprocess_avemo("evaluate", "--out", tmp_path, *arguments, JAX_NUM_CPU_DEVICES="4")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    one, four = (dict(flat(results_of(folder))) for folder in (out, tmp_path))
    assert four == pytest.approx(one, rel=1e-5, abs=1e-5)
    assert len(four) > 60


def flat(tree, path=""):
    """All figures that don't depend on time, by their path."""
    for name in tree if isinstance(tree, dict) else ():
        if name not in ("speed", "provenance", "protocol"):
            yield from flat(tree[name], f"{path}/{name}")
    if isinstance(tree, float):
        yield path, tree


def test_self_distillation_takes_a_student_as_teacher(tiny, runs, tmp_path):
    options = [*FACES, "--steps", "2", "--network.trunk.widths", "8", "8", "8", "8"]
    avemo("train", "student", "--data", tiny.data, "--out", tmp_path / "again", "--teacher", runs / "student", *options)
    assert sorted(losses(tmp_path / "again")) == [1, 2]


def test_killed_and_resumed_equals_uninterrupted(tiny, tmp_path):
    options = ["--data", tiny.data, *TEACHER, "--steps", "40", "--checkpoint-every", "7"]
    options += ["--optimizer.averaging", "0.9"]
    avemo("train", "teacher", "--out", tmp_path / "whole", *options)
    process = subprocess_avemo("train", "teacher", "--out", tmp_path / "killed", *options)
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 17):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert latest_step(tmp_path / "killed") in range(7, 40)

    avemo("train", "teacher", "--out", tmp_path / "killed", *options, "--resume")
    jax.tree.map(np.testing.assert_array_equal, variables(tmp_path / "killed"), variables(tmp_path / "whole"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_full_disk_loses_nothing(tiny, tmp_path):
    """A limit on the size of files stands for the disk."""
    whole, full = tmp_path / "whole", tmp_path / "full"
    options = ["train", "teacher", "--data", tiny.data, *TEACHER, "--checkpoint-every", "3"]
    avemo(*options, "--out", whole)
    shutil.copytree(whole, full)
    shutil.rmtree(full / "checkpoints" / "6")
    options += ["--out", full, "--resume"]
    process = subprocess_avemo(*options, limit=["sh", "-c", 'ulimit -f 16; exec "$@"', "sh"])  # 8 or 16 kB
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    (message,) = (line for line in errors.splitlines() if line.startswith("avemo: "))
    assert message.startswith(f"avemo: the checkpoint of step 6 can't be written to {full / 'checkpoints'} (")
    assert "; that of step 3 is intact. " in message
    assert message.endswith("go on with --resume")
    assert "Traceback" not in errors
    assert latest_step(full) == 3

    avemo(*options)
    jax.tree.map(np.testing.assert_array_equal, variables(full), variables(whole))
    assert losses(full) == losses(whole)


def test_four_devices_give_the_losses_of_one(tiny, runs, tmp_path):
    process = subprocess_avemo(
        "train", "teacher", "--data", tiny.data, "--out", tmp_path / "four", *TEACHER, JAX_NUM_CPU_DEVICES="4"
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    one, four = losses(runs / "teacher"), losses(tmp_path / "four")
    assert sorted(four) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([four[s] for s in four], [one[s] for s in four], rtol=2e-4)


def message(*arguments):
    """What the command says as it gives up: one line, and an exit code that is not zero."""
    with pytest.raises(SystemExit) as stop:
        avemo(*arguments)
    assert stop.value.code not in (0, None)
    text = str(stop.value.code)
    assert text.startswith("avemo: ")
    assert "\n" not in text
    return text


def test_shares_of_raters_are_asked_for_where_there_are_none(tiny, tmp_path):
    out = tmp_path / "out"
    avemo("train", "teacher", "--data", tiny.data, "--out", out, *TEACHER, "--supervision.soft-labels", "--steps", "1")
    assert json.loads((out / "run.json").read_text())["config"]["supervision"]["soft_labels"]


def test_wrong_folders_are_named(tiny, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "out"]
    assert "no AffectNet release" in message("prepare", "affectnet", "--source", tmp_path / "empty", *out)
    for corpus in ("fec", "recola"):
        assert str(tmp_path / "empty") in message("prepare", corpus, "--source", tmp_path / "empty", *out)
    assert "avemo prepare affectnet" in message("train", "teacher", "--data", tmp_path / "empty", *out)
    assert "is no training run" in message(
        "train", "student", "--data", tiny.data, "--teacher", tmp_path / "empty", *out
    )
    assert "holds a fusion, not a face network" in message(
        "train", "student", "--data", tiny.data, "--teacher", runs / "fusion", *out
    )
    assert "nothing to evaluate" in message("evaluate", "--data", tiny.data, *out)


def test_presets_that_do_not_fit_are_named(tiny, runs, tmp_path):
    student = ["train", "student", "--data", tiny.data, "--out", tmp_path / "out", "--teacher", runs / "teacher"]
    assert "image_size is 140, its teacher's 40" in message(*student)
    assert "prepared faces are 46x46 pixels, the network wants 140x140" in message(
        "train", "teacher", "--data", tiny.data, "--out", tmp_path / "paper"
    )
    small = ["train", "teacher", "--preset", "small", "--network.image-size", "24"]
    assert "would see only the middle 24x24" in message(*small, "--data", tiny.data, "--out", tmp_path / "small")
    assert "has no preset huge" in message("train", "fusion", "--preset", "huge")


def test_a_checkpoint_of_another_preset_is_refused(tiny, runs, tmp_path):
    """A run whose record was swapped for that of another network."""
    shutil.copytree(runs / "teacher", tmp_path / "teacher")
    record = json.loads((tmp_path / "teacher" / "run.json").read_text())
    record["config"]["network"]["reduced_channels"] = 24
    (tmp_path / "teacher" / "run.json").write_text(json.dumps(record))
    text = message("evaluate", "--data", tiny.data, "--out", tmp_path / "out", "--teacher", tmp_path / "teacher")
    assert "does not hold the network of its run.json" in text


def test_a_run_is_not_overwritten(tiny, runs):
    assert "add --resume" in message("train", "teacher", "--data", tiny.data, "--out", runs / "teacher", *TEACHER)
