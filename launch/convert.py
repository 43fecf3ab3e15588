"""`avemo convert facenet`: published weights of a torch network, for a face network's trunk to begin with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax.traverse_util import flatten_dict, unflatten_dict

from avemo.models.face import FaceConfig, FaceNetwork, trunk_shapes
from launch.errors import LaunchError

NAMES = {
    "conv.weight": "params/{}/conv/kernel",
    "conv2d.weight": "params/{}/conv2d/kernel",
    "conv2d.bias": "params/{}/conv2d/bias",
    "bn.weight": "params/{}/bn/scale",
    "bn.bias": "params/{}/bn/bias",
    "bn.running_mean": "batch_stats/{}/bn/mean",
    "bn.running_var": "batch_stats/{}/bn/var",
}
"""What torch calls a layer's arrays, and what Flax does."""


@dataclass(frozen=True)
class Convert:
    """Convert published weights of another library, for `avemo train teacher --trunk`.

    Attributes:
        network: "facenet" is the Inception-ResNet-v1 of facenet-pytorch.
        weights: file of its state dict; reading it needs PyTorch.
        out: the converted trunk, an .npz file.
    """

    network: tyro.conf.Positional[Literal["facenet"]]
    weights: tyro.conf.Positional[Path]
    out: Path

    def __call__(self) -> None:
        """Convert, and say what was left out."""
        variables, left_out = facenet_trunk(read_state_dict(self.weights))
        np.savez(self.out, **flatten_dict(variables, sep="/"))
        print(f"{self.out}: {count(variables):,} numbers; not part of the trunk: {', '.join(left_out) or 'nothing'}")


def count(variables: Any) -> int:
    """How many numbers there are in all."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that torch saved; nothing in it is executed. Raises LaunchError."""
    try:
        import torch
    except ImportError as error:
        raise LaunchError("converting needs PyTorch: pip install torch") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.numpy() for name, value in state.items()}
    except FileNotFoundError as error:
        raise LaunchError(f"{path}: no such file; the README says where to get it") from error
    except Exception as error:
        raise LaunchError(f"{path} holds no state dict that can be read safely: {error}") from error


def facenet_trunk(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """The variables of our trunk from facenet-pytorch's.

    Args:
        state: arrays by torch's names.

    Returns:
        "params" and "batch_stats" of `InceptionResNetTrunk`, float32, and the modules that it does not have.

    Raises:
        LaunchError: arrays of the trunk are absent, or have other shapes.
    """
    wanted = flatten_dict(trunk_shapes(FaceNetwork(FaceConfig())), sep="/")
    found, left_out = {}, set()
    for torch_name, array in state.items():
        name = flax_name(torch_name)
        if name in wanted:
            found[name] = np.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array, np.float32)
        elif not torch_name.endswith("num_batches_tracked"):
            left_out.add(torch_name.partition(".")[0])
    for name, shape in wanted.items():
        if name not in found:
            raise LaunchError(f"the weights have no {name}: they are not those of facenet-pytorch's InceptionResnetV1")
        if found[name].shape != shape.shape:
            raise LaunchError(f"{name} has shape {found[name].shape}, not {shape.shape}")
    return unflatten_dict(found, sep="/"), sorted(left_out)


def flax_name(torch_name: str) -> str:
    """Where our trunk has what facenet-pytorch calls so; "" if it has no such kind."""
    *module, layer, array = re.sub(r"(repeat_\d|branch\d)\.(\d+)", r"\1_\2", f".{torch_name}").split(".")
    return NAMES.get(f"{layer}.{array}", "").format("/".join(module[1:]))


def read_trunk(path: Path) -> dict[str, Any]:
    """The variables of a converted trunk. Raises LaunchError where the file is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return unflatten_dict({name: arrays[name] for name in arrays}, sep="/")
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} is no converted trunk ({error}): make one with avemo convert facenet") from error
