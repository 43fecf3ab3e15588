"""What writing every synthetic corpus has in common: a new folder, `truth.json`, work shared by processes."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.processes import worker_pool

TRUTH_FILE = "truth.json"
"""What tells a synthetic corpus from a real one, and what is known of it."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def new_folder(out: Path) -> None:
    """Makes the folder of a corpus.

    Raises:
        DataError: If something is there already: files left over would pass for part of the new corpus.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; name a new folder for the synthetic corpus or empty this one")
    out.mkdir(parents=True, exist_ok=True)


def write_truth(out: Path, truth: dict[str, Any]) -> None:
    """Writes what is known of a corpus into its `truth.json`, one top-level entry a line."""
    entries = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in truth.items())
    (out / TRUTH_FILE).write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def shared_out(
    work: Callable[[Job], Result], jobs: Iterable[Job], count: int, processes: int, description: str
) -> Iterator[Result]:
    """Runs jobs, in order and with a progress bar; the results don't depend on the number of processes.

    Args:
        work: A function at the top of a module, so that other processes can find it.
        jobs: Its arguments, one each.
        count: How many there are.
        processes: 1 works in this process, more start as many others.
        description: What the progress bar says.

    Yields:
        The results in the order of the jobs.

    Raises:
        DataError: A process died.
    """
    if processes == 1:
        yield from tqdm(map(work, jobs), desc=description, total=count)
        return
    with worker_pool(processes) as pool:
        chunk = max(1, min(32, count // (64 * processes)))  # small: the bar moves by whole chunks
        yield from tqdm(pool.map(work, jobs, chunksize=chunk), desc=description, total=count)
