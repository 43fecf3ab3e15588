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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avemo.training import Optimizer, Stage, new_state, update
from data_pipelines.loaders import window_batches
from launch.checkpoints import DIGESTS_FILE, FOLDER, Checkpoints
from launch.hosts import Hosts, joined
from launch.interruption import EXIT_CODE, Interrupted, Interruption
from launch.loop import Rhythm, Together, train
from launch.mesh import data_mesh

OPTIMIZER = Optimizer(optax.adam(0.1))


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
            evaluate=self.evaluate,
        )

    def evaluate(self, variables, check):
        for number in range(1, 4):
            check(number)
        return {"bias": float(variables["params"]["bias"][0]), "mean": float(variables["batch_stats"]["mean"][0])}


def init(key):
    params = {"w": jax.random.normal(key, (2, 2)), "bias": jnp.zeros(2)}
    return new_state({"params": params, "batch_stats": {"mean": jnp.zeros(2)}}, OPTIMIZER)


def train_step(state, batch):
    faces, labels = batch["windows"]["face"], batch["same"]["labels"]
    loss_of = lambda params: jnp.square(faces @ params["w"] + params["bias"] - labels).mean()
    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    mean = 0.9 * state.batch_stats["mean"] + 0.1 * faces.mean(axis=(0, 1))
    return update(state, gradients, {"mean": mean}, OPTIMIZER), {"loss": loss}


