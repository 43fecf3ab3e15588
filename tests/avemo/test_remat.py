"""`remat`: less is kept for the backward pass, and nothing else changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_precision import equations
from test_stages import EVEN, TRAINING, faces

from avemo.models.face import FaceNetwork
from avemo.stages import student, supervision, teacher
from avemo.training import stream_key


def step_of(config):
    """The state and metrics after two steps, and the gradient's first moment, which Adam has not divided yet."""
    stage = teacher.build(config, EVEN, 0)
    state, step = jax.jit(stage.init)(stream_key(0, "init")), jax.jit(stage.train_step)
    for _ in range(2):
        state, metrics = step(state, faces())
    return state, metrics


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_gives_the_same(accumulate):
    """Parameters with the same names, gradients, metrics, and BatchNorm's running statistics moved on once."""
    config = replace(TRAINING, accumulate=accumulate)
    (plain, metrics), (remat, metrics_remat) = step_of(config), step_of(replace(config, remat=True))
    close = lambda tree, other, **to: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **to), tree, other)
    close(remat.batch_stats, plain.batch_stats, rtol=1e-4, atol=1e-5)
    close(metrics_remat, metrics, rtol=1e-4)
    close(remat.opt_state[1][0].mu[0], plain.opt_state[1][0].mu[0], rtol=1e-3, atol=1e-4)
    assert jax.tree.structure(remat) == jax.tree.structure(plain)


def test_a_student_can_have_it():
    taught = jax.jit(teacher.build(TRAINING, EVEN, 0).init)(stream_key(0, "init")).variables
    config = student.Distillation(**vars(TRAINING))
    losses = []
    for remat in (False, True):
        stage = student.build(replace(config, remat=remat), EVEN, 1, [(config.network, taught)])
        state = jax.jit(stage.init)(stream_key(1, "init"))
        losses.append(float(jax.jit(stage.train_step)(state, faces(), (taught,))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def backward(config):
    """The network of a training, its forward pass done: what is left is a function of what was kept."""
    network = FaceNetwork(config.network)
    state = jax.eval_shape(teacher.build(config, EVEN, 0).init, stream_key(0, "init"))
    size = config.network.image_size
    images = jax.ShapeDtypeStruct((8, size, size, 3), jnp.float32)

    def run(state, images):
        return jax.vjp(lambda params: supervision.forward(network, state, params, images, config)[0], state.params)[1]

    return run, state, images


def bytes_kept(config):
    run, state, images = backward(config)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(run, state, images)))
    return kept - sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_less_than_half_is_kept_of_the_papers_kind_of_network(dtype):
    config = replace(teacher.DEMO, network=replace(teacher.DEMO.network, dtype=dtype))
    assert bytes_kept(replace(config, remat=True)) < bytes_kept(config) / 2


def test_no_product_is_computed_twice():
    def products(remat):
        stage = teacher.build(replace(teacher.DEMO, remat=remat), EVEN, 0)
        state = jax.eval_shape(stage.init, stream_key(0, "init"))
        batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, faces()))
        widen = lambda leaf: leaf.update(shape=tuple(46 if side == 16 else side for side in leaf.shape))
        jaxpr = jax.make_jaxpr(stage.train_step)(state, jax.tree.map(widen, batch)).jaxpr
        names = [equation.primitive.name for equation in equations(jaxpr)]
        return [names.count(name) for name in ("conv_general_dilated", "dot_general")]

    assert products(remat=True) == products(remat=False)
