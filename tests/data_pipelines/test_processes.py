"""Worker processes: one that dies is an error, not a wait without end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.processes import ordered_map
from data_pipelines.synthetic.corpus import shared_out


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(DataError, match="a worker process died"):
        list(shared_out(os._exit, [1, 1], 2, 2, "dying"))
    with pytest.raises(DataError, match="a worker process died"), ordered_map(2) as map_:
        list(map_(os._exit, [1, 1]))


def test_an_ordered_map_keeps_the_order_and_serves_several_times() -> None:
    with ordered_map(2) as map_:
        assert list(map_(abs, range(-40, 0))) == list(range(40, 0, -1))
        assert list(map_(abs, [-1])) == [1]
        assert list(map_(abs, [])) == []


def test_processes_end_with_a_parent_that_was_killed() -> None:
    program = (
        "import time; from data_pipelines.processes import worker_pool\n"
        "with worker_pool(1) as pool:\n"
        "    print(pool.submit(os.getpid).result(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", f"import os; {program}"], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker goes on")


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert list(shared_out(abs, range(-9, 0), 9, 2, "counting")) == list(range(9, 0, -1))
