"""What is traced, compiled, donated and fetched, and how often."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import avemo
from test_loop import fit, init, train_step

from avemo.stages import student, teacher
from avemo.training import Stage, stream_key
from launch import loop
from launch.compilation_cache import keep_compiled_programs, without_kept_programs
from launch.evaluation import Evaluator
from launch.loop import METRICS_DELAY, jit_step
from launch.mesh import data_mesh, replicated, state_sharding

TINIEST = ["--preset", "demo", "--batch-size", "8", "--network.trunk.width", "0.02", "--network.trunk.blocks", "0", "0"]
TINIEST += ["--network.dense-layers", "0", "--network.reduced-channels", "8", "--network.embedding-size", "8"]
WITHOUT_FEC = [*TINIEST, "--triplet-batch-size", "0"]


def test_without_kept_programs_nothing_comes_from_the_cache():
    """Whatever was compiled or loaded before; and afterwards programs are kept again."""
    hits = []
    listener = lambda name, **_: hits.append(name) if name == "/jax/compilation_cache/cache_hits" else None
    jax.monitoring.register_event_listener(listener)
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_anew = lambda: jax.jit(lambda x: jnp.linalg.svd(jnp.sin(x) @ x)[1]).lower(jnp.ones((8, 8))).compile()
    try:
        compile_anew()
        hits.clear()
        compile_anew()
        assert len(hits) == 1
        with without_kept_programs():
            compile_anew()
        assert len(hits) == 1
        compile_anew()
        assert len(hits) == 2
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
        jax.monitoring.unregister_event_listener(listener)


# --- the cache on disk --------------------------------------------------------------------------------------

COUNTED = """
import json, sys
from collections import Counter
from launch import cli
from launch.compilation_cache import keep_compiled_programs

keep_compiled_programs()  # here already, since JAX is imported before the command
import jax

counts = Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name]))
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: counts.update([name]))
cli.main()
print(json.dumps(counts), file=sys.stderr)
"""


def compiled(cache, *arguments, **environment):
    """Run a command in a process of its own: how many programs it needed, and how many of them it compiled."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERS"))}
    cheap = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # compiling takes a third of the time
    process = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, arguments)],
        env=unset | cheap | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    counts = json.loads(process.stderr.splitlines()[-1])
    programs = counts["/jax/core/compile/backend_compile_duration"]  # loading one from the cache counts as well
    return programs, programs - counts.get("/jax/compilation_cache/cache_hits", 0)


def train_teacher(tiny, out):
    return ["train", "teacher", "--data", tiny.data, "--out", out, *WITHOUT_FEC, "--steps", "2", "--log-every", "1"]


def test_a_second_start_compiles_nothing(tiny, tmp_path):
    programs, compilations = compiled(tmp_path, *train_teacher(tiny, tmp_path / "first"))
    assert programs == compilations == 3  # initial state, training step, evaluation step
    assert compiled(tmp_path, *train_teacher(tiny, tmp_path / "second")) == (3, 0)
    assert len([*(tmp_path / "avemo" / "xla").iterdir()]) == 3


@pytest.mark.slow
def test_no_command_compiles_anything_twice(tiny, tmp_path):
    chain = {
        "teacher": [*TINIEST, "--triplet-batch-size", "4", "--steps", "2"],
        "student": ["--preset", "demo", "--batch-size", "8", "--triplet-batch-size", "4", "--steps", "2"],
        "fusion": ["--preset", "demo", "--steps", "2", "--batch-size", "2", "--window-s", "1"],
    }
    chain["student"] += ["--network.embedding-size", "8", "--network.trunk.widths", "8", "8", "8", "8"]
    chain["fusion"] += ["--network.face-size", "8", "--network.recurrent.features", "8"]

    def all_commands(root):
        on = {"teacher": [], "student": ["--teacher", root / "teacher"], "fusion": ["--face", root / "student"]}
        for stage, settings in chain.items():
            yield compiled(tmp_path, "train", stage, "--data", tiny.data, "--out", root / stage, *on[stage], *settings)
        runs = [f"--{stage}={root / stage}" for stage in chain]
        yield compiled(tmp_path, "evaluate", "--data", tiny.data, "--out", root / "results", *runs)

    first, second = [*all_commands(tmp_path / "first")], [*all_commands(tmp_path / "second")]
    assert all(compilations > 0 for _, compilations in first)
    assert all(compilations == 0 for _, compilations in second)
    # The recordings' embeddings are kept from the first time, so that fusion and evaluation need fewer programs.
    assert [programs for programs, _ in second[:2]] == [programs for programs, _ in first[:2]]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "to be restored")  # what is set here from outside comes back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME moves the cache on Linux")
def test_the_cache_lies_in_the_users_folder(environment, tmp_path):
    keep_compiled_programs()
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) == tmp_path / "avemo" / "xla"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"


