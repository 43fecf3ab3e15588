"""Runs that are told to stop, killed, or moved to other devices, and go on as if nothing had happened.

Run as a script, this file trains a tiny stage, so that tests can interrupt it from outside.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avemo.training import Stage, new_state, update
from data_pipelines.loaders import window_batches
from launch.checkpoints import Checkpoints
from launch.hosts import Hosts, join
from launch.interruption import EXIT_CODE, Interrupted, Interruption
from launch.loop import Rhythm, Together, train
from launch.mesh import data_mesh, own_rows

OPTIMIZER = optax.adam(0.1)


@dataclass(frozen=True)
class Job:
    """A training of the tiny stage: valence and arousal from two features, in windows of real loaders."""

    run: Path
    steps: int = 12
    log_every: int = 2
    checkpoint_every: int = 5
    pause_s: float = 0.0
    signal_at: int = -1

    def __call__(self):
        self.run.mkdir(exist_ok=True)
        return train(
            name="tiny",
            run=self.run,
            stage=Stage(init, train_step, eval_step=None),
            batches=Together({"windows": Windows(self), "same": Windows(replace(self, signal_at=-1))}),
            steps=self.steps,
            examples_per_step=8,
            seed=0,
            mesh=data_mesh(),
            rhythm=Rhythm(log_every=self.log_every, evaluate_every=6, checkpoint_every=self.checkpoint_every),
            evaluate=lambda variables: {"bias": float(variables["params"]["bias"][0])},
        )


def init(key):
    return new_state({"params": {"w": jax.random.normal(key, (2, 2)), "bias": jnp.zeros(2)}}, OPTIMIZER)


def train_step(state, batch):
    def loss_of(params):
        predicted = batch["windows"]["face"] @ params["w"] + params["bias"]
        return jnp.square(predicted - batch["same"]["labels"]).mean()

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return update(state, gradients, {}, OPTIMIZER), {"loss": loss}


class Windows:
    """`window_batches` that writes down what it gave, takes its time, and at some point sends a signal."""

    def __init__(self, job):
        rng = np.random.default_rng(0)
        recordings = [
            {name: rng.normal(size=(50, 2)).astype(np.float32) for name in ("face", "labels")} for _ in range(5)
        ]
        self.job, self.batches = job, window_batches(recordings, window_frames=7, batch_size=8, seed=0)
        self.get_state, self.set_state = self.batches.get_state, self.batches.set_state

    def __next__(self):
        time.sleep(self.job.pause_s)
        batch = next(self.batches)
        taken = self.get_state()["next_index"]
        if taken == self.job.signal_at:
            signal.raise_signal(signal.SIGTERM)
        with (self.job.run / "examples.jsonl").open("a") as file:
            file.write(json.dumps([taken, batch["index"].tolist()]) + "\n")
        return own_rows(batch)


def as_script(job, devices=1, **hosts):
    """Run a job in a process of its own."""
    settings = json.dumps([asdict(job) | {"run": str(job.run)}, hosts])
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, __file__, settings], env=os.environ | cache, stderr=subprocess.PIPE, text=True
    )


def main():
    job, hosts = json.loads(sys.argv[1])
    join(Hosts(**hosts))
    try:
        Job(**job | {"run": Path(job["run"])})()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(EXIT_CODE)


def rows(run):
    """The lines of metrics.jsonl, without the one figure that no two runs have in common."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "examples_per_s"} for row in lines]


def examples(run):
    """What was seen in each step. Steps that were done twice saw the same."""
    seen = {}
    for line in (run / "examples.jsonl").read_text().splitlines():
        step, index = json.loads(line)
        assert seen.setdefault(step, index) == index
    return seen


def last_checkpoint(run):
    with Checkpoints(run) as checkpoints:
        step = checkpoints.latest_step()
        return step, dict(checkpoints.manager.restore(step).items())


