import jax
import jax.numpy as jnp
import pytest

from avemo.models.mobilenet import MobileNetConfig


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


@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"stem_stride": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MobileNetConfig(**wrong)