class Windows:
    """`window_batches` that writes down what it gave, takes its time, and at some point sends a signal."""

    def __init__(self, job):
        rng = np.random.default_rng(0)
        recordings = [
            {name: rng.normal(size=(50, 2)).astype(np.float32) for name in ("face", "labels")} for _ in range(5)
        ]
        host, hosts = jax.process_index(), jax.process_count()
        share = {"batch_size": 8 // hosts, "shard_index": host, "shard_count": hosts}
        self.job, self.batches = job, window_batches(recordings, window_frames=7, seed=0, **share)
        self.get_state, self.set_state = self.batches.get_state, self.batches.set_state
        self.first_row, self.file = host * 8 // hosts, job.run / f"examples-{host}.jsonl"

    def __next__(self):
        time.sleep(self.job.pause_s)
        batch = next(self.batches)
        taken = self.get_state()["next_index"]
        if taken == self.job.signal_at:
            signal.raise_signal(signal.SIGTERM)
        with self.file.open("a") as file:
            file.write(json.dumps([taken, self.first_row, batch["index"].tolist()]) + "\n")
        return batch


@pytest.fixture
def as_script():
    """Runs a job in a process of its own, which doesn't outlive the test, however that ends."""
    with ExitStack() as processes:

        def start(job, devices=1, **hosts):
            settings = json.dumps([asdict(job) | {"run": str(job.run)}, hosts])
            cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_NUM_CPU_DEVICES": str(devices)}
            command = [sys.executable, __file__, settings]
            process = subprocess.Popen(command, env=os.environ | cache, stderr=subprocess.PIPE, text=True)
            processes.enter_context(process)  # waits for it and closes its pipe
            processes.callback(process.kill)  # goes first
            return process

        yield start


@pytest.fixture
def as_two_hosts(as_script):
    """Runs a job in two processes with two devices each."""

    def start(job):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        return [as_script(job, 2, coordinator=address, host_count=2, host_index=index) for index in range(2)]

    return start


def main():
    job, hosts = json.loads(sys.argv[1])
    try:
        with joined(Hosts(**hosts)):
            Job(**job | {"run": Path(job["run"])})()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(EXIT_CODE)


def rows(run):
    """The lines of metrics.jsonl, without the one figure that no two runs have in common."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "examples_per_s"} for row in lines]


def examples(run):
    """What was seen in each row of each step, by all hosts. Steps that were done twice saw the same."""
    seen = {}
    for path in run.glob("examples-*.jsonl"):
        for step, first_row, index in map(json.loads, path.read_text().splitlines()):
            for row, example in enumerate(index, first_row):
                assert seen.setdefault((step, row), example) == example
    return seen


def last_checkpoint(run):
    with Checkpoints(run) as checkpoints:
        step = checkpoints.latest_step()
        return step, dict(checkpoints.manager.restore(step).items())


def last_saved(run):
    """The newest step that was saved, or is being saved."""
    return max(int(path.name.partition(".")[0]) for path in (run / FOLDER).iterdir())


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
    with pytest.raises(Interrupted, match="told to stop, and all its steps are saved: to go on, add --resume"):
        Job(tmp_path, signal_at=step)()
    assert last_checkpoint(tmp_path)[0] == step
    Job(tmp_path)()
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("step", [6, 12])
def test_sigterm_cuts_an_evaluation_short(whole, tmp_path, step):
    """Twice: the resumed run begins with this evaluation, and is told again. Each is logged once nevertheless."""

    @dataclass(frozen=True)
    class Told(Job):
        def evaluate(self, variables, check):
            if last_saved(self.run) < step:
                return super().evaluate(variables, check)
            check(1)
            signal.raise_signal(signal.SIGTERM)
            check(2)
            pytest.fail("it went on")

    for _ in range(2):
        with pytest.raises(Interrupted):
            Told(tmp_path)()
        assert last_checkpoint(tmp_path)[0] == step
        assert [row["step"] for row in rows(tmp_path) if "eval/bias" in row] == list(range(6, step, 6))
    Job(tmp_path)()
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handled_only_inside(which):
    before = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)]
    with Interruption("") as interruption:
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
    wait_until(process, lambda: log.exists() and len(log.read_text().splitlines()) >= step)


def wait_until(process, condition):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def test_the_process_ends_with_a_code_of_its_own(tmp_path, as_script):
    process = as_script(Job(tmp_path, steps=10_000, log_every=1, pause_s=0.01))
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "add --resume" in errors.splitlines()[-1]


def test_a_second_signal_ends_it_at_once(tmp_path, as_script):
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


def assert_same_figures_and_examples(run, other):
    """To float tolerance, and exactly."""
    assert examples(run) == examples(other)
    for row, expected in zip(rows(run), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


def test_another_number_of_devices_goes_on_with_the_same_examples(whole, tmp_path, as_script):
    one_four, four_one, half = tmp_path / "one_four", tmp_path / "four_one", {"steps": 6}
    Job(one_four, **half)()
    finish(0, as_script(Job(one_four), devices=4), as_script(Job(four_one, **half), devices=4))
    Job(four_one)()
    for run in (one_four, four_one):
        assert_same_figures_and_examples(run, whole)


def finish(code, *processes):
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors


def test_another_number_of_hosts_goes_on_with_the_same_examples(tmp_path, as_script, as_two_hosts):
    """One process with one device goes on with what two with two devices each began, and the other way round. They are
    told to stop by a signal; of the two, only the second one is, and both stop at the same step."""
    whole, two_one, one_two = (Job(tmp_path / name, steps=80, log_every=1) for name in ("whole", "two_one", "one_two"))
    whole()
    for job, start in ((two_one, as_two_hosts), (one_two, lambda job: [as_script(job)])):
        processes = start(replace(job, pause_s=0.05))  # slow enough to be told in time
        wait_for_step(processes[-1], job.run, 3)
        processes[-1].send_signal(signal.SIGTERM)
        finish(75, *processes)
        assert last_saved(job.run) < 80
    assert last_saved(two_one.run) % 8 == 0
    finish(0, *as_two_hosts(one_two), as_script(two_one))
    for job in (two_one, one_two):
        assert_same_figures_and_examples(job.run, whole.run)


def test_a_host_that_fails_is_not_waited_for(tmp_path, as_two_hosts):
    """The first one can't write its log any more. The other one has no message of its own, but ends as well."""
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    hosts = as_two_hosts(Job(tmp_path, steps=10_000, log_every=1, pause_s=0.01))
    wait_for_step(hosts[0], tmp_path, 3)
    full.replace(tmp_path / "metrics.jsonl")  # at once: no line fits between
    began = time.monotonic()
    finish(1, hosts[0])
    hosts[1].communicate(timeout=60)
    assert hosts[1].returncode != 0
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, as_script):
    """At random moments of the training; each fourth while it starts, reads and goes on; and each fourth while it
    writes a checkpoint."""
    settings = {"steps": 500, "log_every": 3, "checkpoint_every": 7, "pause_s": 0.005}
    Job(tmp_path / "whole", **settings)()
    killed, rng = Job(tmp_path / "killed", **settings), np.random.default_rng(0)
    killed.run.mkdir()
    unfinished = 0
    for kill in range(20):
        before, process = taken(killed.run), as_script(killed)
        if kill % 4 == 3:
            time.sleep(rng.uniform(0, 3))
        else:
            enough = before + 2 * int(rng.integers(1, 20))  # two streams
            wait_until(process, lambda enough=enough: taken(killed.run) >= enough)
            if kill % 4 == 1:
                wait_until(process, lambda: is_saving(killed.run))
            else:
                time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        unfinished += is_saving(killed.run)
    assert unfinished >= 3
    finish(0, as_script(killed))
    assert_same_run(killed.run, tmp_path / "whole")


def is_saving(run):
    """Whether there is an unfinished checkpoint."""
    return any(not (path / DIGESTS_FILE).exists() for path in (run / FOLDER).iterdir())


def taken(run):
    """How many batches were taken so far, steps done twice counted twice."""
    path = run / "examples-0.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


if __name__ == "__main__":
    main()
