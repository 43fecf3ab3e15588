"""`--cache-teacher`: what a teacher said is kept beside the data, and teaches as the teacher itself would."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import avemo
from test_chain import FACES, TEACHER

from data_pipelines.kept_outputs import KeptOutputs
from launch.embeddings import check_shared, outputs_key
from launch.errors import LaunchError

STUDENT = [*FACES, "--steps", "3", "--network.trunk.widths", "8", "8", "8", "8", "--views", "2"]


@pytest.fixture(scope="module")
def teachers(tiny, tmp_path_factory):
    """Two that differ in their seed."""
    root = tmp_path_factory.mktemp("teachers")
    for seed in (0, 1):
        avemo("train", "teacher", "--data", tiny.data, "--out", root / str(seed), *TEACHER, "--seed", seed)
    return root / "0", root / "1"


def train(tiny, out, teachers, *options):
    avemo("train", "student", "--data", tiny.data, "--out", out, "--teacher", *teachers, *STUDENT, *options)
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in ("loss", "soft_targets", "distances")} for line in lines if "loss" in line]


@pytest.fixture
def passes(monkeypatch):
    """Which views each teacher was run over."""
    found = []
    keep = KeptOutputs.write
    monkeypatch.setattr(
        KeptOutputs, "write", lambda self, view, outputs: (found.append(view), keep(self, view, outputs))
    )
    return found


@pytest.mark.parametrize(
    ("streams", "options"),
    [(2, []), (2, ["--both-ways"]), (3, ["--unlabelled", "fec", "--unlabelled-batch-size", "4"])],
)
def test_it_teaches_as_the_teachers_themselves(tiny, teachers, tmp_path, passes, streams, options):
    shutil.rmtree(tiny.data / "taught", ignore_errors=True)
    online = train(tiny, tmp_path / "online", teachers, *options)
    cached = train(tiny, tmp_path / "cached", teachers, *options, "--cache-teacher")
    assert sorted(passes) == [0] * 2 * streams + [1] * 2 * streams  # of two teachers and two views
    for mine, theirs in zip(cached, online, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_a_later_student_runs_no_teacher_and_more_views_only_the_new_ones(tiny, teachers, tmp_path, passes):
    train(tiny, tmp_path / "first", teachers[:1], "--cache-teacher")
    passes.clear()
    train(tiny, tmp_path / "second", teachers[:1], "--cache-teacher", "--seed", "5", "--soft-target-weight", "0.5")
    assert passes == []
    train(tiny, tmp_path / "third", teachers[:1], "--cache-teacher", "--views", "3")
    assert passes == [2, 2]


def test_another_teacher_other_faces_or_another_variation_are_said_anew(tiny, teachers, tmp_path, passes):
    shutil.rmtree(tiny.data / "taught", ignore_errors=True)
    train(tiny, tmp_path / "first", teachers[:1], "--cache-teacher")
    passes.clear()
    others = {
        "varied": ["--augment.grey", "0.5"],
        "mirrored": ["--both-ways"],
        "brightness": ["--network.colours", "grey"],
    }
    for name, options in others.items():
        passes.clear()
        train(tiny, tmp_path / name, teachers[:1], "--cache-teacher", *options)
        assert sorted(passes) == [0, 0, 1, 1], name
    passes.clear()
    train(tiny, tmp_path / "another", teachers[1:], "--cache-teacher")
    assert sorted(passes) == [0, 0, 1, 1]


def test_no_teacher_runs_for_a_student_that_is_done_or_was_asked_for_wrongly(tiny, teachers, tmp_path, passes):
    train(tiny, tmp_path / "out", teachers[:1], "--cache-teacher")
    shutil.rmtree(tiny.data / "taught")
    passes.clear()
    train(tiny, tmp_path / "out", teachers[:1], "--cache-teacher", "--resume")
    with pytest.raises(SystemExit, match="holds a run already"):
        train(tiny, tmp_path / "out", teachers[:1], "--cache-teacher")
    assert passes == []


def test_of_a_teacher_that_learned_no_valence_and_arousal_none_are_learned(tiny, teachers, tmp_path):
    shutil.copytree(teachers[0], tmp_path / "teacher")
    record = json.loads((tmp_path / "teacher/run.json").read_text())
    (tmp_path / "teacher/run.json").write_text(json.dumps(record | {"rates": False}))
    for name, taught_by in {"without": [tmp_path / "teacher"], "with": teachers[:1]}.items():
        train(tiny, tmp_path / name, taught_by)
        config = json.loads((tmp_path / name / "run.json").read_text())["config"]
        assert config["regression_weight"] == (name == "with")


def test_a_view_that_a_host_cannot_see_is_told(tmp_path):
    with pytest.raises(LaunchError, match="must be one folder that all hosts see"):
        check_shared(KeptOutputs(tmp_path, {"a": 2}, views=1))


def test_the_key_follows_every_number_of_the_teacher(teachers):
    variables = {"params": {"a": np.zeros(3, np.float32)}}
    changed = jax.tree.map(lambda leaf: leaf + np.eye(1, 3, 1, dtype=np.float32)[0] * 1e-6, variables)
    keys = [outputs_key(["f", {"a": 1}], each) for each in (variables, changed, variables)]
    assert keys[0] == keys[2] != keys[1]
    assert outputs_key(["g", {"a": 1}], variables) != keys[0] != outputs_key(["f", {"a": 2}], variables)


def test_a_view_that_was_half_written_is_written_again(tmp_path):
    taught = KeptOutputs(tmp_path, {"a": 2, "b": 1}, views=2)
    outputs = {"a": np.arange(8.0).reshape(4, 2), "b": 10 + np.arange(4.0)[:, None]}
    taught.write(1, outputs)
    (tmp_path / "view-000.partial").write_bytes(b"half")
    assert [taught.lacks(view) for view in (0, 1)] == [True, False]
    taught.write(0, {name: -values for name, values in outputs.items()})
    assert not taught.lacks(0)
    found = taught.read(np.array([3, 0, 3]), np.array([1, 2, 4]))
    np.testing.assert_array_equal(found["a"], [[6, 7], [0, -1], [-6, -7]])
    np.testing.assert_array_equal(found["b"], [[13], [-10], [-13]])


@pytest.mark.parametrize("options", [["--unlabelled", "fec"], ["--unlabelled-batch-size", "4"]])
def test_faces_without_labels_want_both_a_source_and_a_number(tiny, teachers, tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        train(tiny, tmp_path, teachers, *options)
    assert "give both or neither" in capsys.readouterr().err


def test_affectnets_unlabelled_faces_join(tiny, teachers, tmp_path):
    options = ["--unlabelled", "affectnet", "--unlabelled-batch-size", "4", "--triplet-batch-size", "0"]
    with pytest.raises(SystemExit, match="unlabelled"):
        train(tiny, tmp_path / "none", teachers[:1], *options)
    shutil.copytree(tiny.data / "fec", tmp_path / "data" / "fec")
    source = ["--source", tiny.corpora / "affectnet", "--unlabelled", "none", "uncertain"]
    avemo("prepare", "affectnet", *source, "--out", tmp_path / "data", "--size", 46, "--processes", 1)
    joined = replace(tiny, data=tmp_path / "data")
    online = train(joined, tmp_path / "online", teachers[:1], *options)
    cached = train(joined, tmp_path / "cached", teachers[:1], *options, "--cache-teacher")
    for mine, theirs in zip(cached, online, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_faces_of_another_size_cannot_join(tiny, teachers, tmp_path):
    shutil.copytree(tiny.data, tmp_path / "data")
    metadata = next((tmp_path / "data/fec/triplets").glob("*/metadata.json"))
    told = json.loads(metadata.read_text())
    told["preparation"]["size"] = 60
    metadata.write_text(json.dumps(told))
    options = ["--unlabelled", "fec", "--unlabelled-batch-size", "4", "--triplet-batch-size", "0"]
    with pytest.raises(SystemExit, match="must have one size, not affectnet 46x46, fec 60x60"):
        avemo(
            *("train", "student", "--data", tmp_path / "data", "--out", tmp_path / "out", "--teacher", teachers[0]),
            *(*STUDENT, *options),
        )


def test_without_a_number_of_views_there_is_nothing_to_keep(tiny, teachers, tmp_path, capsys):
    options = ["--data", tiny.data, "--out", tmp_path, "--teacher", teachers[0], *FACES]
    with pytest.raises(SystemExit):
        avemo("train", "student", *options, "--cache-teacher")
    assert "--views 10" in capsys.readouterr().err
