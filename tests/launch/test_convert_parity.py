"""Networks of other libraries with random weights, converted: every block says the same."""

import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.convert import PUBLISHED, convert_trunk, read_state_dict

torch = pytest.importorskip("torch", reason="torch isn't installed (make torch)")

pytestmark = pytest.mark.parity

DENSE_LAYER = re.compile(r"features\.denseblock(\d+)\.denselayer(\d+)")


def module_of(package, name):
    """A module of a package without the package's other parts, some of which want another torch."""
    if package not in sys.modules:
        found = importlib.util.find_spec(package)
        if found is None:
            pytest.skip(f"{package} isn't installed (make torch)")
        folder = Path(found.origin).parent
        for space, place in {package: folder, f"{package}.models": folder / "models"}.items():
            sys.modules[space] = types.ModuleType(space)
            sys.modules[space].__path__ = [str(place)]
    return importlib.import_module(f"{package}.models.{name}")


def theirs(network):
    """The torch network in evaluation mode; all its batch normalisation is random."""
    torch.manual_seed(0)
    if network == "facenet":
        build = module_of("facenet_pytorch", "inception_resnet_v1").InceptionResnetV1
        found = build(pretrained=None, num_classes=10).eval()
    else:
        build = getattr(module_of("torchvision", "densenet" if "densenet" in network else "mobilenetv3"), network)
        found = build(num_classes=10).eval()
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.001, 1.5)  # with the smallest, an epsilon more or less is seen
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return found


def our_block(network, name, last):
    """What we call one of their blocks; None where it is none of them."""
    if network == "facenet":
        found = re.fullmatch(r"(conv2d_\w\w|mixed_[67]a|repeat_[12]\.\d+)", name)
        return found and name.replace(".", "_")
    if network == "densenet121":
        layer = DENSE_LAYER.fullmatch(name)
        return f"dense_{int(layer[1]) - 1}_{int(layer[2]) - 1}" if layer else {"features.norm5": "bn"}.get(name)
    place = re.fullmatch(r"features\.(\d+)", name)
    return place and {0: "stem", last: "last"}.get(int(place[1]), f"block_{int(place[1]) - 1}")


@pytest.mark.parametrize(
    ("network", "size", "blocks", "left_out"),
    [
        ("facenet", 140, 23, ["block8", "last_bn", "last_linear", "repeat_3"]),
        ("densenet121", 64, 59, ["classifier"]),
        ("mobilenet_v3_small", 64, 13, ["classifier"]),
        ("mobilenet_v3_large", 64, 17, ["classifier"]),
    ],
)
def test_every_block_says_the_same(network, size, blocks, left_out, tmp_path):
    published = theirs(network)
    torch.save(published.state_dict(), tmp_path / "weights.pt")
    variables, not_of_the_trunk = convert_trunk(read_state_dict(tmp_path / "weights.pt"), network)
    assert not_of_the_trunk == left_out

    said = {}
    for name, module in published.named_modules():
        if block := our_block(network, name, blocks - 1):
            module.register_forward_hook(lambda _, __, out, block=block: said.update({block: out.detach().clone()}))
    faces = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        published(torch.from_numpy(faces).permute(0, 3, 1, 2))
    assert len(said) == blocks

    trunk = PUBLISHED[network].trunk.trunk("float32", name="trunk")
    _, state = jax.jit(
        lambda v, x: trunk.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    )(variables, jnp.asarray(faces))
    for block, theirs_said in said.items():
        expected = theirs_said.permute(0, 2, 3, 1).numpy()
        (ours,) = state["intermediates"][block]["__call__"]
        ours = ours[..., -expected.shape[-1] :]  # a dense layer's: with what it was given before that
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-4, err_msg=block)
