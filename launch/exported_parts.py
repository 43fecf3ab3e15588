"""What is exported of trained networks: pure steps from named arrays to named arrays, without any nesting.

So a program in any language can feed one call's outputs to the next: what a step gives as `next_x`, the step that
follows takes as `x`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from avemo.labels import DIMENSIONS, EXPRESSIONS
from avemo.log_mel import log_mel
from avemo.models.audio import AudioEncoder
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.fusion import FusionCarry, FusionConfig, FusionNetwork, initial_carry
from avemo.stages.fusion import MODALITIES
from launch.train_fusion import FittedOnDev, Fusion

ExportDType = Literal["float32", "float16"]
"""What kernels are stored, and convolutions and most products computed in.

Where float16 isn't safe it stays float32: what comes in and goes out, state, spectrogram, normalisation, biases,
recurrence and softmax.
"""

Arrays = dict[str, Any]

STATE, NEXT = "state_", "next_"
"""How the names of a stream's state begin, and those of the state that follows."""


@dataclass(frozen=True)
class Port:
    """An array that a step takes or gives.

    Attributes:
        shape: Its sizes; "batch" and "frames" are free.
        dtype: Its numbers.
        meaning: What they are, with range and unit.
    """

    shape: tuple[Any, ...]
    dtype: str
    meaning: str


