import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.resnet import ResidualBlock, ResNetConfig, ResNetTrunk


@pytest.mark.parametrize("size", [48, 47, 33, 1])
def test_map_size_foretells_the_map(size):
    config = ResNetConfig(widths=(4, 8, 16), blocks=(2, 1))
    images = jnp.zeros((2, size, size, 3))
    out = jax.eval_shape(lambda: ResNetTrunk(config).init_with_output(jax.random.key(0), images, train=False)[0])
    assert out.shape == (2, config.map_size(size), config.map_size(size), 16)


def test_a_block_whose_residual_is_silenced_passes_only_its_input_on():
    maps = jnp.abs(jax.random.normal(jax.random.key(0), (2, 4, 4, 8)))
    block = ResidualBlock(8)
    variables = block.init(jax.random.key(1), maps, train=False)
    params = variables["params"]
    assert "shortcut" not in params
    params["conv_2"]["bn"]["scale"] = jnp.zeros(8)
    np.testing.assert_array_equal(block.apply(variables, maps, train=False), nn.silu(maps))


@pytest.mark.parametrize("wrong", [{"widths": ()}, {"widths": (8, 0)}, {"blocks": (1, 1)}, {"blocks": (1, 0, 1)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResNetConfig(**wrong)
