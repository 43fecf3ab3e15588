"""Several hosts: processes, on one machine or on many, that train together as one by `jax.distributed`.

Each process runs the same command, drives its own devices and reads its own share of every batch. Only the first one
writes the run's files and shows progress; checkpoints are written by all together, into a folder that all of them see.
"""

import os
from dataclasses import dataclass
from typing import Literal

import jax

from launch.errors import LaunchError

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


def join(hosts: Hosts) -> None:
    """Meet the other processes; to be called before anything touches a device. One process alone does nothing.

    With addresses from --coordinator or from the variables, a process drives all devices of its machine; where SLURM
    or Open MPI is detected, JAX gives each process on a machine one GPU.

    Raises:
        LaunchError: nothing was detected, or the others can't be reached.
    """
    try:
        if hosts.coordinator is not None:
            _initialize(hosts.coordinator, hosts.host_count, hosts.host_index)
        elif hosts.hosts == "detect" and all(name in os.environ for name in ADDRESS_VARIABLES):
            address, count, index = (os.environ[name] for name in ADDRESS_VARIABLES)
            _initialize(address, int(count), int(index))
        elif hosts.hosts == "detect":
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LaunchError(
            f"can't join the other hosts: {reason} (addresses come from --coordinator, --host-index and --host-count; "
            f"or, with --hosts detect, from {', '.join(ADDRESS_VARIABLES)}, SLURM, a TPU, Open MPI or Kubernetes)"
        ) from error


def _initialize(address: str, count: int, index: int) -> None:
    # Under SLURM, detection would reduce this process to one GPU even though all addresses are given.
    jax.distributed.initialize(address, count, index, cluster_detection_method="deactivate")


def is_first_host() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0
