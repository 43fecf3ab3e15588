import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.log_mel import LogMelConfig
from avemo.models.audio import AudioConfig
from avemo.models.fusion import (
    DEMO_FUSION,
    PAPER_FUSION,
    FusionCarry,
    FusionConfig,
    FusionNetwork,
    init_variables,
    initial_carry,
)
from avemo.models.recurrent import RecurrentConfig

CONFIG = FusionConfig(
    face_size=6,
    log_mel=LogMelConfig(mel_bands=8),
    audio=AudioConfig(features=8, dilations=(1,)),
    projection=8,
    recurrent=RecurrentConfig("gru", 8),
)
T = 9


def recording(batch: int = 2) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "face": jax.random.normal(keys[0], (batch, T, 6)),
        "face_valid": jax.random.bernoulli(keys[1], 0.7, (batch, T)),
        "waveform": 0.1 * jax.random.normal(keys[2], (batch, 640 * T)),
        "voice_valid": jax.random.bernoulli(keys[3], 0.7, (batch, T)),
    }


@partial(jax.jit, static_argnames="config")
def predict(variables, data, carry: FusionCarry | None = None, config: FusionConfig = CONFIG):
    inputs = (data["face"], data["face_valid"], data["waveform"], data["voice_valid"])
    return FusionNetwork(config).apply(variables, *inputs, train=False, carry=carry)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda key: init_variables(FusionNetwork(CONFIG), key))(jax.random.key(1))


def test_shapes_and_range(variables):
    out = predict(variables, recording())
    assert out["valence_arousal"].shape == (2, T, 2)
    assert out["valence_arousal"].dtype == jnp.float32
    assert jnp.abs(out["valence_arousal"]).max() < 1
    assert out["audio"].shape == (2, T, 8)


@pytest.mark.parametrize("first", [1, 4, 8])
def test_chunks_with_the_carry_are_the_whole(variables, first):
    data = recording()
    split = {"face": first, "face_valid": first, "waveform": 640 * first, "voice_valid": first}
    begin = predict(variables, {name: data[name][:, :end] for name, end in split.items()})
    end = predict(variables, {name: data[name][:, start:] for name, start in split.items()}, begin["carry"])
    whole = predict(variables, data)
    for name in ("valence_arousal", "audio"):
        np.testing.assert_allclose(jnp.concatenate([begin[name], end[name]], axis=1), whole[name], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), end["carry"], whole["carry"])


@pytest.mark.parametrize("frame", [0, 3, 8])
def test_the_future_changes_nothing(variables, frame):
    data = {**recording(), "face_valid": jnp.ones((2, T), bool), "voice_valid": jnp.ones((2, T), bool)}
    changed = {
        **data,
        "face": data["face"].at[:, frame].add(1),
        "waveform": data["waveform"].at[:, 640 * frame : 640 * (frame + 1)].multiply(-0.5),
    }
    before, after = predict(variables, data), predict(variables, changed)
    for name in ("valence_arousal", "audio"):
        np.testing.assert_allclose(before[name][:, :frame], after[name][:, :frame], atol=1e-6)
        assert jnp.all(jnp.any(before[name][:, frame] != after[name][:, frame], axis=-1))


def test_what_is_not_valid_is_not_used(variables):
    data = recording()
    broken = {**data, "face": jnp.where(data["face_valid"][..., None], data["face"], jnp.nan)}
    np.testing.assert_array_equal(
        predict(variables, broken)["valence_arousal"], predict(variables, data)["valence_arousal"]
    )
    deaf = {**data, "voice_valid": jnp.zeros((2, T), bool)}
    np.testing.assert_array_equal(
        predict(variables, {**deaf, "waveform": -0.3 * data["waveform"]})["valence_arousal"],
        predict(variables, deaf)["valence_arousal"],
    )


def test_gradients_are_finite_with_missing_faces_and_reach_every_parameter(variables):
    data = recording()
    data["face"] = jnp.where(data["face_valid"][..., None], data["face"], jnp.nan)

    def loss(variables):
        out = FusionNetwork(CONFIG).apply(variables, *data.values(), train=True, rngs={"dropout": jax.random.key(0)})
        return jnp.sum(out["valence_arousal"] ** 2 + out["spread"])

    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(jnp.isfinite(leaf).all() and jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("seed", range(4))
def test_frame_by_frame_in_random_chunks_is_the_whole_at_any_length_of_history(variables, seed):
    data, carry, parts, start = recording(1), initial_carry(CONFIG, 1), [], 0
    lengths = np.random.default_rng(seed)
    while start < T:
        end = min(T, start + int(lengths.integers(1, 4)))
        scale = {"waveform": 640}
        chunk = {name: value[:, start * scale.get(name, 1) : end * scale.get(name, 1)] for name, value in data.items()}
        out = predict(variables, chunk, carry)
        carry, start = out["carry"], end
        parts.append(out["valence_arousal"])
    whole = predict(variables, data)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole["valence_arousal"], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, whole["carry"])


def test_bfloat16_predicts_in_float32(variables):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    out = predict(variables, recording(), config=config)
    assert out["valence_arousal"].dtype == jnp.float32
    np.testing.assert_allclose(out["valence_arousal"], predict(variables, recording())["valence_arousal"], atol=0.05)


@pytest.mark.parametrize(("config", "parameters"), [(DEMO_FUSION, 120_516), (PAPER_FUSION, 1_349_124)])
def test_presets_are_as_large_as_their_docstrings_say(config, parameters):
    shapes = jax.eval_shape(lambda key: init_variables(FusionNetwork(config), key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


def test_inputs_of_other_sizes_are_refused(variables):
    data = recording()
    with pytest.raises(ValueError, match="expected 6"):
        predict(variables, {**data, "face": jnp.zeros((2, T, 7))})
    with pytest.raises(ValueError, match="expected 640 per frame"):
        predict(variables, {**data, "waveform": jnp.zeros((2, 640 * T - 1))})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"projection": 0}, "projection"),
        ({"dropout": 1.0}, "dropout"),
        ({"log_mel": LogMelConfig(hop_s=0.02)}, "one frame"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FusionConfig(**wrong)
