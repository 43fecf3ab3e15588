import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.densenet import DenseLayer, DenseNetConfig

SMALL = DenseNetConfig(growth=4, blocks=(2, 3), stem_channels=8, large_stem=False)


def shapes(config, size):
    images = jnp.zeros((2, size, size, 3))
    trunk = config.trunk("float32", "trunk")
    return jax.eval_shape(lambda key: trunk.init_with_output(key, images, train=False), jax.random.key(0))


def test_the_defaults_are_densenet_121_without_its_classifier():
    maps, variables = shapes(DenseNetConfig(), 224)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 7_978_856 - 1_025_000
    assert maps.shape == (2, 7, 7, 1024)


@pytest.mark.parametrize("size", [224, 47, 33])
@pytest.mark.parametrize("config", [DenseNetConfig(), SMALL])
def test_map_size_foretells_the_map(config, size):
    assert shapes(config, size)[0].shape[1:3] == (config.map_size(size),) * 2


def test_a_layer_appends_to_what_it_was_given():
    maps = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    found, _ = DenseLayer(4).init_with_output(jax.random.key(1), maps, train=False)
    assert found.shape == (2, 4, 4, 10)
    np.testing.assert_array_equal(found[..., :6], maps)


@pytest.mark.parametrize("wrong", [{"growth": 0}, {"blocks": (2, 0)}, {"blocks": ()}, {"stem_channels": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        DenseNetConfig(**wrong)
