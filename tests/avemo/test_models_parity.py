"""The networks against torch: same weights in, same numbers out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.face import DenseLayer
from avemo.models.inception_resnet import Block17, Block35, InceptionResNetConfig
from avemo.models.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, ConvNorm
from avemo.models.recurrent import Recurrent, RecurrentConfig, initial_carry

torch = pytest.importorskip("torch", reason="torch isn't installed (make torch)")
pytestmark = pytest.mark.parity


def perturbed(variables):
    """Running variances and scales away from one, means and biases away from zero."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), variables)


def tensor(array):
    return torch.from_numpy(np.array(array))


def nchw(array):
    return tensor(array).permute(0, 3, 1, 2)


class TorchConvNorm(torch.nn.Sequential):
    """Convolution, batch normalisation, ReLU with the weights of our `ConvNorm`."""

    def __init__(self, variables, name=None, stride=1, padding=0):
        params, stats = (
            variables[kind] if name is None else variables[kind][name] for kind in ("params", "batch_stats")
        )
        kernel = tensor(params["conv"]["kernel"]).permute(3, 2, 0, 1)
        conv = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], stride, padding, bias=False)
        conv.weight.data = kernel
        super().__init__(conv, torch_batch_norm(params["bn"], stats["bn"]), torch.nn.ReLU())


def torch_batch_norm(params, stats):
    norm = torch.nn.BatchNorm2d(len(stats["mean"]), BATCH_NORM_EPSILON, momentum=1 - BATCH_NORM_MOMENTUM)
    norm.weight.data, norm.bias.data = tensor(params["scale"]), tensor(params["bias"])
    norm.running_mean, norm.running_var = tensor(stats["mean"]), tensor(stats["var"])
    return norm


def assert_same_maps(ours, theirs, atol=1e-5):
    np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1).numpy(), atol=atol)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "VALID"), (1, "SAME")])
def test_conv_norm(train, stride, padding):
    layer = ConvNorm(6, (3, 3), stride, padding)
    maps = jax.random.normal(jax.random.key(0), (4, 9, 9, 5))
    variables = perturbed(jax.jit(lambda key: layer.init(key, maps, train=False))(jax.random.key(1)))
    reference = TorchConvNorm(variables, stride=stride, padding=int(padding == "SAME")).train(train)
    ours, updated = jax.jit(lambda v, x: layer.apply(v, x, train=train, mutable=["batch_stats"]))(variables, maps)
    assert_same_maps(ours, reference(nchw(maps)))
    running = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], reference[1].running_mean, atol=1e-6)
    # torch keeps the unbiased variance: n / (n - 1) of ours.
    count = ours.size // ours.shape[-1]
    np.testing.assert_allclose(running["var"], reference[1].running_var, rtol=0.2 / count)


@pytest.mark.parametrize(
    ("block", "channels", "paddings", "scale"),
    [
        (
            Block35,
            256,
            {"branch0": 0, "branch1_0": 0, "branch1_1": 1, "branch2_0": 0, "branch2_1": 1, "branch2_2": 1},
            0.17,
        ),
        (Block17, 896, {"branch0": 0, "branch1_0": 0, "branch1_1": (0, 3), "branch1_2": (3, 0)}, 0.10),
    ],
)
def test_residual_block(block, channels, paddings, scale):
    module = block(InceptionResNetConfig())
    maps = jax.random.normal(jax.random.key(0), (2, 7, 7, channels))
    variables = perturbed(jax.jit(lambda key: module.init(key, maps, train=False))(jax.random.key(1)))

    branches: dict[str, list] = {}
    for name, padding in paddings.items():
        branches.setdefault(name.split("_")[0], []).append(TorchConvNorm(variables, name, padding=padding).eval())
    joined = torch.cat([torch.nn.Sequential(*branch)(nchw(maps)) for branch in branches.values()], dim=1)
    project = variables["params"]["conv2d"]
    residual = torch.nn.functional.conv2d(
        joined, tensor(project["kernel"]).permute(3, 2, 0, 1), tensor(project["bias"])
    )
    ours = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, maps)
    assert_same_maps(ours, torch.relu(nchw(maps) + scale * residual), atol=1e-4)


def test_dense_layer():
    layer = DenseLayer(4)
    maps = jax.random.normal(jax.random.key(0), (2, 3, 3, 10))
    variables = perturbed(jax.jit(lambda key: layer.init(key, maps, train=False))(jax.random.key(1)))
    params, stats = variables["params"], variables["batch_stats"]
    new = nchw(maps)
    for i, padding in ((1, 0), (2, 1)):
        new = torch.relu(torch_batch_norm(params[f"bn_{i}"], stats[f"bn_{i}"]).eval()(new))
        kernel = tensor(params[f"conv_{i}"]["kernel"]).permute(3, 2, 0, 1)
        new = torch.nn.functional.conv2d(new, kernel, padding=padding)
    ours = jax.jit(lambda v, x: layer.apply(v, x, train=False))(variables, maps)
    assert_same_maps(ours, torch.cat([nchw(maps), new], dim=1))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent(kind):
    config = RecurrentConfig(kind, features=6, layers=2)
    inputs = jax.random.normal(jax.random.key(0), (3, 11, 5))
    carry = jax.tree.map(lambda leaf: leaf + 0.3, initial_carry(config, 3))
    variables = perturbed(jax.jit(Recurrent(config).init)(jax.random.key(1), inputs, carry))
    ours, ours_carry = jax.jit(Recurrent(config).apply)(variables, inputs, carry)

    reference = (torch.nn.LSTM if kind == "lstm" else torch.nn.GRU)(5, 6, num_layers=2, batch_first=True)
    for i in range(2):
        params = variables["params"][f"input_{i}"]
        recurrent_bias = torch.zeros(len(params["bias"]))
        if kind == "gru":
            recurrent_bias[12:] = tensor(variables["params"][f"new_bias_{i}"])
        weights = {
            "weight_ih": tensor(params["kernel"]).T,
            "weight_hh": tensor(variables["params"][f"recurrent_{i}"]).T,
            "bias_ih": tensor(params["bias"]),
            "bias_hh": recurrent_bias,
        }
        for name, value in weights.items():
            getattr(reference, f"{name}_l{i}").data = value.contiguous()
    states = [torch.full((2, 3, 6), 0.3) for _ in carry[0]]
    theirs, theirs_carry = reference(tensor(inputs), tuple(states) if kind == "lstm" else states[0])

    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
    theirs_carry = theirs_carry if kind == "lstm" else (theirs_carry,)
    for i, layer in enumerate(ours_carry):
        for state, reference_state in zip(layer, theirs_carry, strict=True):
            np.testing.assert_allclose(state, reference_state[i].detach().numpy(), atol=1e-6)
