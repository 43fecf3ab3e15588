"""LSTM and GRU as scans over explicit parameters, with an explicit carry for streaming.

Gates stand in torch's order and follow torch's formulas, so weights can be exchanged as they are
(transposed). Gradients are written out: the recurrent weights' gradient, which autodiff would add up step by step,
is one matrix product over all steps.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Carry = tuple[tuple[Float[Array, "B F"], ...], ...]
"""State of every layer: (hidden, cell) of an LSTM layer, (hidden,) of a GRU layer; float32, BxF each."""


@dataclass(frozen=True)
class RecurrentConfig:
    """Size of the recurrent network.

    Attributes:
        kind: "lstm" (Hochreiter and Schmidhuber 1997) or "gru" (Cho et al. 2014).
        features: Size F of the hidden state.
        layers: Number of layers, one upon the other.
    """

    kind: Literal["lstm", "gru"] = "lstm"
    features: int = 64
    layers: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("lstm", "gru"):
            raise ValueError(f"kind is {self.kind!r}; it must be 'lstm' or 'gru'")
        if self.features < 1 or self.layers < 1:
            raise ValueError(f"features {self.features} and layers {self.layers} must be at least 1")


def initial_carry(config: RecurrentConfig, batch: int) -> Carry:
    """The carry before the first frame: zeros.

    Args:
        config: Size of the recurrent network.
        batch: Number of sequences, B.

    Returns:
        The carry.
    """
    states = 2 if config.kind == "lstm" else 1
    zeros_BxF = jnp.zeros((batch, config.features))
    return tuple((zeros_BxF,) * states for _ in range(config.layers))


@jax.custom_vjp
def lstm_scan(
    projected_TxBx4F: Float[Array, "T B G"],
    carry: tuple[Float[Array, "B F"], ...],
    recurrent_Fx4F: Float[Array, "F G"],
) -> tuple[Float[Array, "T B F"], tuple[Float[Array, "B F"], ...]]:
    """Run an LSTM over time. It can be differentiated backwards only (`jax.grad`, `jax.vjp`).

    Args:
        projected_TxBx4F: Inputs times their weights plus bias, gates in the order input, forget, cell,
            output.
        carry: Hidden and cell state before the first step.
        recurrent_Fx4F: Weights on the hidden state.

    Returns:
        Hidden states TxBxF and the carry after the last step.
    """
    return _lstm_forward(projected_TxBx4F, carry, recurrent_Fx4F)[0]


def _lstm_forward(projected_TxBx4F: Array, carry: tuple[Array, ...], recurrent_Fx4F: Array) -> tuple[Any, Any]:
    """The scan, and what its gradient needs."""

    def step(carry: tuple[Array, ...], projected_Bx4F: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        hidden, cell = carry
        i, f, g, o = jnp.split(projected_Bx4F + hidden @ recurrent_Fx4F, 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        new_cell = f * cell + i * g
        squashed = jnp.tanh(new_cell)
        hidden = o * squashed
        return (hidden, new_cell), (hidden, i, f, g, o, cell, squashed)

    last, (hidden_TxBxF, *saved) = jax.lax.scan(step, carry, projected_TxBx4F)
    return (hidden_TxBxF, last), (carry[0], hidden_TxBxF, saved, recurrent_Fx4F)


def _lstm_backward(residuals: Any, gradients: Any) -> tuple[Array, tuple[Array, ...], Array]:
    """Gradients of projected inputs, carry and recurrent weights."""
    first_BxF, hidden_TxBxF, saved, recurrent_Fx4F = residuals

    def step(carry: tuple[Array, ...], inputs: Any) -> tuple[tuple[Array, ...], Array]:
        d_hidden, d_cell = carry
        d_output, (i, f, g, o, cell, squashed) = inputs
        d_hidden += d_output
        d_cell += d_hidden * o * (1 - squashed**2)
        d_gates_Bx4F = jnp.concatenate(
            [
                d_cell * g * i * (1 - i),
                d_cell * cell * f * (1 - f),
                d_cell * i * (1 - g**2),
                d_hidden * squashed * o * (1 - o),
            ],
            axis=-1,
        )
        return (d_gates_Bx4F @ recurrent_Fx4F.T, d_cell * f), d_gates_Bx4F

    d_outputs_TxBxF, d_last = gradients
    d_carry, d_gates_TxBx4F = jax.lax.scan(step, d_last, (d_outputs_TxBxF, saved), reverse=True)
    return d_gates_TxBx4F, d_carry, _weight_gradient(first_BxF, hidden_TxBxF, d_gates_TxBx4F)


lstm_scan.defvjp(_lstm_forward, _lstm_backward)


@jax.custom_vjp
def gru_scan(
    projected_TxBx3F: Float[Array, "T B G"],
    carry: tuple[Float[Array, "B F"], ...],
    recurrent_Fx3F: Float[Array, "F G"],
    new_bias_F: Float[Array, " F"],
) -> tuple[Float[Array, "T B F"], tuple[Float[Array, "B F"], ...]]:
    """Run a GRU over time; the reset gate acts after the matrix product, as in torch and cuDNN.

    It can be differentiated backwards only (`jax.grad`, `jax.vjp`).

    Args:
        projected_TxBx3F: Inputs times their weights plus bias, gates in the order reset, update, new.
        carry: Hidden state before the first step.
        recurrent_Fx3F: Weights on the hidden state.
        new_bias_F: Bias that the reset gate scales together with the hidden state's share of the new gate.

    Returns:
        Hidden states TxBxF and the carry after the last step.
    """
    return _gru_forward(projected_TxBx3F, carry, recurrent_Fx3F, new_bias_F)[0]


def _gru_forward(
    projected_TxBx3F: Array, carry: tuple[Array, ...], recurrent_Fx3F: Array, new_bias_F: Array
) -> tuple[Any, Any]:
    """The scan, and what its gradient needs."""

    def step(carry: tuple[Array, ...], projected_Bx3F: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        (hidden,) = carry
        r, z, n = jnp.split(projected_Bx3F, 3, axis=-1)
        r_hidden, z_hidden, n_hidden = jnp.split(hidden @ recurrent_Fx3F, 3, axis=-1)
        r, z = nn.sigmoid(r + r_hidden), nn.sigmoid(z + z_hidden)
        n_hidden += new_bias_F
        n = jnp.tanh(n + r * n_hidden)
        new_hidden = (1 - z) * n + z * hidden
        return (new_hidden,), (new_hidden, r, z, n, n_hidden, hidden)

    last, (hidden_TxBxF, *saved) = jax.lax.scan(step, carry, projected_TxBx3F)
    return (hidden_TxBxF, last), (carry[0], hidden_TxBxF, saved, recurrent_Fx3F)


def _gru_backward(residuals: Any, gradients: Any) -> tuple[Array, tuple[Array, ...], Array, Array]:
    """Gradients of projected inputs, carry, recurrent weights and the new gate's bias."""
    first_BxF, hidden_TxBxF, saved, recurrent_Fx3F = residuals

    def step(carry: tuple[Array, ...], inputs: Any) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        (d_hidden,) = carry
        d_output, (r, z, n, n_hidden, hidden) = inputs
        d_hidden += d_output
        d_new = d_hidden * (1 - z) * (1 - n**2)
        d_reset = d_new * n_hidden * r * (1 - r)
        d_update = d_hidden * (hidden - n) * z * (1 - z)
        d_recurrent_Bx3F = jnp.concatenate([d_reset, d_update, d_new * r], axis=-1)
        return (d_hidden * z + d_recurrent_Bx3F @ recurrent_Fx3F.T,), (d_recurrent_Bx3F, d_new)

    d_outputs_TxBxF, d_last = gradients
    d_carry, (d_recurrent_TxBx3F, d_new_TxBxF) = jax.lax.scan(step, d_last, (d_outputs_TxBxF, saved), reverse=True)
    d_reset_update_TxBx2F, d_n_hidden_TxBxF = jnp.split(d_recurrent_TxBx3F, [2 * d_new_TxBxF.shape[-1]], axis=-1)
    return (
        jnp.concatenate([d_reset_update_TxBx2F, d_new_TxBxF], axis=-1),
        d_carry,
        _weight_gradient(first_BxF, hidden_TxBxF, d_recurrent_TxBx3F),
        d_n_hidden_TxBxF.sum((0, 1)),
    )