@dataclass(frozen=True)
class Part:
    """A step that becomes a file.

    Attributes:
        name: Of the file, without its ending.
        inputs: What it takes, by name.
        outputs: What it gives, by name.
        step: The pure function.
    """

    name: str
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    step: Callable[[Arrays], Arrays]

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Those of the inputs, as JAX traces them."""
        batch, frames = jax.export.symbolic_shape("batch, frames")
        free: dict[Any, Any] = {"batch": batch, "frames": frames}
        return {
            name: jax.ShapeDtypeStruct([free.get(size, size) for size in port.shape], port.dtype)
            for name, port in self.inputs.items()
        }


def stored(variables: Any, dtype: ExportDType) -> Any:
    """Variables as they are exported: kernels in the given dtype, all else in float32."""
    in_dtype = lambda path, leaf: jnp.asarray(np.asarray(leaf), dtype if path[-1].key == "kernel" else None)
    return jax.tree_util.tree_map_with_path(in_dtype, variables)


def face_part(config: FaceConfig, variables: Any, dtype: ExportDType) -> Part:
    """The face network: faces to expressions, valence and arousal, and embeddings."""
    network, variables = FaceNetwork(config, dtype), stored(variables, dtype)

    def step(inputs: Arrays) -> Arrays:
        outputs: Any = network.apply(variables, inputs["images"], train=False)
        rest = {name: outputs[name] for name in ("valence_arousal", "embedding", "triplet")}
        return {"expression": jax.nn.softmax(outputs["expression"]), **rest}

    side = config.image_size
    return Part(
        "face",
        {"images": Port(("batch", side, side, 3), "uint8", "faces, rows of pixels from the top, RGB, 0 … 255")},
        {
            "expression": Port(("batch", len(EXPRESSIONS)), "float32", f"probabilities of {', '.join(EXPRESSIONS)}"),
            "valence_arousal": Port(("batch", len(DIMENSIONS)), "float32", "valence, arousal, each in [-1, 1]"),
            "embedding": Port(("batch", config.embedding_size), "float32", "what the fusion takes"),
            "triplet": Port(
                ("batch", config.triplet_size), "float32", "unit vectors: the nearer two are, the more alike the faces"
            ),
        },
        step,
    )


def audio_part(trained: Fusion, dtype: ExportDType) -> Part:
    """The audio encoder: sound to a vector per frame."""
    config = trained.config.network
    encoder = AudioEncoder(config.audio, dtype)
    params = stored(trained.variables["params"]["audio"], dtype)
    state = {name: port for name, port in state_ports(config).items() if "recurrent" not in name}

    def step(inputs: Arrays) -> Arrays:
        sound, before = joined(inputs["waveform"]), carry_of(config, inputs)
        bands = log_mel(sound, config.log_mel, before.sound)
        heard: Any = encoder.apply({"params": params}, bands, before.audio)
        last_sound = jnp.concatenate([before.sound, sound], axis=1)[:, sound.shape[1] :]
        after = named_state(FusionCarry(last_sound, heard[1], before.recurrent))
        return {"audio": heard[0].astype(jnp.float32)} | {NEXT + name: after[name] for name in state}

    vectors = Port(("batch", "frames", config.audio.features), "float32", "a vector of each frame's sound")
    return Part("audio", waveform_port(config) | state, {"audio": vectors} | after_ports(state), step)


def fusion_part(trained: Fusion, fitted: FittedOnDev, dtype: ExportDType) -> Part:
    """The streaming step: face embeddings and sound of some frames to their valence and arousal."""
    config = trained.config.network
    network, params = FusionNetwork(config, dtype), stored(trained.variables["params"], dtype)
    factor_D = jnp.array([fitted.spread_factor[name] for name in DIMENSIONS], jnp.float32)
    face, voice = MODALITIES[trained.config.modalities]
    state = state_ports(config)

    def step(inputs: Arrays) -> Arrays:
        outputs: Any = network.apply(
            {"params": params},
            *(inputs["face"], inputs["face_valid"] & face),
            *(joined(inputs["waveform"]), inputs["voice_valid"] & voice),
            train=False,
            carry=carry_of(config, inputs),
        )
        found = {"valence_arousal": outputs["valence_arousal"], "band": factor_D * outputs["spread"]}
        return found | {NEXT + name: value for name, value in named_state(outputs["carry"]).items()}

    frames = ("batch", "frames")
    inputs = {
        "face": Port((*frames, config.face_size), "float32", "the face file's embedding; anything where no face is"),
        "face_valid": Port(frames, "bool", "false where no face was found"),
        "voice_valid": Port(frames, "bool", "false where nothing was heard in a frame and the 2 s before it"),
    }
    outputs = {
        "valence_arousal": Port((*frames, len(DIMENSIONS)), "float32", "valence, arousal, each in [-1, 1]"),
        "band": Port(
            (*frames, len(DIMENSIONS)),
            "float32",
            f"half width of the band around them that held {fitted.nominal_coverage:.0%} of the raters' values on the "
            "development recordings",
        ),
    }
    return Part("fusion", inputs | waveform_port(config) | state, outputs | after_ports(state), step)


def waveform_port(config: FusionConfig) -> dict[str, Port]:
    """Sound by frames: so its length is always a whole number of them."""
    samples, rate = config.samples_per_frame, config.log_mel.sample_rate_hz
    return {
        "waveform": Port(
            ("batch", "frames", samples), "float32", f"mono sound in [-1, 1] at {rate} Hz, zeros where there is none"
        )
    }


def joined(waveform_BxTxS: jax.Array) -> jax.Array:
    """The samples of all frames in a row, B×N."""
    return waveform_BxTxS.reshape(waveform_BxTxS.shape[0], -1)


def state_ports(config: FusionConfig) -> dict[str, Port]:
    """The state of a stream; at its beginning all of it is zero."""
    meaning = "zeros at the beginning, then what the call before gave as next_"
    return {
        name: Port(("batch", *leaf.shape[1:]), str(leaf.dtype), meaning + name)
        for name, leaf in named_state(jax.eval_shape(lambda: initial_carry(config, 1))).items()
    }


def after_ports(state: dict[str, Port]) -> dict[str, Port]:
    """The same, as a step gives it."""
    return {NEXT + name: Port(port.shape, port.dtype, f"{name} of the next call") for name, port in state.items()}


def named_state(carry: FusionCarry) -> Arrays:
    """The arrays of a carry by name."""
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    return {STATE + jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in leaves}


def carry_of(config: FusionConfig, inputs: Arrays) -> FusionCarry:
    """The carry of named arrays; what isn't among them is zero."""
    zero = initial_carry(config, 1)
    leaves = [inputs.get(name, leaf) for name, leaf in named_state(zero).items()]
    return jax.tree.unflatten(jax.tree.structure(zero), leaves)
