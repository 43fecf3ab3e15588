"""Processes that train as one: how they find each other, and that they do what one process with one device does."""

import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import pytest

from launch import hosts
from launch.errors import LaunchError
from launch.hosts import ADDRESS_VARIABLES, Hosts

SMALLEST = ["--network.trunk.width", "0.125", "--network.dense-layers", "1", "--network.reduced-channels", "16"]
EVERY = ["--log-every", "1", "--evaluate-every", "2", "--checkpoint-every", "2"]
FACES = ["--preset", "demo", "--batch-size", "8", "--triplet-batch-size", "4", "--steps", "4", *SMALLEST, *EVERY]
FACES += ["--network.growth", "8"]
FUSION = ["--preset", "demo", "--batch-size", "4", "--window-s", "1", "--annotation-delay-s", "1", "1", "--steps", "4"]
FUSION += EVERY
SLOWLY = ["--optimizer.learning-rate", "1e-5"]  # Adam makes much of rounding where a gradient is nearly zero


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.fixture
def initialized(monkeypatch):
    """What `jax.distributed.initialize` was called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **named: calls.append((given, named)))
    for name in ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_initializes_nothing(initialized, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node1:1234")
    hosts.join(Hosts())
    assert initialized == []


def test_addresses_from_flags(initialized):
    hosts.join(Hosts(coordinator="node1:1234", host_index=3, host_count=4))
    assert initialized == [(("node1:1234", 4, 3), {"cluster_detection_method": "deactivate"})]


def test_addresses_from_variables(initialized, monkeypatch):
    for name, value in zip(ADDRESS_VARIABLES, ("node1:1234", "4", "3"), strict=True):
        monkeypatch.setenv(name, value)
    hosts.join(Hosts(hosts="detect"))
    assert initialized == [(("node1:1234", 4, 3), {"cluster_detection_method": "deactivate"})]


def test_everything_else_is_detected_by_jax(initialized):
    hosts.join(Hosts(hosts="detect"))
    assert initialized == [((), {})]


def test_nothing_detected_is_told(monkeypatch):
    def fail():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(LaunchError, match=r"can't join the other hosts: coordinator_address .* --coordinator, --host"):
        hosts.join(Hosts(hosts="detect"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host_count": 2}, "need --coordinator"),
        ({"coordinator": "node1"}, "must be host:port, not node1"),
        ({"coordinator": "node1:1", "hosts": "detect"}, "not both"),
        ({"coordinator": "node1:1", "host_count": 2, "host_index": 2}, "must lie in 0 … 1, not 2"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        Hosts(**settings)


# --- trainings ----------------------------------------------------------------------------------------------


def python(code, *arguments, devices, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start(arguments, devices, **environment):
    return python("from launch.cli import main; main()", *arguments, devices=devices, **environment)


def finish(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_tasks_of_slurm_find_each_other():
    """By the variables that SLURM sets in a job step."""
    code = (
        "import jax, launch.hosts as h; h.join(h.Hosts(hosts='detect')); print(jax.process_index(), jax.device_count())"
    )
    job = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    job["JAX_COORDINATOR_PORT"] = str(free_port())
    tasks = [python(code, devices=2, **job, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in range(2)]
    own = [[line for line in output.splitlines() if "[Gloo]" not in line] for output in finish(*tasks)]
    assert [lines[-1] for lines in own] == ["0 4", "1 4"]


@pytest.mark.slow
def test_a_host_that_compiles_for_long_is_waited_for():
    """For longer than the 30 s that hosts on CPUs have to connect."""
    code = """
import sys, time, jax, jax.numpy as jnp, numpy as np
from launch.hosts import Hosts, compile_together, join
from launch.mesh import data_mesh, put_batch, replicated

