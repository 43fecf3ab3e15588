"""`avemo benchmark streaming`: how fast videos are predicted, against PyTorch, and whether memory stays flat.

The people are drawn and the networks untrained: what they say doesn't change how long they take.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import jax
import numpy as np
import psutil
from rich.console import Console
from tqdm import tqdm

from avemo.labels import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from avemo.models.face import PAPER_TEACHER, SMALL_STUDENT, FaceConfig, FaceNetwork
from avemo.models.face import init_variables as init_face
from avemo.models.fusion import DEMO_FUSION, PAPER_FUSION, FusionConfig, FusionNetwork, init_variables
from data_pipelines import video
from data_pipelines.faces import CropConfig
from data_pipelines.synthetic.drawing import draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import FaceParameters, sample_identity
from data_pipelines.video import Played
from launch.benchmarks.our_step import repeated
from launch.benchmarks.results import as_json, machine, round_by_round, table, used_by_others, write_results
from launch.benchmarks.stopwatch import Contestant, in_turn
from launch.benchmarks.train import PACKAGES, torch_absence
from launch.latency import Latency
from launch.mesh import compiler_options
from launch.prediction import ahead, predict_stream
from launch.streaming import StreamModel
from launch.tables import print_tables

NETWORKS: dict[str, tuple[FaceConfig, FusionConfig]] = {
    "small": (SMALL_STUDENT, DEMO_FUSION),
    "paper": (PAPER_TEACHER, PAPER_FUSION),
}

STEP = "streaming step, avemo"
TORCH_STEP = "streaming step, PyTorch"
WHOLE = "recordings, avemo"
TORCH_WHOLE = "recordings, PyTorch"

RECORDINGS = 3
RECORDING_FRAMES = 300 * FRAME_RATE_HZ
"""Recordings that are evaluated together, of RECOLA's five minutes."""

MEMORY_SIZE = 320, 240
MEMORY_EVERY_S = 300
"""Pictures of the long stream, and how often, in its own time, memory is looked at."""

_DECODED_AHEAD = 16


@dataclass(frozen=True)
class BenchmarkStreaming:
    """Measure the prediction of a 720p video with one person, face finding included, and its networks against PyTorch.

    Attributes:
        out: JSON file for the results.
        networks: "small" (48 grey pixels) or the paper's.
        video_s: length of the video, seconds.
        memory_hours: length of a stream over which the memory of the process is watched; 0 leaves it out.
        rounds: how often everything is measured, in turn.
        round_s: about how long each of the networks' measurements lasts, seconds.
    """

    out: Path
    networks: Literal["small", "paper"] = "small"
    video_s: int = 40
    memory_hours: float = 0.0
    rounds: int = 5
    round_s: float = 2.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.round_s <= 0 or self.video_s < 1 or self.memory_hours < 0:
            raise ValueError("rounds, round_s and video_s must be positive, memory_hours not negative")

    def __call__(self) -> None:
        """Measure, print the tables and write the results."""
        console = Console()
        used = [used_by_others(console)]
        model = untrained(*NETWORKS[self.networks])
        found: dict[str, Any] = self._measure_video(model, console) | self._measure_networks(model, console)
        if self.memory_hours:
            found["memory"] = measure_memory(model, self.memory_hours)
            console.print(table("memory of the process, MB", {"resident": found["memory"]["resident_mb"]}, "{:,.0f}"))
        used.append(used_by_others(console))
        place = machine(PACKAGES) | {"device": jax.devices()[0].device_kind, "used by others": used}
        write_results(self.out, {"settings": as_json(self), "machine": place} | found, console)

    def _measure_video(self, model: StreamModel, console: Console) -> dict[str, Any]:
        """How much faster than it is watched a video is predicted, and where the time goes."""
        latency, factors, sizes = Latency(), list[float](), []
        with tempfile.TemporaryDirectory(prefix="avemo-benchmark-") as folder:
            console.print("drawing a video ...")
            path = Path(folder) / "person.mp4"
            write_video(path, self.video_s)
            for number in range(self.rounds + 1):
                played = ahead(video.play(path), most=_DECODED_AHEAD)
                told = Latency() if number == 0 else latency  # the first round compiles, and doesn't count
                start = time.perf_counter()
                frames = sum(map(len, predict_stream(model, played, True, True, latency=told)))
                factors.append(frames / FRAME_RATE_HZ / (time.perf_counter() - start))
                sizes.append(frames)
        found = {"real-time factor, 720p, one face": factors[1:]}
        console.print(table("prediction of a video", found, "{:.2f}"))
        print_tables([latency.table()])
        return {"real_time_factor": factors[1:], "frames": sizes[1:]}

    def _measure_networks(self, model: StreamModel, console: Console) -> dict[str, Any]:
        """The networks alone: a stream's step of one frame, and fusion over whole recordings, against PyTorch."""
        step, whole = OurStreamStep(model), OurRecordings(model)
        contestants: dict[str, Contestant] = {STEP: step, WHOLE: whole}
        absence = torch_absence()
        equality = {}
        if absence is None:
            from launch.benchmarks.torch_peer import TorchRecordings, TorchStreamStep, prove_stream

            equality = prove_stream(step, whole)
            contestants |= {TORCH_STEP: TorchStreamStep(step), TORCH_WHOLE: TorchRecordings(whole)}
        else:
            console.print(f"without PyTorch: {absence}", markup=False)
        rates = in_turn(contestants, self.rounds, self.round_s, lambda line: console.print(line, highlight=False))
        ms = {name: [1000 / rate for rate in values] for name, values in rates.items()}
        console.print(table("milliseconds", ms, "{:,.3f}"))
        ratios = {
            f"{ours} / PyTorch": round_by_round(rates[ours], rates[theirs])
            for ours, theirs in ((STEP, TORCH_STEP), (WHOLE, TORCH_WHOLE))
            if theirs in rates
        }
        if ratios:
            console.print(table("as fast as PyTorch, times", ratios, "{:.2f}"))
        return {"ms": ms, "ratios": ratios, "equality": equality, "torch": absence or "measured"}


