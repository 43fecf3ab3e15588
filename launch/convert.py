"""`avemo convert`: published weights of a torch network, for a face network's trunk to begin with."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import jax
import numpy as np
import tyro
from flax.traverse_util import flatten_dict, unflatten_dict

from avemo.models.densenet import DenseNetConfig
from avemo.models.face import FaceConfig, FaceNetwork, Trunk, trunk_shapes
from avemo.models.inception_resnet import InceptionResNetConfig
from avemo.models.layers import BATCH_NORM_EPSILON
from avemo.models.mobilenet import STEM_CHANNELS, MobileNetConfig
from launch.errors import LaunchError

Network = Literal["facenet", "densenet121", "mobilenet_v3_small", "mobilenet_v3_large"]


@dataclass(frozen=True)
class Convert:
    """Convert published weights of another library, for `avemo train teacher --trunk` or `avemo train student --trunk`.

    Attributes:
        network: facenet-pytorch's Inception-ResNet-v1, or one of torchvision.
        weights: file of its state dict; reading it needs PyTorch.
        out: the converted trunk, an .npz file.
    """

    network: tyro.conf.Positional[Network]
    weights: tyro.conf.Positional[Path]
    out: Path

    def __call__(self) -> None:
        """Convert, and say what was left out."""
        variables, left_out = convert_trunk(read_state_dict(self.weights), self.network)
        partial = self.out.with_name(f".{self.out.name}.partial")
        with partial.open("wb") as file:  # a name alone would be given another ending
            np.savez(file, **flatten_dict(variables, sep="/"))
        partial.replace(self.out)
        print(f"{self.out}: {count(variables):,} numbers; not part of the trunk: {', '.join(left_out) or 'nothing'}")


class Published(NamedTuple):
    """A network of another library.

    Attributes:
        name: What to call it.
        trunk: Ours of the same shape.
        ours: From the name of one of its modules to the path of ours, whatever for modules that ours does not have.
        epsilon: What its batch normalisation adds to the variance.
    """

    name: str
    trunk: Trunk
    ours: Callable[[str], str]
    epsilon: float


def facenet_module(module: str) -> str:
    """facenet-pytorch's names are ours but for the numbers of repeated blocks and of a branch's layers."""
    return re.sub(r"(repeat_\d|branch\d)\.(\d+)", r"\1_\2", module).replace(".", "/")


def densenet_module(module: str) -> str:
    """Torchvision counts from one; published files have "norm.1" where the network has "norm1"."""
    module = module.removeprefix("features.")
    if layer := re.fullmatch(r"denseblock(\d+)\.denselayer(\d+)\.(norm|conv)\.?(\d)", module):
        block, place, kind, number = layer.groups()
        return f"dense_{int(block) - 1}_{int(place) - 1}/{'bn' if kind == 'norm' else kind}_{number}"
    if transition := re.fullmatch(r"transition(\d+)\.(norm|conv)", module):
        return f"transition_{transition[1]}_{'bn' if transition[2] == 'norm' else 'conv'}"
    return {"conv0": "stem/conv", "norm0": "stem/bn", "norm5": "bn"}.get(module, "")


def mobilenet_modules(config: MobileNetConfig) -> dict[str, str]:
    """Torchvision numbers what we name; a block that doesn't expand its channels begins with the depthwise layer."""
    layers = {"features.0": "stem", f"features.{len(config.bottlenecks) + 1}": "last"}
    channels = STEM_CHANNELS
    for place, row in enumerate(config.bottlenecks):
        names = ["expand"] * (row.expanded != channels) + ["depthwise"] + ["excite"] * row.excited + ["project"]
        layers |= {f"features.{place + 1}.block.{i}": f"block_{place}/{name}" for i, name in enumerate(names)}
        channels = row.channels
    parts = {"0": "conv", "1": "bn", "fc1": "fc1", "fc2": "fc2"}
    return {f"{theirs}.{part}": f"{ours}/{name}" for theirs, ours in layers.items() for part, name in parts.items()}


def _mobilenet(size: Literal["small", "large"]) -> Published:
    config = MobileNetConfig(size)
    modules = mobilenet_modules(config)
    return Published(f"torchvision's mobilenet_v3_{size}", config, lambda name: modules.get(name, ""), 1e-3)


PUBLISHED: dict[Network, Published] = {
    "facenet": Published("facenet-pytorch's InceptionResnetV1", InceptionResNetConfig(), facenet_module, 1e-3),
    "densenet121": Published("torchvision's densenet121", DenseNetConfig(), densenet_module, 1e-5),
    "mobilenet_v3_small": _mobilenet("small"),
    "mobilenet_v3_large": _mobilenet("large"),
}
"""What can be converted."""


def convert_trunk(state: Mapping[str, np.ndarray], network: Network) -> tuple[dict[str, Any], list[str]]:
    """The variables of our trunk from those of a torch network.

    Where its batch normalisation adds another epsilon, scales are changed so that in evaluation it computes the same.

    Args:
        state: arrays by torch's names.
        network: whose they are.

    Returns:
        "params" and "batch_stats" of the trunk, float32, and the modules that it does not have.

    Raises:
        LaunchError: arrays of the trunk are absent, or have other shapes.
    """
    published = PUBLISHED[network]
    wanted = flatten_dict(trunk_shapes(FaceNetwork(FaceConfig(trunk=published.trunk))), sep="/")
    found, left_out = {}, set()
    for torch_name, array in state.items():
        module, _, kind = torch_name.rpartition(".")
        name = flax_name(published.ours(module), kind, array.ndim)
        if name in wanted:
            found[name] = in_flax_order(array, len(wanted[name].shape))
        elif kind != "num_batches_tracked":
            left_out.add(re.sub(r"^features\.", "", module).partition(".")[0])
    for name, shape in wanted.items():
        if name not in found:
            raise LaunchError(f"the weights have no {name}: they are not those of {published.name}")
        if found[name].shape != shape.shape:
            raise LaunchError(f"{name} has shape {found[name].shape}, not {shape.shape}")
    for name in wanted:
        if name.endswith("/scale"):
            var = found[name.replace("params/", "batch_stats/").replace("/scale", "/var")]
            found[name] = found[name] * np.sqrt((var + BATCH_NORM_EPSILON) / (var + published.epsilon))
    return unflatten_dict({name: array.astype(np.float32) for name, array in found.items()}, sep="/"), sorted(left_out)


def flax_name(module: str, kind: str, axes: int) -> str:
    """Where Flax has an array of a module: torch calls both a kernel and a normalisation's scale its weight."""
    if kind.startswith("running_"):
        return f"batch_stats/{module}/{kind.removeprefix('running_')}"
    return f"params/{module}/{('kernel' if axes > 1 else 'scale') if kind == 'weight' else kind}"


def in_flax_order(array: np.ndarray, axes: int) -> np.ndarray:
    """A kernel outputs×inputs×h×w as h×w×inputs×outputs, one of 1×1 as inputs×outputs where ours is dense."""
    if array.ndim != 4:
        return array
    kernel = array.transpose(2, 3, 1, 0)
    return kernel[0, 0] if axes == 2 else kernel


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


def read_trunk(path: Path) -> dict[str, Any]:
    """The variables of a converted trunk. Raises LaunchError where the file is none."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # numpy leaves a damaged one open
            return unflatten_dict({name: arrays[name] for name in arrays}, sep="/")
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise LaunchError(f"{path} is no converted trunk ({error}): make one with avemo convert") from error
