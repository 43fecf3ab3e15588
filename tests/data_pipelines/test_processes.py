"""Worker processes: one that dies is an error, not a wait without end."""

import os

import pytest

from data_pipelines.builders import _ordered_map
from data_pipelines.errors import DataError
from data_pipelines.synthetic.corpus import shared_out


def test_a_process_that_dies_is_an_error() -> None:
    for results in (
        shared_out(os._exit, [1, 1], 2, 2, "dying"),
        _ordered_map(os._exit, [1, 1], 2, per_chunk=1),
    ):
        with pytest.raises(DataError, match="a worker process died"):
            list(results)


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert list(shared_out(abs, range(-9, 0), 9, 2, "counting")) == list(range(9, 0, -1))
