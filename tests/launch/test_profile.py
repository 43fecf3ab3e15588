"""`--profile`: the trace is there, it can be read, and it names the steps that were asked for."""

import gzip
import json

import numpy as np
import pytest
from test_loop import Lines, fit

from launch.commands import parse
from launch.errors import LaunchError
from launch.loop import Rhythm
from launch.profile import WARM_UP_STEPS


def traced(run, steps, profile_steps, batches=None):
    return fit(run, steps, batches, evaluate=lambda variables, check: {}, rhythm=Rhythm(), profile_steps=profile_steps)


def events(run):
    (path,) = run.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def steps_in(run):
    return [int(event["args"]["step_num"]) for event in events(run) if event.get("name") == "train"]


def test_the_trace_names_the_steps(tmp_path, capsys):
    traced(tmp_path / "run", 12, profile_steps=3)
    first = WARM_UP_STEPS + 1
    assert steps_in(tmp_path / "run") == [first, first + 1, first + 2]
    names = [event.get("name", "") for event in events(tmp_path / "run")]
    assert names.count("next_batch") == 3
    assert any("PjitFunction(step)" in name for name in names), "the compiled step"
    assert list((tmp_path / "run").glob("profile/plugins/profile/*/*.xplane.pb")), "what XProf reads"
    said = capsys.readouterr().out
    assert "perfetto_trace.json.gz at https://ui.perfetto.dev" in said
    assert f"xprof --logdir {tmp_path / 'run' / 'profile'}" in said


def test_the_same_is_learned(tmp_path):
    plain, profiled = traced(tmp_path / "plain", 10, 0), traced(tmp_path / "profiled", 10, 2)
    np.testing.assert_array_equal(plain.params["w"], profiled.params["w"])
    assert not (tmp_path / "plain" / "profile").exists()


def test_a_resumed_run_traces_its_own_steps(tmp_path):
    traced(tmp_path / "run", 2, 0)
    traced(tmp_path / "run", 10, 1)
    assert steps_in(tmp_path / "run") == [2 + WARM_UP_STEPS + 1]


def test_a_trace_that_is_cut_short_is_written(tmp_path):
    with pytest.raises(LaunchError, match="the loss is nan"):
        traced(tmp_path / "run", 100, 50, Lines(nan_at=WARM_UP_STEPS + 1))
    assert steps_in(tmp_path / "run")[0] == WARM_UP_STEPS + 1


def test_more_steps_than_are_left_are_refused(tmp_path):
    with pytest.raises(LaunchError, match=r"--profile 8 takes 5 steps more, to warm up, but .* has only 12 left"):
        traced(tmp_path / "run", 12, profile_steps=8)


def test_the_flag(capsys):
    training = ["train", "teacher", "--data", "data", "--out", "out"]
    assert parse(training).profile == 0
    assert parse([*training, "--profile", "3"]).profile == 3
    with pytest.raises(SystemExit):
        parse([*training, "--profile", "-1"])
    assert "can't be negative" in capsys.readouterr().err
