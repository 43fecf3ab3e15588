"""Predictions of whatever can be seen or heard: faces are followed, cut out, and predicted together with the sound."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from avemo.labels import FRAME_RATE_HZ, SAMPLES_PER_FRAME
from avemo.stages.fusion import MODALITIES, Modalities
from data_pipelines.errors import DataError
from data_pipelines.face_follower import FaceFollower, FollowedFace
from data_pipelines.faces import FaceFinder, face_box
from data_pipelines.video import Contents, Played
from launch.latency import Latency
from launch.streaming import FramePairs, Frames, StreamingPredictor, StreamModel, look_at

Item = TypeVar("Item")

_LOOK_UP_EVERY_S = 0.1
"""Whoever waits for another thread looks so often whether it's in vain."""


@dataclass(frozen=True, eq=False)
class FaceTrace:
    """What is predicted of one face in successive frames, at 25 Hz.

    Attributes:
        face: its number, from 0 on.
        first_frame: the number of the first of the T frames; frame k is k / 25 s after the beginning.
        box: float32 (T, 4), left, top, right, bottom in pixels of the upright picture; NaN where there is no face.
        face_valid: as all that follows, see `streaming.Frames`.
        voice_valid: bool (T,).
        expression: float32 (T, 8).
        valence_arousal: float32 (T, 2).
        spread: float32 (T, 2).
    """

    face: int
    first_frame: int
    box: np.ndarray
    face_valid: np.ndarray
    voice_valid: np.ndarray
    expression: np.ndarray
    valence_arousal: np.ndarray
    spread: np.ndarray

    def __len__(self) -> int:
        return len(self.box)

    @property
    def time_s(self) -> np.ndarray:
        """When each frame is shown: float64 (T,)."""
        return (self.first_frame + np.arange(len(self))) / FRAME_RATE_HZ


def joined(parts: Iterable[FaceTrace]) -> list[FaceTrace]:
    """One trace for each face, out of successive parts."""
    by_face: dict[int, list[FaceTrace]] = {}
    for part in parts:
        by_face.setdefault(part.face, []).append(part)
    arrays = [each.name for each in fields(FaceTrace) if each.name not in ("face", "first_frame")]
    together = lambda parts, name: np.concatenate([getattr(part, name) for part in parts])
    return [
        FaceTrace(face, parts[0].first_frame, *(together(parts, name) for name in arrays))
        for face, parts in sorted(by_face.items())
    ]


class _Subject:
    """A face that is predicted: its stream, and where it was in frames that haven't been predicted yet."""

    def __init__(self, model: StreamModel, number: int, first_frame: int, step_frames: int) -> None:
        self._number, self._next = number, first_frame
        self._predictor = StreamingPredictor(model, step_frames)
        self._boxes: deque[tuple[float, ...]] = deque()

    def feed(self, face: tuple[FollowedFace, np.ndarray] | None, sound: np.ndarray) -> Iterator[FaceTrace]:
        """Take the next frame: where the face is, its crop, and the frame's sound."""
        self._boxes.append((np.nan,) * 4 if face is None else face_box(face[0].landmarks))
        yield from map(self._trace, self._predictor.feed([None if face is None else face[1]], sound))

    def finish(self) -> Iterator[FaceTrace]:
        """What is left when the face has gone, or the stream has ended."""
        yield from map(self._trace, self._predictor.finish())

    def _trace(self, frames: Frames) -> FaceTrace:
        count = len(frames.face_valid)
        box = np.array([self._boxes.popleft() for _ in range(count)], np.float32)
        self._next += count
        return FaceTrace(self._number, self._next - count, box, *frames)


def usable(model: StreamModel, contents: Contents, modalities: Modalities, source: Path | str) -> tuple[bool, bool]:
    """Whether pictures, and whether sound, are there and are to be used. Raises DataError where nothing can be told."""
    face, voice = MODALITIES[modalities]
    has_pictures, has_sound = (contents.video or contents.picture) and face, contents.sound and voice and model.hears
    if not (has_pictures and model.uses[0]) and not has_sound:
        seen = contents.video or contents.picture
        there = " and ".join(["pictures"] * seen + ["sound"] * contents.sound) or "neither pictures nor sound"
        there += ", and sound without a decoder" * contents.undecodable_sound
        raise DataError(f"{source}: has {there}; this model and --modalities {modalities} want something else")
    return has_pictures, has_sound


