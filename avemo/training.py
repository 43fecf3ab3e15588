"""What every stage's training step shares: the state, the optimiser, and random streams.

No key lives in the state: every random number follows from the seed, the name of its stream and the step, so that a
resumed run draws exactly what an uninterrupted one would have drawn.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, Key

Batch = Mapping[str, Any]
"""A pytree of arrays whose first axis is the batch."""


@struct.dataclass
class TrainState:
    """All that training changes; everything else is static.

    Attributes:
        step: number of updates done, int32 scalar.
        params: float32 parameters of the network.
        aids: float32 parameters that only the training needs, such as a student's projections towards its teachers.
        averages: moving averages of "params" and "batch_stats", where they are wanted.
        carry: what a recurrent network keeps in mind from batch to batch, where it does; the first axis is the batch.
        batch_stats: float32 running statistics of BatchNorm (empty where a network has none).
        opt_state: optax's state.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    aids: Any = ()
    averages: Any = ()
    carry: Any = ()

    @property
    def trained(self) -> dict[str, Any]:
        """What the last update made, as a Linen module's `apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is to be used with, as a Linen module's `apply` takes it: the averages, if there are any."""
        return self.averages or self.trained


class Stage(NamedTuple):
    """An experiment as the training loop sees it: three pure functions.

    Attributes:
        init: key -> TrainState.
        train_step: (state, batch, *frozen) -> (state, metrics), where metrics are float32 scalars and hold "loss".
        eval_step: (variables, batch) -> a pytree of mergeable metrics (see `avemo.metrics`).
        frozen: what the training step reads and never changes, such as a teacher's variables.
    """

    init: Callable[[jax.Array], TrainState]
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[[Any, Batch], Any]
    frozen: tuple[Any, ...] = ()


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled weight decay, linear warm-up and cosine decay to zero.

    The paper says Adam; rate, schedule, decay and averaging are our choice.

    Attributes:
        learning_rate: peak rate.
        weight_decay: decoupled decay of kernels (matrices and convolutions, not biases or norms).
        warmup_steps: steps of linear rise from zero.
        clip_norm: largest global norm of the gradient.
        averaging: decay of a moving average of the network's variables, which is then what is evaluated and kept
            (Polyak & Juditsky 1992); 0 keeps the last ones. After t updates it is at most (1 + t) / (10 + t), so that
            the beginning is soon forgotten.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    clip_norm: float = 5.0
    averaging: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.averaging < 1:
            raise ValueError(f"optimizer: averaging is {self.averaging}; it must lie in [0, 1)")
        if self.learning_rate <= 0 or self.clip_norm <= 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(f"optimizer: learning_rate and clip_norm must be positive, the rest not negative: {self}")


class Optimizer(NamedTuple):
    """What `update` does with gradients.

    Attributes:
        transformation: of gradients into updates.
        averaging: see `OptimizerConfig`.
    """

    transformation: optax.GradientTransformation
    averaging: float = 0.0


def make_optimizer(config: OptimizerConfig, steps: int) -> Optimizer:
    """The optimiser for a run of `steps` updates."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, steps // 2),
        decay_steps=steps,
    )
    is_kernel = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    transformation = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_kernel),
    )
    return Optimizer(transformation, config.averaging)


def new_state(variables: Mapping[str, Any], optimizer: Optimizer, aids: Any = ()) -> TrainState:
    """The state before the first update, from a Linen module's `init`."""
    params = variables["params"]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.transformation.init((params, aids)),
        aids=aids,
    )
    averages = jax.tree.map(jnp.copy, state.trained) if optimizer.averaging else ()
    return state.replace(averages=averages)  # type: ignore[attr-defined]


def update(state: TrainState, gradients: Any, batch_stats: Any, optimizer: Optimizer, aids: Any = ()) -> TrainState:
    """One optimiser update; `aids` are the gradients of the state's."""
    trained = (state.params, state.aids)
    updates, opt_state = optimizer.transformation.update((gradients, aids), state.opt_state, trained)
    params, aids = optax.apply_updates(trained, updates)
    after = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, aids=aids)
    if not optimizer.averaging:
        return after
    decay = jnp.minimum(optimizer.averaging, (1 + after.step) / (10 + after.step))
    averages = optax.incremental_update(after.trained, state.averages, 1 - decay)
    return after.replace(averages=averages)  # type: ignore[attr-defined]


def in_pieces(apply: Callable[[Any, Any], tuple[Any, Any]], batch: Any, pieces: int) -> tuple[Any, Any]:
    """A network over a batch, one piece of it after the other: gradient accumulation, where memory is short.

    Only the network is taken in pieces. Its outputs are put together again, so that whatever loss follows is that of
    the whole batch: masked means count each label alike, however the labels fall on the pieces, and a CCC pools all
    windows. Gradients through this function add up over the pieces; each piece is computed once more on the way back
    instead of being kept (`jax.checkpoint`), which costs a third more arithmetic.

    Outputs and gradients are exactly those of the whole batch where rows don't influence each other. BatchNorm in
    training lets them: its statistics become those of a piece, as with a smaller batch.

    Row i belongs to piece i mod `pieces`, so that each piece lies on all devices as the batch does.

    Args:
        apply: (piece, number of the piece) -> (outputs, extras); the outputs' arrays have the piece's rows.
        batch: A pytree of arrays whose first axis is the batch.
        pieces: How many; they must divide the batch. One piece is plain `apply(batch, 0)`.

    Returns:
        The outputs of all rows in the batch's order, and the mean of the extras over the pieces.
    """
    if pieces == 1:
        return apply(batch, 0)
    split = lambda leaf: leaf.reshape(-1, pieces, *leaf.shape[1:]).swapaxes(0, 1)
    join = lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
    numbered = (jax.tree.map(split, batch), jnp.arange(pieces))
    outputs, extras = jax.lax.map(jax.checkpoint(lambda piece: apply(*piece), prevent_cse=False), numbered)
    return jax.tree.map(join, outputs), jax.tree.map(lambda leaf: leaf.mean(0), extras)


def step_metrics(loss: jax.Array, gradients: Any) -> dict[str, jax.Array]:
    """What every training step reports: "loss" and "gradient_norm", the global norm before clipping."""
    return {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}


def stream_key(seed: int, stream: str, step: Int[Array, ""] | int = 0) -> Key[Array, ""]:
    """The random key of a named stream at a step."""
    stream_id = zlib.crc32(stream.encode()) & 0x7FFFFFFF
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream_id), step)
