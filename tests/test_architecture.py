"""Data flows one way: launch may import both other rooms; the data pipelines know of the science only its labels."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("avemo", "data_pipelines", "launch")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(room):
    return {(str(path.relative_to(ROOT)), name) for path in (ROOT / room).rglob("*.py") for name in imports(path)}


def test_science_knows_no_files_and_no_launch():
    forbidden = (
        "data_pipelines",
        "launch",
        "pathlib",
        "os",
        "grain",
        "tensorflow_datasets",
        "orbax",
        "librosa",
    )
    assert not [(p, name) for p, name in imported_by("avemo") if name.split(".")[0] in forbidden]


def test_pipelines_know_only_the_labels_and_no_jax():
    names = [
        (p, name)
        for p, name in imported_by("data_pipelines")
        if name.split(".")[0] in ("avemo", "launch", "jax", "flax")
    ]
    assert not [(p, name) for p, name in names if not name.startswith("avemo.labels")]


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_brings_in_torch_tensorflow_or_pickle(room):
    forbidden = {"torch", "tensorflow", "pickle", "dill", "cloudpickle", "joblib"}
    # What others are measured with needs them, and is itself imported without them; so does reading torch's own files.
    peers = {
        f"launch/benchmarks/{name}.py" for name in ("pipeline_peers", "torch_twins", "torch_training", "torch_peer")
    } | {"launch/convert.py"}
    assert not [(p, name) for p, name in imported_by(room) if name.split(".")[0] in forbidden and p not in peers]


def test_the_command_line_starts_without_torch_and_tensorflow():
    code = "import sys, launch.commands; sys.exit(any(name in sys.modules for name in ('torch', 'tensorflow')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_worker_processes_start_without_jax():
    modules = "launch.cli, data_pipelines.builders.affectnet, data_pipelines.recordings"
    code = f"import sys, {modules}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
