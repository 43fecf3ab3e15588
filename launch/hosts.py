"""Several hosts: processes, on one machine or on many, that train together as one by `jax.distributed`.

Each process runs the same command, drives its own devices and reads its own share of every batch. Only the first one
writes the run's files and shows progress; checkpoints are written by all together, into a folder that all of them see.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from launch.errors import LaunchError
from launch.interruption import Interrupted

ADDRESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where `--hosts detect` looks first: host:port of the first process, how many there are, which one this is."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of one training find each other.

    Attributes:
        hosts: "one" is this process alone, with all devices of its machine. "detect" asks the environment: the
            variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else SLURM, a TPU's metadata,
            Open MPI or Kubernetes.
        coordinator: host:port of the first process, where nothing is to be detected.
        host_index: which process this is, from 0, with --coordinator.
        host_count: how many there are, with --coordinator.
    """

    hosts: Literal["one", "detect"] = "one"
    coordinator: str | None = None
    host_index: int = 0
    host_count: int = 1

    def __post_init__(self) -> None:
        if self.coordinator is None:
            if (self.host_index, self.host_count) != (0, 1):
                raise ValueError("--host-index and --host-count need --coordinator, the first process' host:port")
        elif self.hosts == "detect":
            raise ValueError("either --hosts detect or --coordinator, not both")
        elif not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator must be host:port, not {self.coordinator}")
        if not 0 <= self.host_index < self.host_count:
            raise ValueError(f"--host-index must lie in 0 … {self.host_count - 1}, not {self.host_index}")


@contextmanager
def joined(hosts: Hosts) -> Iterator[None]:
    """`join`, and if this process fails inside `with`, let it end alone.

    Otherwise JAX would hold it up at its end for five minutes, waiting for the others, and they for it.
    """
    join(hosts)
    try:
        yield
    except Interrupted:  # the others were, too
        raise
    except BaseException:
        if jax.process_count() > 1:
            atexit.register(_end_alone)  # comes before JAX's
        raise


def _end_alone() -> None:
    time.sleep(1.0)  # others that fail for the same reason can say so, too, before they miss this one
    sys.stdout.flush()
    os._exit(1)


def join(hosts: Hosts) -> None:
    """Meet the other processes; to be called before anything touches a device. One process alone does nothing.

    With addresses from --coordinator or from the variables, a process drives all devices of its machine; where SLURM
    or Open MPI is detected, JAX gives each process on a machine one GPU.

    Raises:
        LaunchError: nothing was detected, or the others can't be reached.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM until the training begins
    try:
        if hosts.coordinator is not None:
            _initialize(hosts.coordinator, hosts.host_count, hosts.host_index)
        elif hosts.hosts == "detect" and all(name in os.environ for name in ADDRESS_VARIABLES):
            address, count, index = (os.environ[name] for name in ADDRESS_VARIABLES)
            _initialize(address, int(count), int(index))
        elif hosts.hosts == "detect":
            jax.distributed.initialize()
        if hosts != Hosts():
            multihost_utils.sync_global_devices("joined")  # they can wait for each other from now on
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LaunchError(
            f"can't join the other hosts: {reason} (addresses come from --coordinator, --host-index and --host-count; "
            f"or, with --hosts detect, from {', '.join(ADDRESS_VARIABLES)}, SLURM, a TPU, Open MPI or Kubernetes)"
        ) from error


def _initialize(address: str, count: int, index: int) -> None:
    # Under SLURM, detection would reduce this process to one GPU even though all addresses are given.
    jax.distributed.initialize(address, count, index, cluster_detection_method="deactivate")


def compile_together(function: jax.stages.Wrapped, *arguments: Any) -> None:
    """Compile a jitted function for arguments, and wait until all hosts have, however long they take.

    Hosts connect when they run a program together for the first time. On CPUs, the first one there would wait 30 s for
    the others, and then fail: less than a slower host, or one that lacks the cache of the first, may take to compile.
    """
    if jax.process_count() > 1:
        function.lower(*arguments).compile()  # a call with these arguments finds it
        multihost_utils.sync_global_devices("compiled")


def host_share() -> dict[str, int]:
    """Which part of every batch this host takes, as the loaders are told."""
    return {"shard_index": jax.process_index(), "shard_count": jax.process_count()}


def is_first_host() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def from_first_host(look: Callable[[], bool]) -> bool:
    """What the first host finds. The others ask it, since they may see a shared folder later or in another state."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(is_first_host() and look())))