def predict_stream(
    model: StreamModel,
    played: Iterable[Played],
    has_video: bool,
    has_sound: bool,
    faces: int = 1,
    step_frames: int = FRAME_RATE_HZ,
    latency: Latency | None = None,
) -> Iterator[FaceTrace]:
    """Predict pictures and sound as they are played, in constant memory.

    With one face there is one trace from the first frame to the last, of the largest face at first, then of the one
    that is followed; where there is none, the sound alone is told from. With several, every face has a trace from
    where it appears to where it is lost, all with the same sound, whoever speaks; and nothing is said of frames
    without a face.

    Args:
        model: The networks.
        played: Pictures and sound, see `data_pipelines.video.play`.
        has_video: Whether there are pictures.
        has_sound: Whether there is sound.
        faces: How many faces are followed at most.
        step_frames: How many frames are predicted at a time; no influence on the result.
        latency: Is told how long each part takes.

    Yields:
        Parts of the traces, as soon as they are predicted.

    Raises:
        DataError: What is played breaks off; all before that is predicted.
    """
    latency = latency or Latency()
    follower = FaceFollower(faces) if has_video else None
    pairs: FramePairs[list[tuple[FollowedFace, np.ndarray]]] = FramePairs(has_video, has_sound)
    subjects: dict[int, _Subject] = {}
    if faces == 1:
        subjects[0] = _Subject(model, 0, 0, step_frames)
    number = 0

    def predict(count: int) -> Iterator[FaceTrace]:
        nonlocal number
        seen, sound = pairs.give(count)
        for found, samples in zip(seen, sound.reshape(count, SAMPLES_PER_FRAME), strict=True):
            there = {0 if faces == 1 else face.number: (face, crop) for face, crop in found or []}
            if faces > 1:
                for gone in [face for face in subjects if face not in there]:
                    yield from subjects.pop(gone).finish()
                for new in [face for face in there if face not in subjects]:
                    subjects[new] = _Subject(model, new, number, step_frames)
            with latency.part("networks", step_frames):
                traces = [trace for face, each in subjects.items() for trace in each.feed(there.get(face), samples)]
            yield from traces
            number += 1

    broken = None
    try:
        for kind, part in played:
            if kind == "picture" and follower is not None:
                with latency.part("find the face"):
                    found = follower.follow(part)
                with latency.part("cut it out"):
                    pairs.take([[(face, model.cut(part, face.landmarks)) for face in found]])
            elif kind == "sound":
                pairs.take(sound=part)
            yield from predict(pairs.ready())
    except DataError as error:  # what has come until then is predicted all the same
        broken = error
    yield from predict(pairs.left())
    for subject in subjects.values():
        yield from subject.finish()
    if broken is not None:
        raise broken


def predict_picture(model: StreamModel, image: np.ndarray, faces: int = 1) -> list[FaceTrace]:
    """Predict the faces of a single picture, the largest first: a trace of one frame each.

    Args:
        model: The networks.
        image: uint8 RGB, H×W×3.
        faces: How many faces at most.
    """
    traces = []
    for number, face in enumerate(_face_finder().find(image)[:faces]):
        box = np.array([face_box(face.landmarks)], np.float32)
        traces.append(FaceTrace(number, 0, box, *look_at(model, model.cut(image, face.landmarks))))
    return traces


@cache
def _face_finder() -> FaceFinder:
    """Its networks are read once, not for every picture."""
    return FaceFinder()


def ahead(*sources: Iterable[Item], most: int, enough: Callable[[], bool] = lambda: False) -> Iterator[Item]:
    """The items of all sources as they come, each source's made by a thread of its own; at most so many wait.

    They end when the first source does, or as soon as `enough` says so, even where the next one is long in coming.
    """
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(most)
    stopped = threading.Event()

    def put(kind: str, what: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, what), timeout=_LOOK_UP_EVERY_S)
            except queue.Full:
                continue
            return True
        return False

    def make(source: Iterable[Item], is_first: bool) -> None:
        try:
            for item in source:
                if not put("item", item):
                    return
        except BaseException as error:  # it is raised again where the items are used
            put("error", error)
        else:
            if is_first:
                put("end", None)

    threads = [threading.Thread(target=make, args=(each, n == 0), daemon=True) for n, each in enumerate(sources)]
    for thread in threads:
        thread.start()
    try:
        while not enough():
            try:
                kind, what = waiting.get(timeout=_LOOK_UP_EVERY_S)
            except queue.Empty:
                continue
            if isinstance(what, BaseException) and kind == "error":
                raise what
            if kind == "end":
                return
            yield what  # type: ignore[misc]  # an item, of whatever type
    finally:
        stopped.set()
        for thread in threads:  # a camera that says nothing isn't waited for
            thread.join(_LOOK_UP_EVERY_S if enough() or len(threads) > 1 else None)