def assert_same_run(run, other):
    (step, arrays), (other_step, other_arrays) = last_checkpoint(run), last_checkpoint(other)
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, arrays, other_arrays)
    assert rows(run) == rows(other)
    assert examples(run) == examples(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted."""
    run = tmp_path_factory.mktemp("whole")
    Job(run)()
    return run


@pytest.mark.parametrize("step", [1, 6, 7, 10, 12])
def test_sigterm_saves_the_running_step(whole, tmp_path, step):
    """Also between two lines of the log, where their mean is half made, and at steps that are saved anyway."""
    with pytest.raises(Interrupted, match=rf"told to stop after step {step} of 12: to go on, add --resume"):
        Job(tmp_path, signal_at=step)()
    assert last_checkpoint(tmp_path)[0] == step
    Job(tmp_path)()
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handled_only_inside(which):
    before = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)]
    with Interruption() as interruption:
        assert not interruption.told_by(1)
        signal.raise_signal(which)
        assert interruption.told_by(2)
        assert signal.getsignal(which) == signal.SIG_DFL, "a second one would be held up too"
    assert [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_leaves_signals_alone(tmp_path):
    failures = []

    def in_thread():
        try:
            Job(tmp_path)()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert failures == []
    assert last_checkpoint(tmp_path)[0] == 12


def wait_for_step(process, run, step):
    log = run / "metrics.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= step):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_the_process_ends_with_a_code_of_its_own(tmp_path):
    process = as_script(Job(tmp_path, steps=10_000, log_every=1, pause_s=0.01))
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "add --resume" in errors.splitlines()[-1]


def test_a_second_signal_ends_it_at_once(tmp_path):
    process = as_script(Job(tmp_path, log_every=1, pause_s=60.0))
    while not (tmp_path / "checkpoints").exists():
        time.sleep(0.01)
    time.sleep(1.0)  # now it waits for its first batch
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM


def test_the_command_line_gives_the_code(monkeypatch, capsys):
    from launch import cli, commands

    def stopped():
        raise Interrupted("run was told to stop")

    monkeypatch.setattr(commands, "parse", lambda arguments: stopped)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 75
    assert capsys.readouterr().err == "avemo: run was told to stop\n"


def test_another_number_of_devices_goes_on_with_the_same_examples(whole, tmp_path):
    one_four, four_one, half = tmp_path / "one_four", tmp_path / "four_one", {"steps": 6}
    Job(one_four, **half)()
    processes = [as_script(Job(one_four), devices=4), as_script(Job(four_one, **half), devices=4)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    Job(four_one)()
    for run in (one_four, four_one):
        assert examples(run) == examples(whole)
        for row, expected in zip(rows(run), rows(whole), strict=True):
            assert row == pytest.approx(expected, rel=1e-5)


def test_all_hosts_stop_at_the_same_step(tmp_path):
    """Two processes with two devices each, of which only the second one is told."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    job = Job(tmp_path, steps=10_000, log_every=1, pause_s=0.01)
    hosts = [as_script(job, 2, coordinator=address, host_count=2, host_index=index) for index in range(2)]
    wait_for_step(hosts[0], tmp_path, 3)
    hosts[1].send_signal(signal.SIGTERM)
    for host in hosts:
        _, errors = host.communicate(timeout=60)
        assert host.returncode == 75, errors
    with Checkpoints(tmp_path) as checkpoints:
        step = checkpoints.latest_step()
    assert step % 8 == 0
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == list(range(1, step + 1))


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    """At random moments: in training, in saving, and (each fourth) while it starts, reads and goes on."""
    settings = {"steps": 400, "log_every": 3, "checkpoint_every": 7, "pause_s": 0.005}
    Job(tmp_path / "whole", **settings)()
    killed, rng = Job(tmp_path / "killed", **settings), np.random.default_rng(0)
    killed.run.mkdir()
    for kill in range(20):
        before, process = taken(killed.run), as_script(killed)
        if kill % 4 == 3:
            time.sleep(rng.uniform(0, 3))
        else:
            enough = before + 2 * int(rng.integers(1, 40))  # two streams
            while taken(killed.run) < enough:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    process = as_script(killed)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_run(killed.run, tmp_path / "whole")


def taken(run):
    """How many batches were taken so far, steps done twice counted twice."""
    path = run / "examples.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


if __name__ == "__main__":
    main()
