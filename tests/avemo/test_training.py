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