gru_scan.defvjp(_gru_forward, _gru_backward)


def _weight_gradient(first_BxF: Array, hidden_TxBxF: Array, d_gates_TxBxG: Array) -> Array:
    """The recurrent weights' gradient, FxG, from the hidden state before the first step and after each."""
    before_TxBxF = jnp.concatenate([first_BxF[None], hidden_TxBxF[:-1]])
    return jnp.einsum("tbf,tbg->fg", before_TxBxF, d_gates_TxBxG)


def _forget_bias_one(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
    """One for the forget gate (Jozefowicz et al. 2015), zero for the others; our choice."""
    features = shape[0] // 4
    return jnp.zeros(shape, dtype).at[features : 2 * features].set(1)


def _orthogonal_per_gate(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """One orthogonal matrix per gate; our choice."""
    features, gates = shape[0], shape[1] // shape[0]
    orthogonal = nn.initializers.orthogonal()
    return jnp.concatenate([orthogonal(k, (features, features), dtype) for k in jax.random.split(key, gates)], axis=1)


class Recurrent(nn.Module):
    """Layers of LSTM or GRU. It always computes in float32, since errors would add up over time.

    Attributes:
        config: Kind and size.
    """

    config: RecurrentConfig

    @nn.compact
    def __call__(self, inputs_BxTxD: Float[Array, "B T D"], carry: Carry) -> tuple[Float[Array, "B T F"], Carry]:
        """Run over T frames.

        Args:
            inputs_BxTxD: Input of each frame.
            carry: State left by the frames before, `initial_carry` at the beginning.

        Returns:
            Hidden states of the last layer BxTxF, float32, and the carry to go on with.
        """
        config = self.config
        frames_TxBxF = inputs_BxTxD.astype(jnp.float32).swapaxes(0, 1)
        carry_out = []
        for i in range(config.layers):
            gates = (4 if config.kind == "lstm" else 3) * config.features
            bias_init = _forget_bias_one if config.kind == "lstm" else nn.initializers.zeros
            projected = nn.Dense(gates, bias_init=bias_init, name=f"input_{i}")(frames_TxBxF)
            recurrent = self.param(f"recurrent_{i}", _orthogonal_per_gate, (config.features, gates), jnp.float32)
            if config.kind == "lstm":
                frames_TxBxF, state = lstm_scan(projected, carry[i], recurrent)
            else:
                new_bias = self.param(f"new_bias_{i}", nn.initializers.zeros, (config.features,), jnp.float32)
                frames_TxBxF, state = gru_scan(projected, carry[i], recurrent, new_bias)
            carry_out.append(state)
        return frames_TxBxF.swapaxes(0, 1), tuple(carry_out)
