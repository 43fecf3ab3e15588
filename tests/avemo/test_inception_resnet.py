import jax
import jax.numpy as jnp
import pytest

from avemo.models.inception_resnet import InceptionResNetConfig, InceptionResNetTrunk


def trace(config: InceptionResNetConfig, size: int):
    """Shapes of the output, of every submodule's output, and the number of parameters; nothing is computed."""
    trunk = InceptionResNetTrunk(config)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def run(key, images):
        out, variables = trunk.init_with_output(key, images, train=False)
        _, state = trunk.apply(variables, images, train=False, capture_intermediates=True)
        return out, variables["params"], state["intermediates"]

    out, params, intermediates = jax.eval_shape(run, jax.random.key(0), images)
    shapes = {name: value["__call__"][0].shape[1:] for name, value in intermediates.items() if name != "__call__"}
    return out.shape, shapes, sum(leaf.size for leaf in jax.tree.leaves(params))


def test_published_network_at_140_pixels():
    out, shapes, _ = trace(InceptionResNetConfig(), 140)
    assert out == (1, 3, 3, 1792)
    expected = {
        "conv2d_1a": (69, 69, 32),
        "conv2d_2a": (67, 67, 32),
        "conv2d_2b": (67, 67, 64),
        "conv2d_3b": (33, 33, 80),
        "conv2d_4a": (31, 31, 192),
        "conv2d_4b": (15, 15, 256),
        **{f"repeat_1_{i}": (15, 15, 256) for i in range(5)},
        "mixed_6a": (7, 7, 896),
        **{f"repeat_2_{i}": (7, 7, 896) for i in range(10)},
        "mixed_7a": (3, 3, 1792),
    }
    assert shapes == expected


def test_parameters_with_the_part_cut_off_are_those_of_facenet_pytorch():
    def conv_norm(inputs: int, outputs: int, taps: int) -> int:
        return inputs * outputs * taps + 2 * outputs

    branches = 2 * conv_norm(1792, 192, 1) + 2 * conv_norm(192, 192, 3)  # 1; 1-(1x3)-(3x1)
    block8 = branches + 384 * 1792 + 1792
    cut_off = 6 * block8 + 1792 * 512 + 2 * 512  # repeat_3, block8, last_linear, last_bn

    _, _, parameters = trace(InceptionResNetConfig(), 140)
    assert parameters + cut_off == 23_482_624
    assert parameters + cut_off + 512 * 8631 + 8631 == 27_910_327  # with the VGGFace2 classifier


@pytest.mark.parametrize("stem_pool", [True, False])
@pytest.mark.parametrize("size", [90, 101, 140, 141])
def test_map_size_foretells_the_map(stem_pool, size):
    config = InceptionResNetConfig(width=0.25, blocks=(1, 1), stem_pool=stem_pool)
    out, _, _ = trace(config, size)
    assert out == (1, config.map_size(size), config.map_size(size), 448)


def test_without_the_stem_pool_48_pixels_suffice():
    assert InceptionResNetConfig(stem_pool=False).map_size(48) == 1
    assert InceptionResNetConfig().map_size(48) < 1


@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"blocks": (-1, 2)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InceptionResNetConfig(**wrong)