def untrained(face_config: FaceConfig, fusion_config: FusionConfig) -> StreamModel:
    """Networks as they are before any training."""
    face, fusion = FaceNetwork(face_config), FusionNetwork(fusion_config)
    variables = (
        jax.jit(lambda: init_face(face, jax.random.key(0)))(),
        {"params": jax.jit(lambda: init_variables(fusion, jax.random.key(1)))()["params"]},
    )
    return StreamModel(face, fusion, variables, CropConfig(size=face_config.image_size))


class OurStreamStep:
    """A stream's step of one frame: face network, voice and fusion; the state goes from step to step."""

    def __init__(self, model: StreamModel) -> None:
        self.model = model
        size, rng = model.image_size, np.random.default_rng(0)
        self.signals = (
            rng.integers(0, 256, (1, 1, size, size, 3), np.uint8),
            np.ones((1, 1), bool),
            0.1 * rng.standard_normal((1, SAMPLES_PER_FRAME)).astype(np.float32),
            np.ones((1, 1), bool),
        )
        self.carry = model.initial_carry()

    def step(self) -> Any:
        """One frame; from its signals to numbers that can be read."""
        self.carry, said = self.model.step(self.model.variables, self.carry, *self.signals)
        return jax.tree.map(np.asarray, said)

    def __call__(self, steps: int) -> float:
        """Do so many. Returns the seconds they took."""
        return repeated(self.step, steps)


class OurRecordings:
    """Fusion over whole recordings, as an evaluation runs it."""

    def __init__(self, model: StreamModel) -> None:
        if model.fusion is None:
            raise ValueError("a face network alone has no fusion to measure")
        network, self.variables, rng = model.fusion, model.variables[1], np.random.default_rng(0)
        shape = RECORDINGS, RECORDING_FRAMES
        self.config = network.config
        self.signals = (
            rng.standard_normal((*shape, self.config.face_size)).astype(np.float32),
            np.ones(shape, bool),
            0.1 * rng.standard_normal((RECORDINGS, RECORDING_FRAMES * SAMPLES_PER_FRAME)).astype(np.float32),
            np.ones(shape, bool),
        )
        self.apply = jax.jit(partial(network.apply, train=False), compiler_options=compiler_options(jax.devices()[0]))

    def __call__(self, steps: int) -> float:
        """Do so many. Returns the seconds they took."""
        return repeated(lambda: self.apply(self.variables, *self.signals)["valence_arousal"], steps)


def picture(width: int, height: int) -> np.ndarray:
    """A drawn person, as large as somebody before a webcam; uint8 RGB."""
    person = FaceParameters(sample_identity(np.random.default_rng(0)))
    place = Placement(0.25 * width, 0.25 * height, 0.125 * height)
    image, _ = draw_photograph([(person, place)], height // 2, width // 2, np.random.default_rng(0))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def swaying(image: np.ndarray) -> Iterator[np.ndarray]:
    """The picture, for ever, as if its person swayed."""
    height, width = image.shape[:2]
    for number in itertools.count():
        move = 0.03 * width * np.sin(2 * np.pi * number / 100)
        shift = np.array([[1, 0, move], [0, 1, 0]])
        yield cv2.warpAffine(image, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)


def voice(frames: int) -> np.ndarray:
    """A humming whose loudness comes and goes: float32, 640 samples for each frame."""
    time_s = np.arange(frames * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ
    return (0.2 * np.sin(2 * np.pi * 140 * time_s) * np.sin(2 * np.pi * time_s / 3)).astype(np.float32)


def write_video(path: Path, seconds: int) -> None:
    """A 720p video at 25 frames per second, with sound."""
    frames = seconds * FRAME_RATE_HZ
    with av.open(str(path), "w") as container:
        shown = container.add_stream("libx264", rate=FRAME_RATE_HZ, options={"crf": "23"})
        shown.width, shown.height, shown.pix_fmt = 1280, 720, "yuv420p"
        heard = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for image, _ in zip(swaying(picture(1280, 720)), range(frames), strict=False):
            container.mux(shown.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(voice(frames)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.time_base = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ)
        container.mux(heard.encode(sound))
        for stream in (shown, heard):
            container.mux(stream.encode(None))


def measure_memory(model: StreamModel, hours: float) -> dict[str, Any]:
    """Predict a long stream and look at the memory of the process now and then.

    Returns:
        "at_s", in the stream's own time, and "resident_mb" at each.
    """
    frames = round(hours * 3600 * FRAME_RATE_HZ)
    hum, at_s, resident_mb = voice(3 * FRAME_RATE_HZ), list[float](), list[float]()
    process = psutil.Process()

    def played() -> Iterator[Played]:
        for number, image in zip(range(frames), swaying(picture(*MEMORY_SIZE)), strict=False):
            start = number * SAMPLES_PER_FRAME % len(hum)
            yield "picture", image
            yield "sound", hum[start : start + SAMPLES_PER_FRAME]

    with tqdm(total=round(hours * 3600), desc="long stream", unit="s") as bar:
        for trace in predict_stream(model, played(), True, True):
            now_s = float(trace.time_s[-1])
            bar.update(round(now_s) - bar.n)
            if now_s >= len(at_s) * MEMORY_EVERY_S:
                at_s.append(now_s)
                resident_mb.append(process.memory_info().rss / 1e6)
    return {"at_s": at_s, "resident_mb": resident_mb}
