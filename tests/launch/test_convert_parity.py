"""facenet-pytorch's own network with random weights, converted: every block says the same."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.inception_resnet import InceptionResNetConfig, InceptionResNetTrunk
from launch.convert import facenet_trunk, read_state_dict

torch = pytest.importorskip("torch", reason="torch isn't installed (make torch)")
package = importlib.util.find_spec("facenet_pytorch")
if package is None:
    pytest.skip("facenet-pytorch isn't installed (make torch)", allow_module_level=True)

pytestmark = pytest.mark.parity

BLOCKS = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b", "mixed_6a", "mixed_7a")
BLOCKS += tuple(f"repeat_{part}_{i}" for part, count in ((1, 5), (2, 10)) for i in range(count))


@pytest.fixture(scope="module")
def theirs():
    """The network in evaluation mode, its statistics and weights random; its package's other parts want torchvision."""
    sys.modules["facenet_pytorch"] = namespace = types.ModuleType("facenet_pytorch")
    namespace.__path__ = [str(Path(package.origin).parent)]
    module = importlib.import_module("facenet_pytorch.models.inception_resnet_v1")
    torch.manual_seed(0)
    network = module.InceptionResnetV1(pretrained=None, num_classes=10).eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.2)
    return network


def test_every_block_says_the_same(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    variables, left_out = facenet_trunk(read_state_dict(tmp_path / "weights.pt"))
    assert left_out == ["block8", "last_bn", "last_linear", "repeat_3"]

    faces = np.random.default_rng(0).normal(size=(2, 140, 140, 3)).astype(np.float32)
    said = {}
    for name, module in theirs.named_modules():
        key = name.replace(".", "_") if name.startswith("repeat") else name
        if key in BLOCKS:
            module.register_forward_hook(lambda _, __, output, key=key: said.update({key: output.detach()}))
    with torch.no_grad():
        theirs(torch.from_numpy(faces).permute(0, 3, 1, 2))
    trunk = InceptionResNetTrunk(InceptionResNetConfig())
    _, state = jax.jit(
        lambda v, x: trunk.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    )(variables, jnp.asarray(faces))
    for block in BLOCKS:
        (ours,) = state["intermediates"][block]["__call__"]
        expected = said[block].permute(0, 2, 3, 1).numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-4, err_msg=block)