def test_jaxs_own_variables_go_first(environment):
    environment.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    environment.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME moves the cache on Linux")
def test_without_a_folder_there_is_no_cache(environment, tmp_path):
    (tmp_path / "file").touch()
    environment.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


# --- traces -------------------------------------------------------------------------------------------------


def test_each_step_is_traced_once_per_shape(tiny, tmp_path, monkeypatch):
    """Over several evaluations, the last batch of which is padded, and once more after resuming."""
    traces = []

    def counted(name):
        function = getattr(teacher, name)

        def wrapper(*arguments, **keywords):
            traces.append((name, *sorted(arguments[-1])))
            return function(*arguments, **keywords)

        monkeypatch.setattr(teacher, name, wrapper)

    counted("train_step")
    counted("evaluate_faces")
    every = ["--evaluate-every", "2", "--checkpoint-every", "2", "--steps", "6", "--triplet-batch-size", "4"]
    command = ["train", "teacher", "--data", tiny.data, "--out", tmp_path, *TINIEST, *every]
    once = [("evaluate_faces", "affectnet"), ("evaluate_faces", "fec"), ("train_step", "affectnet", "fec")]
    avemo(*command)
    assert sorted(traces) == once
    traces.clear()
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    avemo(*command, "--resume")
    assert sorted(traces) == once


# --- donated buffers ----------------------------------------------------------------------------------------


def test_the_loop_gives_the_state_away(tmp_path, monkeypatch):
    """The state before a step is gone after it, so that two never lie in memory; what a stage freezes stays."""
    given, frozen = [], (jnp.ones(4),)

    def noting_step(*arguments):
        step = jit_step(*arguments)

        def noted(state, *others):
            given.append(state)
            return step(state, *others)

        return noted

    monkeypatch.setattr(loop, "jit_step", noting_step)
    stage = Stage(init, lambda state, batch, _: train_step(state, batch), None, frozen)
    last = fit(tmp_path / "run", 17, stage=stage)
    for done, state in enumerate(given):
        if done not in (5, 10, 15):  # a checkpoint may look at the very buffers where the device is the host
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), done
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((last, frozen)))


def test_the_whole_state_is_donated_and_the_teacher_is_not():
    """By XLA's own account: outputs take the place of as many bytes as the state has, and the teacher stays."""
    even, mesh = np.ones(8, np.float32), data_mesh()
    state_of = lambda stage: jax.eval_shape(stage.init, stream_key(0, "init"))
    teaching = state_of(teacher.build(teacher.DEMO, even, 0)).variables
    stage = student.build(student.DEMO, even, 0, [(teacher.DEMO.network, teaching)])
    state = state_of(stage)
    faces = {
        "image": jax.ShapeDtypeStruct((8, 46, 46, 3), jnp.uint8),
        "expression": jax.ShapeDtypeStruct((8,), jnp.int32),
        "expression_valid": jax.ShapeDtypeStruct((8,), bool),
        "valence_arousal": jax.ShapeDtypeStruct((8, 2), jnp.float32),
        "valence_arousal_valid": jax.ShapeDtypeStruct((8,), bool),
        "index": jax.ShapeDtypeStruct((8,), jnp.int32),
        "epoch": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    lowered = jit_step(stage, mesh, state_sharding(mesh, state)).lower(state, {"affectnet": faces}, (teaching,))
    memory = lowered.compile().memory_analysis()
    size_of = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    assert memory.alias_size_in_bytes == pytest.approx(size_of(state), rel=0.01)
    assert memory.argument_size_in_bytes > size_of(state) + size_of(teaching)


def test_an_evaluation_leaves_the_variables(tmp_path):
    variables = {"w": jax.device_put(jnp.ones(4), replicated(data_mesh()))}
    evaluator = Evaluator(lambda variables, batch: {"sum": (variables["w"] * batch["x"]).sum()}, data_mesh())
    for _ in range(2):
        evaluator(variables, [{"x": np.ones(4, np.float32)}])
    assert not variables["w"].is_deleted()


# --- the device never waits for the host --------------------------------------------------------------------


def test_metrics_are_read_after_later_steps_were_dispatched(tmp_path, monkeypatch):
    happened = []

    def noted(owner, name, what):
        function = getattr(owner, name)

        def wrapper(*arguments):
            happened.append(what(*arguments))
            return function(*arguments)

        monkeypatch.setattr(owner, name, wrapper)

    noted(loop, "put_batch", lambda mesh, batch: ("dispatch", batch["index"][0] // 8 + 1))
    noted(loop.Log, "_read", lambda log: ("read", log.pending[0][0]))
    fit(tmp_path / "run", 17)
    order = {event: at for at, event in enumerate(happened)}
    for step in range(1, 18):
        ahead = min(step + METRICS_DELAY, -(-step // 5) * 5, 17)  # all is read before an evaluation
        assert order["read", step] > order["dispatch", ahead], step