coordinator, index = sys.argv[1], int(sys.argv[2])
join(Hosts(coordinator=coordinator, host_index=index, host_count=2))
total = jax.jit(jnp.sum, out_shardings=replicated(data_mesh()))
numbers = put_batch(data_mesh(), np.array([1.0, 2.0]) + 2 * index)
time.sleep(33 * index)
compile_together(total, numbers)
print(total(numbers))
"""
    address = f"localhost:{free_port()}"
    hosts = [python(code, address, index, devices=2) for index in range(2)]
    assert all("10.0" in output for output in finish(*hosts))


def train_on_one(*arguments, devices):
    finish(start(["train", *arguments], devices))


def train_on_two(*arguments, by_variables=False):
    """Two processes with two devices each."""
    address, processes = f"localhost:{free_port()}", []
    for i in range(2):
        flags = ["--coordinator", address, "--host-index", i, "--host-count", 2]
        variables = dict(zip(ADDRESS_VARIABLES, (address, "2", str(i)), strict=True))
        if by_variables:
            processes.append(start(["train", *arguments, "--hosts", "detect"], 2, **variables))
        else:
            processes.append(start(["train", *arguments, *flags], 2))
    return finish(*processes)


def figures(run):
    """All that was logged but the speed, by step and name."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    keys = [(row["step"], name) for row in rows for name in row if name not in ("step", "examples_per_s")]
    assert len(keys) == len(set(keys)), "a step was logged twice"
    return {(row["step"], name): row[name] for row in rows for name in row if name not in ("step", "examples_per_s")}


def assert_same_figures(run, other):
    """To 1e-5: correlations by their scale of 1 (these networks' hardly varying outputs give some near 0), all else
    relatively. Not the gradient's norm, which jumps where rounding decides which side of a maximum or a hinge is up."""
    one, two = figures(run), figures(other)
    assert {(4, "loss"), (4, "gradient_norm")} < set(one)
    assert set(one) == set(two)
    for step, name in one:
        absolute = 1e-5 if "ccc" in name or "pearson" in name else 0.0
        relative = 1e-3 if name == "gradient_norm" else 1e-5
        expected = pytest.approx(two[step, name], rel=relative, abs=absolute)
        assert one[step, name] == expected, f"{name} at step {step}"


@pytest.fixture(scope="module")
def one_device(tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "teacher"
    train_on_one("teacher", "--data", tiny.data, "--out", run, *FACES, *SLOWLY, devices=1)
    return run


@pytest.mark.slow
def test_four_devices_do_what_one_does(tiny, one_device, tmp_path):
    run = tmp_path / "teacher"
    train_on_one("teacher", "--data", tiny.data, "--out", run, *FACES, *SLOWLY, "--mesh", "data=4", devices=4)
    assert_same_figures(run, one_device)


@pytest.mark.slow
def test_two_hosts_of_two_devices_do_what_one_does(tiny, one_device, tmp_path):
    """FEC's 15 test triplets fall unevenly on the hosts and on the devices."""
    run = tmp_path / "teacher"
    first, second = train_on_two("teacher", "--data", tiny.data, "--out", run, *FACES, *SLOWLY)
    assert_same_figures(run, one_device)
    assert {(2, "eval/accuracy_8"), (4, "eval/ccc_valence"), (4, "eval/triplet_accuracy")} < set(figures(run))
    assert "4/4" in first
    assert "teacher" not in second  # only the first host shows progress


@pytest.mark.slow
def test_fusion_with_split_parameters_on_two_hosts_does_what_one_device_does(tiny, one_device, tmp_path):
    """One recording in dev: three of the four devices, and one of the hosts, evaluate padding alone. Then one device
    goes on from the checkpoint that both hosts wrote, and they from the one that it wrote."""
    options = ["fusion", "--data", tiny.data, "--face", one_device, *FUSION, *SLOWLY]
    train_on_one(*options, "--out", tmp_path / "one", devices=1)
    split = ["--mesh", "data=2", "fsdp=2"]
    train_on_two(*options, "--out", tmp_path / "two", *split, by_variables=True)
    assert_same_figures(tmp_path / "two", tmp_path / "one")

    shutil.copytree(tmp_path / "one", tmp_path / "one_two")
    for run in (tmp_path / "two", tmp_path / "one_two"):
        shutil.rmtree(run / "checkpoints" / "4")  # as if it had been stopped before
    train_on_one(*options, "--out", tmp_path / "two", "--resume", devices=1)
    train_on_two(*options, "--out", tmp_path / "one_two", "--resume", *split)
    for run in (tmp_path / "two", tmp_path / "one_two"):
        assert_same_figures(run, tmp_path / "one")
