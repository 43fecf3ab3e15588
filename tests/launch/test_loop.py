"""The loop, with a stage small enough to follow: fit y = 2·x by gradient descent."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avemo.training import Optimizer, Stage, new_state, update
from launch.errors import LaunchError
from launch.loop import Rhythm, Together, start_run, train, truncate_log
from launch.mesh import data_mesh
from launch.runs import METRICS_FILE, RunRecord

OPTIMIZER = Optimizer(optax.adam(0.1))


def init(key):
    return new_state({"params": {"w": jax.random.normal(key)}}, OPTIMIZER)


def train_step(state, batch):
    loss_of = lambda params: jnp.square(params["w"] * batch["x"] - batch["y"]).mean()
    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return update(state, gradients, {}, OPTIMIZER), {"loss": loss}


class Lines:
    """Batches that depend on the position alone."""

    def __init__(self, nan_at=None):
        self.position, self.nan_at = 0, nan_at

    def __next__(self):
        x = np.random.default_rng(self.position).normal(size=8).astype(np.float32)
        if self.position == self.nan_at:
            x[3] = np.nan
        index = np.arange(8) + 8 * self.position
        self.position += 1
        return {"x": x, "y": 2 * x, "index": index}

    def get_state(self):
        return {"next_index": self.position}

    def set_state(self, state):
        self.position = state["next_index"]


STAGE = Stage(init, train_step, eval_step=None)
EVERY = Rhythm(log_every=2, evaluate_every=5, checkpoint_every=5)


def weight(variables, check):
    return {"w": float(variables["params"]["w"])}


def fit(run, steps, batches=None, stage=STAGE, evaluate=weight, rhythm=EVERY, profile_steps=0):
    run.mkdir(exist_ok=True)
    return train(
        name="line",
        run=run,
        stage=stage,
        batches=batches or Lines(),
        steps=steps,
        examples_per_step=8,
        seed=0,
        mesh=data_mesh(),
        rhythm=rhythm,
        evaluate=evaluate,
        profile_steps=profile_steps,
    )


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return {row["step"]: row["loss"] for row in rows(run) if "loss" in row}


def test_it_learns_and_logs(tmp_path):
    state = fit(tmp_path / "run", 100)
    assert float(state.params["w"]) == pytest.approx(2.0, abs=0.1)
    assert sorted(losses(tmp_path / "run")) == list(range(2, 101, 2))
    assert losses(tmp_path / "run")[100] < 0.01 * losses(tmp_path / "run")[2]
    assert [row["step"] for row in rows(tmp_path / "run") if "eval/w" in row] == list(range(5, 101, 5))


def test_resumed_equals_uninterrupted(tmp_path):
    whole = fit(tmp_path / "whole", 17)

    class Stop(Exception):
        pass

    def stop(variables, check):
        stop.calls += 1
        if stop.calls == 3:  # at step 15, which is being saved
            raise Stop
        return {}

    stop.calls = 0
    with pytest.raises(Stop):
        fit(tmp_path / "cut", 17, evaluate=stop)
    again = fit(tmp_path / "cut", 17)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_finished_run_is_left_alone(tmp_path):
    run, record = tmp_path / "run", RunRecord.new("line", "demo", 0, EVERY, {})
    assert start_run(run, record, steps=5, resume=False)
    fit(run, 5)
    assert not start_run(run, record, steps=5, resume=True)


def test_a_last_evaluation_that_was_cut_off_is_left_to_do(tmp_path):
    run, record = tmp_path / "run", RunRecord.new("line", "demo", 0, EVERY, {})
    assert start_run(run, record, steps=5, resume=False)
    fit(run, 5)
    expected = (run / METRICS_FILE).read_text()
    for cut in (len(expected.splitlines()[-1]) + 1, 3):  # without it, or with half of it
        (run / METRICS_FILE).write_text(expected[:-cut])
        assert start_run(run, record, steps=5, resume=True)
        fit(run, 5)
        assert (run / METRICS_FILE).read_text() == expected
    assert not start_run(run, record, steps=5, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_as_another(tmp_path):
    run, record = tmp_path / "run", RunRecord.new("line", "demo", 0, EVERY, {})
    start_run(run, record, steps=5, resume=False)
    with pytest.raises(LaunchError, match="holds a run already: add --resume"):
        start_run(run, record, steps=5, resume=False)
    other = RunRecord.new("line", "demo", 0, Rhythm(log_every=3), {})
    with pytest.raises(LaunchError, match="started with another config"):
        start_run(run, other, steps=5, resume=True)


def test_nan_stops_with_step_and_records(tmp_path):
    batches = Together({"lines": Lines(nan_at=6)})
    stage = Stage(init, lambda state, batch: train_step(state, batch["lines"]), eval_step=None)
    with pytest.raises(LaunchError, match=r"loss is nan at step 7 .*lines records \[48, 49, .*55\]"):
        fit(tmp_path / "run", 20, batches, stage)


def test_the_step_is_traced_once(tmp_path):
    traces = []

    def counted(state, batch):
        traces.append(1)
        return train_step(state, batch)

    fit(tmp_path / "run", 20, stage=Stage(init, counted, eval_step=None))
    assert len(traces) == 1


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 6, "lo')
    truncate_log(log, 3)
    assert log.read_text() == '{"step": 2, "loss": 1.0}\n'


def test_a_full_disk_under_the_log_is_told(tmp_path):
    """The device /dev/full is a disk that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def fill(variables, check):
        (tmp_path / "run" / "metrics.jsonl").unlink()
        (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
        return {}

    with pytest.raises(LaunchError, match=r"metrics.jsonl can't be written \(.* MB free\): No space left on device"):
        fit(tmp_path / "run", 17, evaluate=fill)


def test_together_shares_a_position():
    both = Together({"a": Lines(), "b": Lines()})
    next(both)
    assert both.get_state() == {"next_index": 1}
    expected = next(both)
    both.set_state({"next_index": 1})
    jax.tree.map(np.testing.assert_array_equal, next(both), expected)
