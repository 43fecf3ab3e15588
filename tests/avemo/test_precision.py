"""bfloat16 as compute dtype: what stays float32, and that each stage learns with it as it does without."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_lowering import FACES, WINDOWS, computing_in, state_of
from test_stages import EVEN, FUSION, NETWORK, TRAINING, faces, fit, windows

from avemo.models.audio import AudioConfig, AudioEncoder, initial_carry
from avemo.stages import fusion, student, teacher

BFLOAT16 = jnp.dtype("bfloat16")

IN_BFLOAT16 = {
    # Products: their sums are rounded once, at the end.
    "conv_general_dilated",
    "dot_general",
    # ReLU and max-pooling choose among numbers.
    *("max", "select_n", "reduce_window_max", "select_and_scatter_add"),
    # Numbers are moved.
    *("broadcast_in_dim", "concatenate", "pad", "reshape", "rev", "slice", "split", "squeeze", "transpose"),
    # A student's shortcut and residual, two gradients that meet where a map is used twice, and the cast itself.
    *("add", "add_any", "convert_element_type"),
}
"""What may give bfloat16. No sum, no mean, no exponential, no logarithm, no root."""


def equations(jaxpr):
    """All that are no mere calls of others."""
    for equation in jaxpr.eqns:
        if inner := list(jaxprs_in_params(equation.params)):
            for called in inner:
                yield from equations(called)
        else:
            yield equation


def primitives_in_bfloat16(function, *arguments):
    return {
        equation.primitive.name
        for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if any(variable.aval.dtype == BFLOAT16 for variable in equation.outvars)
    }


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def in_demo_size(name, dtype):
    if name == "fusion":
        return fusion.build(computing_in(dtype, fusion.DEMO), 0), WINDOWS
    learner = teacher.build(computing_in(dtype, teacher.DEMO), EVEN, 0)
    if name == "teacher":
        return learner, FACES
    frozen = state_of(learner).variables
    return student.build(computing_in(dtype, student.DEMO), EVEN, 0, [(teacher.DEMO.network, frozen)]), FACES


@pytest.mark.parametrize("name", ["teacher", "student", "fusion"])
def test_only_products_and_relu_are_bfloat16(name):
    stage, batch = in_demo_size(name, "bfloat16")
    found = primitives_in_bfloat16(stage.train_step, state_of(stage), batch, *stage.frozen)
    assert {"conv_general_dilated", "dot_general"} <= found <= IN_BFLOAT16


@pytest.mark.parametrize("name", ["teacher", "student", "fusion"])
def test_state_and_metrics_are_float32(name):
    """Parameters, running statistics, the optimiser's moments, losses, and what evaluations add up."""
    stage, batch = in_demo_size(name, "bfloat16")
    before = state_of(stage)
    after, metrics = jax.eval_shape(stage.train_step, before, batch, *stage.frozen)
    assert dtypes((before, after, metrics)) == {jnp.dtype("float32")}
    if name == "fusion":
        assert dtypes(jax.eval_shape(stage.eval_step, before.variables, batch)) == {jnp.dtype("float32")}
    else:
        labelled = {"affectnet": {**batch["affectnet"], "valid": batch["affectnet"]["expression_valid"]}}
        assert dtypes(jax.eval_shape(stage.eval_step, before.variables, labelled)) == {jnp.dtype("float32")}


def test_no_setting_of_float32_is_undermined():
    stage, batch = in_demo_size("fusion", "float32")
    assert primitives_in_bfloat16(stage.train_step, state_of(stage), batch) == set()


def test_a_bias_gradient_is_a_sum_in_float32():
    """Added up in bfloat16, 20 × 600 equal gradients would stop growing at a few thousand."""
    encoder = AudioEncoder(AudioConfig(features=4, dilations=(1,)), "bfloat16")
    sound = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2400, 8)), jnp.float32)
    carry = initial_carry(encoder.config, 8, 20)
    params = jax.jit(encoder.init)(jax.random.key(0), sound[:, :4], carry)
    params["params"]["norm"]["scale"] = jnp.ones(4)

    def last_bias(params, dtype):
        outputs, _ = AudioEncoder(encoder.config, dtype).apply(params, sound, carry)
        return jnp.sum(outputs.astype(jnp.float32) * jnp.arange(4.0))

    gradients = {dtype: jax.jit(jax.grad(last_bias), static_argnums=1)(params, dtype) for dtype in DTYPES}
    exact, found = (gradients[dtype]["params"] for dtype in DTYPES)
    assert np.abs(exact["norm"]["bias"]).max() == 3 * 20 * 600
    for layer in ("norm", "temporal_0", "conv_1"):
        error = np.linalg.norm(found[layer]["bias"] - exact[layer]["bias"])
        assert error < 0.05 * np.linalg.norm(exact[layer]["bias"]), layer


DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def histories():
    """The losses of each tiny stage over a few dozen steps, by compute dtype."""
    learned = {}
    for dtype in DTYPES:
        taught, of_teacher = fit(teacher.build(computing_in(dtype, TRAINING), EVEN, 0), faces(), 60)
        imitation = student.Distillation(**vars(computing_in(dtype, TRAINING)), labels_weight=0.0)
        stage = student.build(imitation, EVEN, 1, [(replace(NETWORK, dtype=dtype), taught.variables)])
        _, of_student = fit(stage, faces(), 40)
        _, of_fusion = fit(fusion.build(computing_in(dtype, FUSION), 0), windows(), 80)
        learned[dtype] = {"teacher": of_teacher, "student": of_student, "fusion": of_fusion}
    return learned


@pytest.mark.parametrize("name", ["teacher", "fusion"])
def test_the_first_losses_agree(histories, name):
    exact, rounded = (histories[dtype][name][0] for dtype in DTYPES)
    for term, value in exact.items():
        # Squared distances of unit vectors, of which the triplets' hinges are made, reach 4 and are exact to 1 %.
        assert rounded[term] == pytest.approx(value, rel=0.03, abs=1e-2 if term == "triplet" else 5e-3), term


@pytest.mark.parametrize("name", ["teacher", "student", "fusion"])
def test_a_tiny_batch_is_overfitted_just_as_well(histories, name):
    exact, rounded = (histories[dtype][name] for dtype in DTYPES)
    assert exact[-1]["loss"] < 0.45 * exact[0]["loss"]
    assert rounded[-1]["loss"] < 0.45 * rounded[0]["loss"]
    assert rounded[-1]["loss"] == pytest.approx(exact[-1]["loss"], abs=0.1 * exact[0]["loss"])


@pytest.mark.parametrize(
    "command", ["teacher", "student --teacher run", "fusion --face run"], ids=["teacher", "student", "fusion"]
)
def test_the_command_line_has_one_flag_for_it(command):
    from launch.commands import parse

    training = ["train", *command.split(), "--data", "data", "--out", "out"]
    assert parse(training).config.network.dtype == "float32"
    assert parse([*training, "--network.dtype", "bfloat16"]).config.network.dtype == "bfloat16"


@pytest.mark.parametrize("stage", ["teacher", "student", "fusion"])
def test_the_help_tells_of_it(stage, capsys):
    from launch.commands import parse

    with pytest.raises(SystemExit):
        parse(["train", stage, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--network.dtype {float32,bfloat16}" in said
    assert "bfloat16" in said
