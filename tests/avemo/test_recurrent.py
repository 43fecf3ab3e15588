import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from avemo.models.recurrent import Recurrent, RecurrentConfig, gru_scan, initial_carry, lstm_scan

INPUTS, FEATURES = 3, 4


def inputs(batch: int = 2, frames: int = 7) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, frames, INPUTS))


def network(kind: str, layers: int = 2):
    config = RecurrentConfig(kind, FEATURES, layers)
    variables = jax.jit(Recurrent(config).init)(jax.random.key(1), inputs(), initial_carry(config, 2))
    # No parameter stays at its special initial value, lest a forgotten bias go unnoticed.
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), variables)
    return config, variables, jax.jit(Recurrent(config).apply)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_one_lstm_step_by_hand():
    projected = np.array([0.1, -0.2, 0.3, 0.4], np.float32)  # one unit: input, forget, cell, output
    weights = np.array([0.5, -0.6, 0.7, 0.8], np.float32)
    hidden, cell = 0.9, -1.1
    i, f, g, o = projected + hidden * weights
    expected_cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    expected_hidden = sigmoid(o) * np.tanh(expected_cell)

    carry = (jnp.full((1, 1), hidden), jnp.full((1, 1), cell))
    out, (new_hidden, new_cell) = lstm_scan(jnp.asarray(projected)[None, None], carry, jnp.asarray(weights)[None])
    np.testing.assert_allclose(new_cell, [[expected_cell]], rtol=1e-6)
    np.testing.assert_allclose(new_hidden, [[expected_hidden]], rtol=1e-6)
    np.testing.assert_array_equal(out[0], new_hidden)


def test_one_gru_step_by_hand():
    projected = np.array([0.1, -0.2, 0.3], np.float32)  # one unit: reset, update, new
    weights = np.array([0.5, -0.6, 0.7], np.float32)
    hidden, new_bias = 0.9, 0.25
    r, z = sigmoid(projected[:2] + hidden * weights[:2])
    n = np.tanh(projected[2] + r * (hidden * weights[2] + new_bias))

    out, (new_hidden,) = gru_scan(
        jnp.asarray(projected)[None, None],
        (jnp.full((1, 1), hidden),),
        jnp.asarray(weights)[None],
        jnp.array([new_bias]),
    )
    np.testing.assert_allclose(new_hidden, [[(1 - z) * n + z * hidden]], rtol=1e-6)
    np.testing.assert_array_equal(out[0], new_hidden)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("chunks", [[7], [1, 6], [3, 3, 1]])
def test_chunks_with_the_carry_are_the_whole(kind, chunks):
    config, variables, apply = network(kind)
    whole, last = apply(variables, inputs(), initial_carry(config, 2))
    carry, parts = initial_carry(config, 2), []
    for chunk in jnp.split(inputs(), np.cumsum(chunks)[:-1], axis=1):
        part, carry = apply(variables, chunk, carry)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, last)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_frame_depends_on_all_before_and_none_after(kind):
    config, variables, _ = network(kind)

    def run(frames):
        return Recurrent(config).apply(variables, frames[None], initial_carry(config, 1))[0][0].sum(-1)

    reach = np.abs(jax.jit(jax.jacrev(run))(inputs()[0])).sum(-1)
    assert np.all(np.triu(reach, 1) == 0)
    assert np.all(reach[np.tril_indices(7)] > 0)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_sequences_dont_mix(kind):
    config, variables, apply = network(kind)
    both, _ = apply(variables, inputs(), initial_carry(config, 2))
    second, _ = apply(variables, inputs()[1:], initial_carry(config, 1))
    np.testing.assert_allclose(both[1:], second, atol=1e-6)


def test_lstm_is_flaxs():
    config, variables, apply = network("lstm", layers=1)
    params = variables["params"]
    kernels, biases = jnp.split(params["input_0"]["kernel"], 4, 1), jnp.split(params["input_0"]["bias"], 4)
    recurrent = jnp.split(params["recurrent_0"], 4, axis=1)
    cell = {f"i{gate}": {"kernel": kernel} for gate, kernel in zip("ifgo", kernels, strict=True)}
    for gate, kernel, bias in zip("ifgo", recurrent, biases, strict=True):
        cell[f"h{gate}"] = {"kernel": kernel, "bias": bias}
    expected = nn.RNN(nn.OptimizedLSTMCell(FEATURES)).apply({"params": {"cell": cell}}, inputs())
    np.testing.assert_allclose(apply(variables, inputs(), initial_carry(config, 2))[0], expected, atol=1e-6)


def test_gru_is_flaxs():
    config, variables, apply = network("gru", layers=1)
    params = variables["params"]
    kernels, biases = jnp.split(params["input_0"]["kernel"], 3, 1), jnp.split(params["input_0"]["bias"], 3)
    recurrent = jnp.split(params["recurrent_0"], 3, axis=1)
    cell = {
        f"i{gate}": {"kernel": kernel, "bias": bias} for gate, kernel, bias in zip("rzn", kernels, biases, strict=True)
    }
    cell |= {f"h{gate}": {"kernel": kernel} for gate, kernel in zip("rzn", recurrent, strict=True)}
    cell["hn"]["bias"] = params["new_bias_0"]
    expected = nn.RNN(nn.GRUCell(FEATURES)).apply({"params": {"cell": cell}}, inputs())
    np.testing.assert_allclose(apply(variables, inputs(), initial_carry(config, 2))[0], expected, atol=1e-6)


