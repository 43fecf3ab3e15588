"""Devices: one mesh axis, "data", over which batches are split while everything else is replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from launch.errors import LaunchError


def data_mesh() -> Mesh:
    """All devices of all hosts in a row."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Send this host's share of a batch of numpy arrays to its devices, as part of one global array each."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def check_batch_size(mesh: Mesh, **sizes: int) -> None:
    """Raise LaunchError where a batch can't be split evenly over the devices."""
    for name, size in sizes.items():
        if size % mesh.size:
            raise LaunchError(
                f"{name} {size} can't be split over {mesh.size} devices: choose a multiple of {mesh.size}"
            )
