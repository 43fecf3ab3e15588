import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.training import OptimizerConfig, make_optimizer, new_state, stream_key, update


def test_streams_differ_by_name_and_by_step_and_repeat():
    draw = lambda *key: float(jax.random.uniform(stream_key(*key)))
    values = {draw(0, "augment", 0), draw(0, "augment", 1), draw(0, "dropout", 0), draw(1, "augment", 0)}
    assert len(values) == 4
    assert draw(0, "augment", 1) == draw(0, "augment", 1)


def test_update_counts_steps_and_decays_only_kernels():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=0), steps=10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state = update(new_state({"params": params}, optimizer), jax.tree.map(jnp.zeros_like, params), {}, optimizer)
    assert state.step == 1
    np.testing.assert_allclose(state.params["kernel"], 1.0 - 0.1 * 0.5)
    np.testing.assert_allclose(state.params["bias"], 1.0)


def test_learning_rate_rises_then_falls_to_zero():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, weight_decay=0.0, warmup_steps=5), steps=20)
    state = new_state({"params": {"x": jnp.zeros(())}}, optimizer)
    moves = []
    for _ in range(21):
        before = float(state.params["x"])
        state = update(state, {"x": jnp.ones(())}, {}, optimizer)
        moves.append(before - float(state.params["x"]))
    assert moves[0] == 0.0
    assert max(moves) == pytest.approx(1e-2, rel=1e-3)
    assert moves[-1] == pytest.approx(0.0, abs=1e-9)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="learning_rate"):
        OptimizerConfig(learning_rate=0.0)


def test_averages_follow_the_variables_and_are_what_is_used():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.0, warmup_steps=0, averaging=0.5), 10)
    state = new_state({"params": {"x": jnp.zeros(2)}, "batch_stats": {"mean": jnp.ones(2)}}, optimizer)
    np.testing.assert_array_equal(state.variables["batch_stats"]["mean"], 1.0)
    expected, decays = {"params": 0.0, "batch_stats": 1.0}, [2 / 11, 3 / 12, 4 / 13, 5 / 14]
    for step, decay in enumerate(decays):
        state = update(state, {"x": jnp.ones(2)}, {"mean": jnp.full(2, float(step))}, optimizer)
        latest = {"params": state.params["x"][0], "batch_stats": float(step)}
        expected = {name: decay * expected[name] + (1 - decay) * latest[name] for name in latest}
        np.testing.assert_allclose(state.variables["params"]["x"], expected["params"], rtol=1e-6)
        np.testing.assert_allclose(state.variables["batch_stats"]["mean"], expected["batch_stats"], rtol=1e-6)
    for _ in range(30):
        state = update(state, {"x": jnp.zeros(2)}, {"mean": jnp.full(2, 7.0)}, optimizer)
    np.testing.assert_allclose(state.variables["batch_stats"]["mean"], 7.0, rtol=1e-6)  # the decay is 0.5 by now


def test_without_averaging_the_last_variables_are_used():
    optimizer = make_optimizer(OptimizerConfig(), steps=10)
    state = new_state({"params": {"x": jnp.zeros(2)}}, optimizer)
    assert state.averages == ()
    assert state.variables is not state.averages
    assert state.variables == state.trained


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="averaging"):
        OptimizerConfig(averaging=1.0)