def plain_lstm(projected, carry, recurrent):
    def step(carry, projected):
        hidden, cell = carry
        i, f, g, o = jnp.split(projected + hidden @ recurrent, 4, axis=-1)
        cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
        hidden = nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    carry, hidden = jax.lax.scan(step, carry, projected)
    return hidden, carry


def plain_gru(projected, carry, recurrent, new_bias):
    def step(carry, projected):
        (hidden,) = carry
        r, z, n = jnp.split(projected, 3, axis=-1)
        r_hidden, z_hidden, n_hidden = jnp.split(hidden @ recurrent, 3, axis=-1)
        r, z = nn.sigmoid(r + r_hidden), nn.sigmoid(z + z_hidden)
        hidden = (1 - z) * jnp.tanh(n + r * (n_hidden + new_bias)) + z * hidden
        return (hidden,), hidden

    carry, hidden = jax.lax.scan(step, carry, projected)
    return hidden, carry


SCANS = {"lstm": (lstm_scan, plain_lstm), "gru": (gru_scan, plain_gru)}


def scan_inputs(kind, time=30, batch=3):
    keys = iter(jax.random.split(jax.random.key(2), 8))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    if kind == "lstm":
        return draw(time, batch, 4 * FEATURES), (draw(batch, FEATURES), draw(batch, FEATURES)), draw(FEATURES, 16)
    return draw(time, batch, 3 * FEATURES), (draw(batch, FEATURES),), draw(FEATURES, 12), draw(FEATURES)


def loss(scan):
    """Of the hidden states and of the carry that goes out, each with weights of its own."""

    def of(*inputs):
        out, carry = scan(*inputs)
        leaves = [out, *carry]
        return sum(
            (jnp.sin(i + jnp.arange(leaf.size).reshape(leaf.shape)) * leaf).sum() for i, leaf in enumerate(leaves)
        )

    return of


def assert_equal_gradients(ours, expected):
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("kind", SCANS)
def test_gradients_are_those_of_autodiff(kind):
    inputs = scan_inputs(kind)
    every = tuple(range(len(inputs)))
    ours, expected = (jax.jit(jax.value_and_grad(loss(scan), every))(*inputs) for scan in SCANS[kind])
    assert_equal_gradients(ours, expected)


@pytest.mark.parametrize("kind", SCANS)
def test_gradients_in_double_precision(kind):
    with jax.enable_x64(True):
        inputs = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), scan_inputs(kind, time=5))
        check_grads(jax.jit(SCANS[kind][0]), inputs, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", SCANS)
def test_gradients_flow_through_the_carry_between_chunks(kind):
    scan = SCANS[kind][0]
    projected, carry, *weights = scan_inputs(kind)

    def in_chunks(projected, carry, *weights):
        begin, carry = scan(projected[:11], carry, *weights)
        end, carry = scan(projected[11:], carry, *weights)
        return jnp.concatenate([begin, end]), carry

    inputs = (projected, carry, *weights)
    every = tuple(range(len(inputs)))
    ours, expected = (jax.jit(jax.grad(loss(each), every))(*inputs) for each in (in_chunks, scan))
    assert_equal_gradients(ours, expected)


@pytest.mark.parametrize("kind", SCANS)
def test_gradients_under_vmap_and_rematerialisation(kind):
    inputs = scan_inputs(kind, time=6)
    every = tuple(range(len(inputs)))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), inputs)
    ours = jax.jit(jax.vmap(jax.grad(loss(jax.checkpoint(SCANS[kind][0])), every)))(*stacked)
    expected = jax.jit(jax.vmap(jax.grad(loss(SCANS[kind][1]), every)))(*stacked)
    assert_equal_gradients(ours, expected)


def products(jaxpr, in_loop=False):
    """Shapes of the results of all matrix products, those inside of loops and those outside."""
    found = {True: [], False: []}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found[in_loop].append(equation.outvars[0].aval.shape)
        for inner in (getattr(value, "jaxpr", value) for value in equation.params.values()):
            if hasattr(inner, "eqns"):
                for key, shapes in products(inner, in_loop or equation.primitive.name == "scan").items():
                    found[key] += shapes
    return found


@pytest.mark.parametrize("kind", SCANS)
def test_the_weights_gradient_is_one_product_outside_of_the_scans(kind):
    inputs = scan_inputs(kind)
    found = products(jax.make_jaxpr(jax.grad(loss(SCANS[kind][0]), 2))(*inputs).jaxpr)
    assert found[False] == [inputs[2].shape]
    assert found[True] == [(3, inputs[2].shape[1]), (3, FEATURES)]


def test_initial_weights():
    config = RecurrentConfig("lstm", FEATURES)
    params = jax.jit(Recurrent(config).init)(jax.random.key(1), inputs(), initial_carry(config, 2))["params"]
    for gate in jnp.split(params["recurrent_0"], 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(FEATURES), atol=1e-5)
    np.testing.assert_array_equal(params["input_0"]["bias"].reshape(4, FEATURES).sum(1), [0, FEATURES, 0, 0])


def test_bfloat16_inputs_are_computed_in_float32():
    config, variables, apply = network("gru")
    out, carry = apply(variables, inputs().astype(jnp.bfloat16), initial_carry(config, 2))
    assert {leaf.dtype for leaf in jax.tree.leaves((out, carry))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("wrong", [{"kind": "rnn"}, {"features": 0}, {"layers": 0}])
def test_impossible_settings_are_refused(wrong):
    # A type checker that is switched on is the first to refuse a wrong kind, with a TypeError.
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        RecurrentConfig(**wrong)
