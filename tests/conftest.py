"""Settings for all tests: a shared compilation cache, CPU only, shapes checked at run time."""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Several hosts wait for the slowest of them to compile; XLA's half a minute is short where they share two cores.
TIMEOUTS = "--xla_cpu_collective_timeout_seconds=300 --xla_cpu_collective_call_terminate_timeout_seconds=300"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {TIMEOUTS}".strip()

import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import pytest  # noqa: E402


@dataclass(frozen=True)
class Tiny:
    """Tiny synthetic corpora, prepared."""

    corpora: Path
    data: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Corpora in the releases' forms and what `avemo prepare` makes of them; shared by the tests of one worker."""
    root = tmp_path_factory.mktemp("tiny")
    for corpus in ("affectnet", "fec", "recola"):
        source = root / "corpora" / corpus
        avemo("synthesize", corpus, "--out", source, "--preset", "tiny")
        avemo("prepare", corpus, "--source", source, "--out", root / "data", "--size", 46, "--processes", 1)
    return Tiny(root / "corpora", root / "data")


@pytest.fixture(scope="session")
def face(tiny, tmp_path_factory):
    """The finished run of a tiny teacher."""
    run = tmp_path_factory.mktemp("face") / "teacher"
    size = ["--network.trunk.width", "0.125", "--network.dense-layers", "1", "--network.reduced-channels", "16"]
    size += ["--network.growth", "8", "--batch-size", "8", "--triplet-batch-size", "4", "--steps", "2"]
    avemo("train", "teacher", "--data", tiny.data, "--out", run, "--preset", "demo", *size)
    return run


def avemo(*arguments):
    """Run the command line in this process; the user's errors come as SystemExit, as the shell would see them."""
    from launch import cli

    before, sys.argv = sys.argv, ["avemo", *map(str, arguments)]
    try:
        cli.main()
    finally:
        sys.argv = before
