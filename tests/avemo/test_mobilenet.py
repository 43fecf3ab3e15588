import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.layers import convolve_depthwise
from avemo.models.mobilenet import MobileNetConfig, SqueezeExcite, divisible


def shapes(config, size):
    images = jnp.zeros((2, size, size, 3))
    trunk = config.trunk("float32", "trunk")
    return jax.eval_shape(lambda key: trunk.init_with_output(key, images, train=False), jax.random.key(0))


@pytest.mark.parametrize(
    ("config", "parameters", "channels"),
    [
        (MobileNetConfig(), 927_008, 576),
        (MobileNetConfig("large"), 2_971_952, 960),
        (MobileNetConfig("large", width=1.4), 5_786_088, 1344),
    ],
)
def test_parameters_are_those_of_the_published_networks(config, parameters, channels):
    maps, variables = shapes(config, 64)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert maps.shape[-1] == channels


@pytest.mark.parametrize("size", [224, 64, 47, 1])
@pytest.mark.parametrize("config", [MobileNetConfig(), MobileNetConfig("large", 0.25, stem_stride=1)])
def test_map_size_foretells_the_map(config, size):
    assert shapes(config, size)[0].shape[1:3] == (config.map_size(size),) * 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", [8, 7])
def test_taps_added_up_are_a_convolution(size, taps, stride):
    """The way that CPUs take, and its gradients, against XLA's own depthwise convolution."""
    maps = jax.random.normal(jax.random.key(0), (2, size, size + 2, 6))
    kernel = jax.random.normal(jax.random.key(1), (taps, taps, 1, 6))
    settings = {
        "padding": [(taps // 2,) * 2] * 2,
        "feature_group_count": 6,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    ours = lambda maps, kernel: convolve_depthwise(maps, kernel, (stride, stride), **settings)
    xlas = lambda maps, kernel: jax.lax.conv_general_dilated(maps, kernel, (stride, stride), **settings)
    np.testing.assert_allclose(ours(maps, kernel), xlas(maps, kernel), atol=1e-5)
    loss = lambda conv: lambda *inputs: jnp.sin(conv(*inputs)).sum()
    gradients = (jax.jit(jax.grad(loss(conv), argnums=(0, 1)))(maps, kernel) for conv in (ours, xlas))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)


def test_channels_are_excited_by_the_mean_of_the_map():
    maps = jnp.arange(8.0).reshape(1, 2, 2, 2)
    layer = SqueezeExcite(1)
    params = {
        "fc1": {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.zeros(1)},
        "fc2": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)},
    }
    # The first channel's mean is 3: hard sigmoids of 3 and of -3 are 1 and 0.
    np.testing.assert_allclose(layer.apply({"params": params}, maps), maps * jnp.array([1.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(3.0, 8), (16.0, 16), (19.0, 24), (20.0, 24), (54.0, 56), (11.0, 16)]
)
def test_channels_are_rounded_as_published(channels, rounded):
    assert divisible(channels) == rounded


@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"stem_stride": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MobileNetConfig(**wrong)
