import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
