import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.layers import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    BatchNorm,
    ConvNorm,
    SqueezeExcite,
    convolve_depthwise,
    divisible,
)


def maps(shape: tuple[int, ...] = (3, 5, 5, 2)) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape) * 2 + 1


def test_training_normalises_by_the_batch_and_updates_the_running_statistics():
    layer = ConvNorm(4, activation=None)
    variables = layer.init(jax.random.key(1), maps(), train=False)
    out, updated = layer.apply(variables, maps(), train=True, mutable=["batch_stats"])

    convolved = np.asarray(maps()) @ np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
    mean, variance = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    np.testing.assert_allclose(out, (convolved - mean) / np.sqrt(variance + BATCH_NORM_EPSILON), atol=1e-5)
    running = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], (1 - BATCH_NORM_MOMENTUM) * mean, atol=1e-5)
    np.testing.assert_allclose(running["var"], BATCH_NORM_MOMENTUM + (1 - BATCH_NORM_MOMENTUM) * variance, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_and_its_gradient_are_those_of_flax(train):
    theirs = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON)
    draw = lambda seed, shape: jax.random.normal(jax.random.key(seed), shape)
    variables = {
        "params": {"scale": draw(1, (2,)), "bias": draw(2, (2,))},
        "batch_stats": {"mean": draw(3, (2,)), "var": draw(4, (2,)) ** 2},
    }

    def with_gradients(layer):
        def loss_of(params, maps):
            out, updated = layer.apply(variables | {"params": params}, maps, mutable=["batch_stats"])
            return (out * draw(5, out.shape)).sum(), (out, updated)

        return jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(variables["params"], maps())

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, with_gradients(BatchNorm(train)), with_gradients(theirs))


def test_inference_treats_every_image_by_itself():
    layer = ConvNorm(4, (3, 3), padding="SAME")
    variables = layer.init(jax.random.key(1), maps(), train=False)
    whole = layer.apply(variables, maps(), train=False)
    np.testing.assert_allclose(whole[1:2], layer.apply(variables, maps()[1:2], train=False), atol=1e-6)
    assert whole.min() == 0  # ReLU


@pytest.mark.parametrize(("stride", "padding", "side"), [(1, "VALID", 5), (2, "VALID", 3), (2, "SAME", 4)])
def test_shapes(stride, padding, side):
    out, _ = ConvNorm(4, (3, 3), stride, padding).init_with_output(jax.random.key(0), maps((1, 7, 7, 2)), train=False)
    assert out.shape == (1, side, side, 4)


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_statistics_in_float32():
    out, variables = ConvNorm(4, dtype="bfloat16").init_with_output(jax.random.key(0), maps(), train=False)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


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
