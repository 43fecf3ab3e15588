"""LSTM and GRU as plain scans over explicit parameters, with an explicit carry for streaming.

Gates stand in torch's order and follow torch's formulas, so weights can be exchanged as they are
(transposed).
"""

from dataclasses import dataclass
from typing import Literal

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


def lstm_scan(
    projected_TxBx4F: Float[Array, "T B G"],
    carry: tuple[Float[Array, "B F"], ...],
    recurrent_Fx4F: Float[Array, "F G"],
) -> tuple[Float[Array, "T B F"], tuple[Float[Array, "B F"], ...]]:
    """Run an LSTM over time.

    Args:
        projected_TxBx4F: Inputs times their weights plus bias, gates in the order input, forget, cell,
            output.
        carry: Hidden and cell state before the first step.
        recurrent_Fx4F: Weights on the hidden state.

    Returns:
        Hidden states TxBxF and the carry after the last step.
    """

    def step(carry: tuple[Array, ...], projected_Bx4F: Array) -> tuple[tuple[Array, ...], Array]:
        hidden, cell = carry
        i, f, g, o = jnp.split(projected_Bx4F + hidden @ recurrent_Fx4F, 4, axis=-1)
        cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
        hidden = nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    carry, hidden_TxBxF = jax.lax.scan(step, carry, projected_TxBx4F)
    return hidden_TxBxF, carry


def gru_scan(
    projected_TxBx3F: Float[Array, "T B G"],
    carry: tuple[Float[Array, "B F"], ...],
    recurrent_Fx3F: Float[Array, "F G"],
    new_bias_F: Float[Array, " F"],
) -> tuple[Float[Array, "T B F"], tuple[Float[Array, "B F"], ...]]:
    """Run a GRU over time; the reset gate acts after the matrix product, as in torch and cuDNN.

    Args:
        projected_TxBx3F: Inputs times their weights plus bias, gates in the order reset, update, new.
        carry: Hidden state before the first step.
        recurrent_Fx3F: Weights on the hidden state.
        new_bias_F: Bias that the reset gate scales together with the hidden state's share of the new gate.

    Returns:
        Hidden states TxBxF and the carry after the last step.
    """

    def step(carry: tuple[Array, ...], projected_Bx3F: Array) -> tuple[tuple[Array, ...], Array]:
        (hidden,) = carry
        r, z, n = jnp.split(projected_Bx3F, 3, axis=-1)
        r_hidden, z_hidden, n_hidden = jnp.split(hidden @ recurrent_Fx3F, 3, axis=-1)
        r, z = nn.sigmoid(r + r_hidden), nn.sigmoid(z + z_hidden)
        n = jnp.tanh(n + r * (n_hidden + new_bias_F))
        hidden = (1 - z) * n + z * hidden
        return (hidden,), hidden

    carry, hidden_TxBxF = jax.lax.scan(step, carry, projected_TxBx3F)
    return hidden_TxBxF, carry


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
