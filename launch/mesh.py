"""Devices in a grid with the axes "data" and "fsdp".

Batches are split over all devices. Parameters and optimiser state are the same along "data", and split along "fsdp"
where memory asks for it (fully sharded data parallelism; ZeRO, Rajbhandari et al. 2020).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import GetAttrKey
from tyro.constructors import PrimitiveConstructorSpec

from avemo.training import TrainState
from launch.errors import LaunchError

TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]

AXES = ("data", "fsdp")

CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""XLA would hand convolutions to the library YNNPACK, which takes up to 1.6 times as long for those of our networks."""

SMALLEST_SPLIT = 1 << 14
"""Arrays of fewer elements are never split: gathering them costs more than the memory they take (our choice)."""


@dataclass(frozen=True)
class MeshShape:
    """Devices along each axis.

    Attributes:
        data: devices with the same parameters; None takes all there are.
        fsdp: devices that share the parameters and the optimiser's state among them.
    """

    data: int | None = None
    fsdp: int = 1

    def __post_init__(self) -> None:
        if self.fsdp < 1 or (self.data is not None and self.data < 1):
            raise ValueError(f"mesh: the sizes of data and fsdp must be positive: {self}")

    @classmethod
    def parse(cls, words: Sequence[str]) -> "MeshShape":
        """The shape that "data=4 fsdp=2" means. Raises ValueError where it means none."""
        pairs = [word.partition("=") for word in words]
        sizes = {axis: int(size) for axis, _, size in pairs if axis in AXES and size.isdigit()}
        if len(sizes) < len(words):
            raise ValueError(f"a mesh is given as data=4 or data=4 fsdp=2, not {' '.join(words)}")
        return cls(**sizes)

    def words(self) -> list[str]:
        """What `parse` would read."""
        sizes = {"data": self.data, "fsdp": self.fsdp}
        return [f"{axis}={size}" for axis, size in sizes.items() if size is not None]


MeshSetting = Annotated[
    MeshShape,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="AXIS=SIZE",
        instance_from_str=MeshShape.parse,
        is_instance=lambda value: isinstance(value, MeshShape),
        str_from_instance=MeshShape.words,
    ),
]
"""A `MeshShape` as the command line reads it: `--mesh data=4 fsdp=2`."""


def device_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices, by default those of all hosts, in a grid.

    They stand in the order of the hosts, so that a host holds successive rows of a batch.

    Raises:
        LaunchError: the shape does not fit the number of devices.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    data = len(devices) // shape.fsdp if shape.data is None else shape.data
    if data * shape.fsdp != len(devices):
        here = f" ({jax.local_device_count()} on each of {jax.process_count()} hosts)" * (jax.process_count() > 1)
        raise LaunchError(
            f"--mesh {' '.join(shape.words())} doesn't fit the {len(devices)} devices there are{here}: "
            "the product of its axes must be their number"
        )
    return Mesh(np.array(devices).reshape(data, shape.fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def data_mesh() -> Mesh:
    """All devices along "data"."""
    return device_mesh(MeshShape())


def compiler_options(device: jax.Device) -> dict[str, Any] | None:
    """What XLA is to be told when it compiles for a device."""
    return CPU_OPTIONS if device.platform == "cpu" else None


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """Where each array of a training's state lies: a pytree of shardings.

    Along "fsdp" an array is split on its largest axis that can be split evenly, unless it is small; the optimiser's
    moments have the shapes of their parameters and so are split like them. What is carried from batch to batch is split
    as a batch is.

    Args:
        mesh: The devices.
        state: The state, or its shapes by `jax.eval_shape`.
    """
    parts = mesh.shape["fsdp"]

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if path[0] == GetAttrKey("carry"):
            return split_batch(mesh)
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or leaf.size < SMALLEST_SPLIT or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * largest, "fsdp"))

    return jax.tree_util.tree_map_with_path(sharding, state)


def with_whole_parameters(mesh: Mesh, train_step: TrainStep) -> TrainStep:
    """The training step, its parameters gathered once as it begins; what they become is split again.

    Left to itself, XLA would rather split the layers' work along "fsdp" too, in the recurrence even frame by frame. The
    networks here are small beside their activations, so whole parameters during a step cost little (our choice).
    """

    def step(state: TrainState, batch: Any, *frozen: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        params = jax.lax.with_sharding_constraint(state.params, replicated(mesh))
        return train_step(state.replace(params=params), batch, *frozen)  # type: ignore[attr-defined]

    return step


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Send this host's share of a batch of numpy arrays to its devices, as part of one global array each."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def own_rows(batch: Any) -> Any:
    """This host's share of a batch that every host holds whole: on host h of H the rows h·B/H … (h+1)·B/H − 1."""
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda leaf: leaf[index * len(leaf) // count : (index + 1) * len(leaf) // count], batch)


def check_batch_size(mesh: Mesh, pieces: int, **sizes: int) -> None:
    """Raise LaunchError where a batch, or one of its pieces, can't be split evenly over the devices."""
    parts = mesh.size * pieces
    for name, size in sizes.items():
        if size % parts:
            over = f"{mesh.size} devices" + f" in {pieces} pieces (--accumulate)" * (pieces > 1)
            raise LaunchError(f"{name} {size} can't be split over {over}: choose a multiple of {parts}")
