import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, ConvNorm


def maps(shape: tuple[int, ...] = (3, 5, 5, 2)) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape) * 2 + 1


def test_training_normalises_by_the_batch_and_updates_the_running_statistics():
    layer = ConvNorm(4, relu=False)
    variables = layer.init(jax.random.key(1), maps(), train=False)
    out, updated = layer.apply(variables, maps(), train=True, mutable=["batch_stats"])

    convolved = np.asarray(maps()) @ np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
    mean, variance = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    np.testing.assert_allclose(out, (convolved - mean) / np.sqrt(variance + BATCH_NORM_EPSILON), atol=1e-5)
    running = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], (1 - BATCH_NORM_MOMENTUM) * mean, atol=1e-5)
    np.testing.assert_allclose(running["var"], BATCH_NORM_MOMENTUM + (1 - BATCH_NORM_MOMENTUM) * variance, atol=1e-5)


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
