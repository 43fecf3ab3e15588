"""`avemo predict --live`: a stream predicted as it comes, and where the time goes."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avemo.labels import EXPRESSIONS, FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from avemo.log_mel import log_mel
from avemo.models.audio import AudioEncoder
from avemo.stages.fusion import Modalities
from avemo.streaming import see
from data_pipelines import video
from data_pipelines.errors import DataError
from data_pipelines.video import Played
from launch.errors import LaunchError
from launch.frame_files import FILE_NAMES, columns_of, growing_csv_file
from launch.interruption import Interruption
from launch.latency import Latency
from launch.mesh import compiler_options
from launch.prediction import FaceTrace, ahead, predict_stream, usable
from launch.speed import median_s
from launch.streaming import LONGEST_WAIT_FRAMES, StreamingPredictor, StreamModel
from launch.tables import print_tables

LINE_EVERY_S = 1.0
"""A line is printed so often."""

_DECODED_AHEAD = 2 * FRAME_RATE_HZ
"""What a camera may be ahead of the prediction, in pictures and bits of sound, before it has to wait."""

_FRAMES_REMEMBERED = 4 * LONGEST_WAIT_FRAMES

_AGE = "from its arrival to its prediction"


def predict_live(
    model: StreamModel, sources: Sequence[str], faces: int, modalities: Modalities, out: Path | None
) -> None:
    """Predict a stream frame by frame until it ends, or until Ctrl-C or SIGTERM.

    A file is played as slowly as it would be watched. Once a second a line tells what is predicted of each face, and
    how long ago its frame came; at the end a table says where the time of a frame went.

    Args:
        model: The networks.
        sources: A file, camera or address, see `data_pipelines.video.play`; or one for the pictures, and one for the
            sound. Those are held together by when they come, and end with the pictures.
        faces: How many faces are followed at most.
        modalities: What the model may use.
        out: Folder for a file of all rows; None keeps nothing.

    Raises:
        DataError: A source can't be opened, or breaks off; rows until then are kept.
        LaunchError: There are rows in that folder already.
    """
    if out is not None and (out / FILE_NAMES["csv"]).exists():
        raise LaunchError(f"{out / FILE_NAMES['csv']} holds rows already: give another --out")
    damage: Counter[str] = Counter()
    played, has_video, has_sound = open_sources(model, sources, modalities, damage)
    latency = Latency()
    for part, seconds in time_networks(model).items():
        latency.add(part, seconds)
    # Compiled before the stream is opened, which would have to wait otherwise.
    StreamingPredictor(model).feed([None], np.zeros(SAMPLES_PER_FRAME, np.float32))
    arrivals = Arrivals()
    told_s: dict[int, float] = {}
    broken = None
    with Interruption("") as interruption, ExitStack() as files:
        write = None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write = files.enter_context(growing_csv_file(out / FILE_NAMES["csv"]))
        played[0] = arrivals.of(played[0])
        come = ahead(*played, most=_DECODED_AHEAD, enough=partial(interruption.told_by, 0))
        if len(played) > 1:
            come = from_first_picture(come)
        try:
            for trace in predict_stream(model, come, has_video, has_sound, faces, 1, latency):
                latency.add(_AGE, arrivals.age_s(trace.first_frame))
                if write is not None:
                    write(columns_of(trace))
                if trace.time_s[0] >= told_s.get(trace.face, -np.inf) + LINE_EVERY_S:
                    told_s[trace.face] = float(trace.time_s[0])
                    print(line_of(trace, latency), flush=True)
        except DataError as error:  # the rows until then are kept
            broken = error
    print_tables([latency.table()])
    for kind, count in damage.items():
        print(f"damaged packets of {kind} that were left out: {count}")
    if broken is not None:
        raise broken


def open_sources(
    model: StreamModel, sources: Sequence[str], modalities: Modalities, damage: Counter[str]
) -> tuple[list[Iterable[Played]], bool, bool]:
    """What is to be played, that with pictures first, and whether there are pictures, and sound, that are used.

    Args:
        model: The networks.
        sources: As `predict_live` has them.
        modalities: What the model may use.
        damage: Counts the packets of "video" and of "sound" that can't be decoded.
    """
    opened = [Path(source) if Path(source).is_file() else source for source in sources]
    contents = [video.look_into(source) for source in opened]
    heard = {name: getattr(contents[-1], name) for name in ("sound", "undecodable_sound")}
    has_video, has_sound = usable(model, replace(contents[0], **heard), modalities, " and ".join(sources))
    wanted = [(opened[0], has_video, has_sound)]
    if len(opened) > 1:
        wanted = [(opened[0], True, False)] * has_video + [(opened[1], False, True)] * has_sound
    played: list[Iterable[Played]] = []
    for source, pictures, sound in wanted:
        parts = video.play(source, pictures, sound, lambda kind: damage.update([kind]))
        played.append(paced(parts) if isinstance(source, Path) else parts)
    return played, has_video, has_sound


def line_of(trace: FaceTrace, latency: Latency) -> str:
    """What is told of the first frame of a part of a trace, for people."""
    expression, (valence, arousal) = trace.expression[0], trace.valence_arousal[0]
    parts = [f"{trace.time_s[0]:7.2f} s", f"face {trace.face + 1}"]
    if trace.face_valid[0]:
        parts.append(f"{EXPRESSIONS[expression.argmax()]:9s} {expression.max():4.0%}")
    else:
        parts.append(f"{'no face':14s}")
    if not np.isnan(valence):
        parts.append(f"valence {valence:+.2f}  arousal {arousal:+.2f}")
    parts.append("voice" if trace.voice_valid[0] else "     ")
    return "  ".join([*parts, f"{latency.median_ms(_AGE):.0f} ms"])


class Arrivals:
    """When the frames of a stream came: pictures, or where there are none, as much sound as makes a frame."""

    def __init__(self) -> None:
        """Begin without any."""
        self._times: deque[float] = deque()
        self._samples = self._first = 0

    def of(self, played: Iterable[Played]) -> Iterator[Played]:
        """The same, each noted when it comes."""
        pictures = False
        for kind, part in played:
            now = time.perf_counter()
            if kind == "picture":
                if not pictures:
                    self._times.clear()
                pictures = True
                self._times.append(now)
            elif not pictures:
                whole = (self._samples + len(part)) // SAMPLES_PER_FRAME - self._samples // SAMPLES_PER_FRAME
                self._samples += len(part)
                self._times.extend([now] * whole)
            self._forget(len(self._times) - _FRAMES_REMEMBERED)  # where nobody asks, since nobody is seen
            yield kind, part

    def age_s(self, frame: int) -> float:
        """How long ago a frame came; those before it are forgotten."""
        self._forget(min(frame - self._first, len(self._times) - 1))
        return time.perf_counter() - self._times[0] if self._times else 0.0

    def _forget(self, count: int) -> None:
        """The oldest ones."""
        for _ in range(count):
            self._times.popleft()
            self._first += 1


def from_first_picture(played: Iterable[Played]) -> Iterator[Played]:
    """The same without the sound that comes before the first picture, where the two are of different sources."""
    return dropwhile(lambda item: item[0] == "sound", played)


def paced(played: Iterable[Played]) -> Iterator[Played]:
    """The same as slowly as it would be watched."""
    start = time.perf_counter()
    counts = {"picture": 0, "sound": 0}
    per_second = {"picture": FRAME_RATE_HZ, "sound": SAMPLE_RATE_HZ}
    for kind, part in played:
        counts[kind] += len(part) if kind == "sound" else 1
        time.sleep(max(0.0, start + counts[kind] / per_second[kind] - time.perf_counter()))
        yield kind, part


def time_networks(model: StreamModel) -> dict[str, float]:
    """Seconds that each network alone takes for one frame: the median of some calls.

    The stream's step is one compiled program, in which they can't be told apart. The fusion's time is what sound and
    fusion take together beyond the voice network.
    """
    options = compiler_options(jax.devices()[0])
    timed = lambda function, *inputs: median_s(partial(jax.jit(function, compiler_options=options), *inputs))
    there = np.ones((1, 1), bool)
    faces = np.zeros((1, 1, model.image_size, model.image_size, 3), np.uint8)
    times = {"face network alone": timed(partial(see, model.face), model.variables[0], faces, there)}
    if model.fusion is None:
        return times
    network, config, carry = model.fusion, model.fusion.config, model.initial_carry()
    encoder = AudioEncoder(config.audio, config.dtype)
    sound = np.zeros((1, SAMPLES_PER_FRAME), np.float32)
    embedding = np.zeros((1, 1, config.face_size), np.float32)

    def hear(params: Any, carry: Any, sound: Any) -> Any:
        return encoder.apply({"params": params}, log_mel(sound, config.log_mel, carry.sound), carry.audio)

    def hear_and_fuse(variables: Any, carry: Any, embedding: Any, there: Any, sound: Any) -> Any:
        return network.apply(variables, embedding, there, sound, there, train=False, carry=carry)

    voice_s = timed(hear, model.variables[1]["params"]["audio"], carry, sound)
    both_s = timed(hear_and_fuse, model.variables[1], carry, embedding, there, sound)
    return times | {"voice network alone": voice_s, "fusion alone": max(both_s - voice_s, 0.0)}
