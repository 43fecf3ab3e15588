"""Frames and sound as they come, predictions as soon as they can be had."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from avemo.labels import DIMENSIONS, SAMPLES_PER_FRAME
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.fusion import FusionNetwork, initial_carry
from avemo.stages.fusion import MODALITIES
from avemo.streaming import FramePredictions, face_alone, face_step, fused_step, still_step
from data_pipelines.faces import CropConfig, align_by_landmarks
from data_pipelines.sound import VOICE_FRAMES, voiced_frames
from launch.errors import LaunchError
from launch.mesh import MeshShape, compiler_options, device_mesh
from launch.runs import RUN_FILE, read_record
from launch.train import load_face_network
from launch.train_fusion import Fusion, load_fitted, load_fusion

Picture = TypeVar("Picture")

LONGEST_WAIT_FRAMES = 250
"""Where pictures or sound are so far behind the other (10 s; our choice), they are missing and not waited for."""


@dataclass(frozen=True, eq=False)
class StreamModel:
    """Trained networks, ready for streams.

    Attributes:
        face: the face network.
        fusion: the network that goes on from there, with the sound; None for a face network alone.
        variables: theirs, in the same order, on the device.
        crop: how faces are cut out of pictures.
        rates: whether it tells valence and arousal; a face network may have learned expressions alone.
        spread_factor: what the fusion's spread is multiplied by, of each dimension.
        uses: whether the fusion has learned from faces, and from sound.
        synthetic: names of the synthetic corpora that they have learned from.
    """

    face: FaceNetwork
    fusion: FusionNetwork | None
    variables: tuple[Any, ...]
    crop: CropConfig
    rates: bool = True
    spread_factor: tuple[float, ...] = (1.0,) * len(DIMENSIONS)
    uses: tuple[bool, bool] = (True, True)
    synthetic: tuple[str, ...] = ()

    @classmethod
    def of_face(cls, config: FaceConfig, variables: Any, crop: CropConfig, rates: bool) -> "StreamModel":
        """A face network alone."""
        return cls(FaceNetwork(config), None, (_on_device(variables),), crop, rates)

    @classmethod
    def of_fusion(cls, trained: Fusion, crop: CropConfig, spread_factor: tuple[float, ...]) -> "StreamModel":
        """A fusion network over its face network."""
        networks = FaceNetwork(trained.face_config), FusionNetwork(trained.config.network)
        variables = trained.face_variables, {"params": trained.variables["params"]}
        uses = MODALITIES[trained.config.modalities]
        return cls(*networks, _on_device(variables), crop, True, spread_factor, uses)

    @property
    def image_size(self) -> int:
        """Side in pixels of what the network looks at, the middle of a crop."""
        return self.face.config.image_size

    @property
    def hears(self) -> bool:
        """Whether it has a use for sound."""
        return self.fusion is not None and self.uses[1]

    def initial_carry(self) -> Any:
        """What the first step of a stream is given."""
        return () if self.fusion is None else _on_device(initial_carry(self.fusion.config, 1))

    @cached_property
    def step(self) -> Callable[..., Any]:
        """`avemo.streaming`'s step, compiled once for all streams that are fed with as many frames at a time."""
        options = compiler_options(jax.devices()[0])
        if self.fusion is None:
            step = lambda variables, *signals: face_step(self.face, *variables, *signals)
            return jax.jit(step, compiler_options=options)
        return jax.jit(partial(fused_step, (self.face, self.fusion), self.uses), compiler_options=options)

    @cached_property
    def still(self) -> Callable[..., Any]:
        """What it says of pictures, compiled: variables and faces uint8 B×S×S×3 to predictions of one frame."""
        if self.fusion is None:
            there = jnp.ones((1, 1), bool)
            step: Callable[..., Any] = lambda variables, faces: face_alone(
                self.face, variables[0], faces[:, None], there
            )
        else:
            step = partial(still_step, (self.face, self.fusion), self.uses)
        return jax.jit(step, compiler_options=compiler_options(jax.devices()[0]))

    def cut(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """A face as the network wants it, uint8 RGB S×S×3, out of a picture uint8 RGB H×W×3."""
        cut = align_by_landmarks(image, landmarks, self.crop)
        start = (len(cut) - self.image_size) // 2
        return cut[start : start + self.image_size, start : start + self.image_size]


def _on_device(tree: Any) -> Any:
    """On the one device that predicts. What lies there in another sharding is compiled for anew, in mid-stream."""
    return jax.device_put(tree, jax.devices()[0])


def load_model(run: Path) -> StreamModel:
    """The networks of a finished run, of whatever stage.

    Raises:
        LaunchError: the run isn't finished, can't be read, or doesn't say how its faces were cut.
    """
    mesh = device_mesh(MeshShape(), jax.devices()[:1])
    record = read_record(run)
    if not record.crop:
        raise LaunchError(f"{run / RUN_FILE} doesn't say how faces were cut, an earlier version wrote it: train anew")
    crop = CropConfig(**record.crop)
    if record.stage != "fusion":
        model = StreamModel.of_face(*load_face_network(run, mesh), crop, record.rates)
    else:
        factors = load_fitted(run).spread_factor
        model = StreamModel.of_fusion(load_fusion(run, mesh), crop, tuple(factors[name] for name in DIMENSIONS))
    return replace(model, synthetic=record.synthetic)


class Frames(NamedTuple):
    """What is predicted of successive frames.

    Attributes:
        face_valid: bool (T,): whether there was a face.
        voice_valid: bool (T,): whether there was sound, see `sound.voiced_frames`.
        expression: float32 (T, 8): probabilities in the order of `avemo.labels.EXPRESSIONS`; NaN without a face.
        valence_arousal: float32 (T, 2): in [-1, 1]; NaN where the model doesn't tell.
        spread: float32 (T, 2): half the width of the band that holds the nominal share of raters; NaN as above.
    """

    face_valid: np.ndarray
    voice_valid: np.ndarray
    expression: np.ndarray
    valence_arousal: np.ndarray
    spread: np.ndarray


class FramePairs(Generic[Picture]):
    """Lays pictures and sound side by side: a frame is given out once its picture and its sound have come.

    What is more than `LONGEST_WAIT_FRAMES` behind is not waited for: there is None for its picture, silence for its
    sound, and when it comes after all, it is left out. So memory stays constant when one of the two ends early. A
    stream with pictures ends with the last of them, unless its sound goes on for longer than that.
    """

    def __init__(self, has_video: bool, has_sound: bool) -> None:
        """Begin with the first frame.

        Args:
            has_video: Whether there are pictures to wait for.
            has_sound: Whether there is sound to wait for.

        Raises:
            ValueError: There is neither to wait for.
        """
        if not has_video and not has_sound:
            raise ValueError("a stream needs pictures or sound")
        self._has = has_video, has_sound
        self._pictures: deque[Picture | None] = deque()
        self._sound = np.zeros(0, np.float32)
        self._late_pictures = self._late_samples = 0
        self._seen = False

    def take(self, pictures: Iterable[Picture | None] = (), sound: np.ndarray | None = None) -> None:
        """Take what has come since: pictures, and samples, float32 at 16 kHz.

        Raises:
            ValueError: Pictures or sound come where none were to come.
        """
        for picture in pictures:
            self._seen = True
            if self._late_pictures:
                self._late_pictures -= 1
            else:
                self._pictures.append(picture)
        if sound is not None:
            late = min(self._late_samples, len(sound))
            self._late_samples -= late
            self._sound = np.concatenate([self._sound, sound[late:].astype(np.float32)])
        if (self._pictures and not self._has[0]) or (len(self._sound) and not self._has[1]):
            raise ValueError("pictures or sound came for a stream that has none")

    def ready(self) -> int:
        """How many frames can be given out."""
        counts = len(self._pictures), len(self._sound) // SAMPLES_PER_FRAME
        awaited = [count for count, has in zip(counts, self._has, strict=True) if has]
        return max(min(awaited), max(awaited) - LONGEST_WAIT_FRAMES)

    def left(self) -> int:
        """How many frames there are when nothing more comes: pictures, or where those are missing, frames of sound."""
        missing = not self._seen or self._late_pictures > 0
        return len(self._sound) // SAMPLES_PER_FRAME if missing else len(self._pictures)

    def give(self, count: int) -> tuple[list[Picture | None], np.ndarray]:
        """The oldest frames: pictures, and float32 (640 · count); they are not kept any longer."""
        here = min(count, len(self._pictures))
        pictures = [self._pictures.popleft() for _ in range(here)] + [None] * (count - here)
        samples, self._sound = np.split(self._sound, [count * SAMPLES_PER_FRAME])
        missing = count * SAMPLES_PER_FRAME - len(samples)
        self._late_pictures += (count - here) * self._has[0]
        self._late_samples += missing * self._has[1]
        return pictures, np.pad(samples, (0, missing))


class StreamingPredictor:
    """Predicts one stream frame by frame, from faces and sound that are fed in chunks of any size.

    A frame is predicted as soon as its picture and its sound have come. Memory stays constant, and nothing is compiled
    after the first step, since all steps have the same number of frames.
    """

    def __init__(
        self, model: StreamModel, step_frames: int = 1, has_video: bool = True, has_sound: bool = True
    ) -> None:
        """Begin a stream.

        Args:
            model: The networks.
            step_frames: Frames in a step: 1 answers at once, more are faster in all.
            has_video: Whether there are pictures to wait for.
            has_sound: Whether there is sound to wait for.

        Raises:
            ValueError: There is neither to wait for.
        """
        self.model, self.step_frames = model, step_frames
        self._pairs: FramePairs[np.ndarray] = FramePairs(has_video, has_sound)
        self._carry = model.initial_carry()
        self._silent_frames = VOICE_FRAMES
        self._no_face = np.zeros((model.image_size, model.image_size, 3), np.uint8)

    def feed(self, faces: Iterable[np.ndarray | None] = (), sound: np.ndarray | None = None) -> list[Frames]:
        """Take what has come since, and predict what can be predicted.

        Args:
            faces: The next frames' face crops, uint8 RGB S×S×3 (see `StreamModel.cut`); None where there is no face.
            sound: The next samples, float32 in [-1, 1] at 16 kHz.

        Returns:
            Predictions of successive steps of `step_frames` frames each.

        Raises:
            ValueError: A crop has another size than the network's, or comes where no pictures were to come.
        """
        faces = list(faces)
        for face in faces:
            if face is not None and face.shape != self._no_face.shape:
                raise ValueError(f"a face crop is {face.shape}; expected {self._no_face.shape}")
        self._pairs.take(faces, sound)
        return [self._predict(self.step_frames) for _ in range(self._pairs.ready() // self.step_frames)]

    def finish(self) -> list[Frames]:
        """Predict the frames that are left at the end, see `FramePairs.left`."""
        predictions = []
        while left := self._pairs.left():
            predictions.append(self._predict(min(left, self.step_frames)))
        return predictions

    def _predict(self, count: int) -> Frames:
        """The next frames, filled up to a whole step with nothing."""
        model, more = self.model, self.step_frames - count
        faces, sound = self._pairs.give(count)
        pictures = np.stack([self._no_face if face is None else face for face in faces] + [self._no_face] * more)
        face_valid = np.array([face is not None for face in faces] + [False] * more)
        samples = np.pad(sound, (0, more * SAMPLES_PER_FRAME))
        voice_valid, self._silent_frames = voiced_frames(samples, self._silent_frames)
        self._carry, said = model.step(
            model.variables, self._carry, *(part[None] for part in (pictures, face_valid, samples, voice_valid))
        )
        return Frames(*(part[:count] for part in (face_valid, voice_valid, *_told(model, said))))


def look_at(model: StreamModel, face: np.ndarray) -> Frames:
    """Predict the face of a picture, uint8 RGB S×S×3 (see `StreamModel.cut`): one frame."""
    return Frames(np.ones(1, bool), np.zeros(1, bool), *_told(model, model.still(model.variables, face[None])))


def _told(model: StreamModel, said: FramePredictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Frames` tell of the only stream, out of what the networks said of it."""
    expression, valence_arousal, spread = (np.asarray(part)[0] for part in said)
    if not model.rates:
        valence_arousal = np.full_like(valence_arousal, np.nan)
    return expression, valence_arousal, spread * np.array(model.spread_factor, np.float32)
