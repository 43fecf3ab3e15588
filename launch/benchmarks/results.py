"""What all benchmarks share: the machine they ran on, tables of repeated figures, and the file of results."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from launch.runs import write_json

BUSY = 0.1
"""Share of the processors that others may use before a warning is given."""


def installed(package: str) -> bool:
    """Whether a peer can be measured."""
    return find_spec(package) is not None


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures were measured on, with the versions of those packages that are installed."""
    versions: dict[str, str] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def used_by_others(console: Console) -> float:
    """Share of the processors in use while this process waits a second; a warning where it is too much."""
    share = psutil.cpu_percent(interval=1.0) / 100
    if share > BUSY:
        console.print(
            f"others use {share:.0%} of the processors. PyTorch's threads on a CPU suffer far more from it than JAX's: "
            "measure again when the machine is quiet"
        )
    return share


def table(title: str, values: Mapping[str, Sequence[float]], form: str) -> Table:
    """One row for each: the median over the rounds, the 5th and the 95th percentile."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for column in ("median", "5 %", "95 %"):
        shown.add_column(column, justify="right")
    for name, found in values.items():
        shown.add_row(name, *(form.format(figure) for figure in np.percentile(found, (50, 5, 95))))
    return shown


def round_by_round(values: Sequence[float], against: Sequence[float]) -> list[float]:
    """How many times as large the figures are as others, round by round."""
    return [value / other for value, other in zip(values, against, strict=True)]


def as_json(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON holds it, paths as text."""
    return json.loads(json.dumps(asdict(settings), default=str))


def write_results(out: Path, results: Mapping[str, Any], console: Console) -> None:
    """Write the file of results, and say where it is; its folder is made if need be."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, results)
    console.print(f"results: {out}")
