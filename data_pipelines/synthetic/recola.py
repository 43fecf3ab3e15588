"""A synthetic RECOLA in its public form: people who babble, feel something, and are rated by six raters.

Valence shows mostly in the face and arousal mostly in the voice, each weakly in the other. How much is known
exactly: what a face or a voice shows is the truth plus a distraction that moves alike but is orthogonal to
it, so that in every recording the correlation of shown and true is what the configuration says.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter1d

from avemo.labels import DIMENSIONS, FRAME_RATE_HZ
from data_pipelines.releases.recola import PARTITIONS, Split
from data_pipelines.synthetic.ceilings import recording_ceiling
from data_pipelines.synthetic.corpus import new_folder, shared_out, write_truth
from data_pipelines.synthetic.drawing import draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import (
    Expression,
    FaceParameters,
    Light,
    Pose,
    expression_of_affect,
    sample_identity,
    sample_light,
)
from data_pipelines.synthetic.voices import (
    SAMPLE_RATE_HZ,
    Speaker,
    sample_phrases,
    sample_speaker,
    speaking,
    synthesize_voice,
)

RATERS = ("FM1", "FM2", "FM3", "FF1", "FF2", "FF3")
MODALITIES = ("face", "voice")
_AFFECT_SPREAD = 0.38
"""Standard deviation of true valence and of true arousal in a recording, less where they would leave [-1, 1]."""

_PIXEL_FORMAT = "yuv420p"


@dataclass(frozen=True)
class SyntheticRecolaConfig:
    """Size, clarity and raters of a synthetic RECOLA.

    Attributes:
        train: Names of the training recordings: letters and digits.
        dev: Names of the development recordings.
        test: Names of the test recordings.
        duration_s: Length of every recording.
        timescale_s: Standard deviation of the kernel that smooths valence and arousal; a full swing takes
            about nine times as long.
        own_correlation: How truly the face shows valence and the voice arousal.
        other_correlation: How truly the face shows arousal and the voice valence.
        delay_s: Mean annotation delay of the six raters.
        delay_spread_s: Largest distance of a rater's delay from the mean.
        rater_bias: Standard deviation of the raters' biases.
        rater_noise: Standard deviation of the noise of a rater.
        frame_size: Width and height of the videos in pixels.
        processes: How many draw.
    """

    train: tuple[str, ...] = ("P45", "P46", "P48", "P56", "P58", "P62")
    dev: tuple[str, ...] = ("P28", "P30", "P34")
    test: tuple[str, ...] = ("P16", "P17", "P19")
    duration_s: float = 30.0
    timescale_s: float = 0.8
    own_correlation: float = 0.95
    other_correlation: float = 0.4
    delay_s: float = 2.0
    delay_spread_s: float = 0.4
    rater_bias: float = 0.05
    rater_noise: float = 0.12
    frame_size: int = 192
    processes: int = 2

    def __post_init__(self) -> None:
        names = self.train + self.dev + self.test
        if len(set(names)) < len(names) or not (self.train and self.dev and self.test):
            raise ValueError(f"train, dev and test must each name recordings, none of them twice: {names}")
        if not all(name.isascii() and name.isalnum() for name in names):
            raise ValueError(f"names of recordings must be letters and digits: {names}")
        if not 2 <= self.duration_s <= 3600:
            raise ValueError(f"duration_s must lie in [2, 3600], not {self.duration_s}")
        if not 0.02 <= self.timescale_s <= self.duration_s / 10:
            raise ValueError(f"timescale_s must lie in [0.02, a tenth of the duration], not {self.timescale_s}")
        if not 0 <= self.delay_spread_s <= self.delay_s <= self.duration_s / 2:
            raise ValueError(f"delays must lie between 0 and half of the recording's {self.duration_s} s")
        if not (0 <= self.rater_bias <= 0.5 and 0 <= self.rater_noise <= 1):
            raise ValueError("rater_bias must lie in [0, 0.5] and rater_noise in [0, 1]")
        if not (0 <= self.own_correlation <= 1 and 0 <= self.other_correlation <= 1):
            raise ValueError("correlations of shown and true must lie in [0, 1]")
        if self.frame_size % 2 or not 96 <= self.frame_size <= 1000:
            raise ValueError(f"frame_size must be even and lie in [96, 1000], not {self.frame_size}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")

    @property
    def partition(self) -> dict[Split, tuple[str, ...]]:
        """Who is in which split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


PRESETS = {
    "tiny": SyntheticRecolaConfig(
        train=("P45",),
        dev=("P28",),
        test=("P16",),
        duration_s=6.0,
        timescale_s=0.3,
        delay_s=1.0,
        frame_size=128,
        processes=1,
    ),
    "demo": SyntheticRecolaConfig(),
    "large": SyntheticRecolaConfig(
        train=tuple(f"P{number}" for number in PARTITIONS["A"]["train"]),
        dev=tuple(f"P{number}" for number in PARTITIONS["A"]["dev"]),
        test=tuple(f"P{number}" for number in PARTITIONS["A"]["test"]),
        duration_s=120.0,
        own_correlation=0.8,
        other_correlation=0.65,
    ),
    "crowd": SyntheticRecolaConfig(
        train=tuple(f"P{number}" for number in range(101, 161)),
        dev=tuple(f"P{number}" for number in range(201, 217)),
        test=tuple(f"P{number}" for number in range(301, 325)),
        duration_s=60.0,
        own_correlation=0.8,
        other_correlation=0.65,
    ),
}
"""In "large" and "crowd", face and voice each show both dimensions, neither of them truly: who uses both knows more.

The people of "tiny", "demo" and "large" stand in partition A; those of "crowd", more than RECOLA has, bear numbers that
it never uses.
"""


@dataclass(frozen=True)
class _Recording:
    """One recording: what is felt, what is shown, and what else moves. Curves have one value per frame."""

    name: str
    identity: int
    seed: tuple[int, ...]
    face: FaceParameters
    speaker: Speaker
    phrases: list[tuple[float, float]]
    affect: np.ndarray
    """True valence and arousal, (T, 2)."""
    shown: np.ndarray
    """What face and voice show of valence and arousal, (2, T, 2)."""
    ratings: np.ndarray
    """Of valence and arousal by six raters, (2, 6, T + 1): one more value than there are frames."""


@dataclass(frozen=True)
class _Rater:
    delay_s: float
    gain: float
    bias: float


def synthesize(out: Path, config: SyntheticRecolaConfig, seed: int) -> None:
    """Writes the corpus, its `truth.json`, and its `partition.json` (for `avemo prepare recola --partition`).

    The truth holds, beside the configuration:

    - `ceiling` (test) and `ceiling_dev`: for an observer who sees exactly what the `face`, the `voice` or
      both (`fused`) show, knows the mean delay, and weighs it linearly frame by frame (fitted on the training
      recordings): for each dimension ccc_concatenated and ccc_per_file against the mean of the raters;
    - `annotation_delay_s` and `annotation_delay_frames`, the mean over the raters, and `raters`, each with
      delay, gain and bias per dimension;
    - `recordings`: partition, identity, and true valence and arousal of each frame.

    Args:
        out: A folder that is new or empty.
        config: Size, clarity and raters.
        seed: The same seed gives the same files.

    Raises:
        DataError: If the folder holds anything.
    """
    new_folder(out)
    raters = _sample_raters(config, np.random.default_rng([seed, 0]))
    names = config.train + config.dev + config.test
    recordings = {name: _plan(name, number, config, raters, seed) for number, name in enumerate(names)}
    for media in ("RECOLA-Audio-recordings", "RECOLA-Video-recordings"):
        (out / media).mkdir()
    jobs = [(out, recording, config.frame_size) for recording in recordings.values()]
    for _ in shared_out(_write_media, jobs, len(jobs), config.processes, "synthesize recola"):
        pass
    for index, dimension in enumerate(DIMENSIONS):
        folder = out / "RECOLA-Annotation" / "emotional_behaviour" / dimension
        folder.mkdir(parents=True)
        for name, recording in recordings.items():
            _write_ratings(folder / f"{name}.csv", recording.ratings[index])

    delay_frames = round(config.delay_s * FRAME_RATE_HZ)
    train, dev, test = ([recordings[name] for name in partition] for partition in config.partition.values())
    (out / "partition.json").write_text(json.dumps(config.partition) + "\n", encoding="utf-8")
    write_truth(
        out,
        {
            "corpus": "recola",
            "seed": seed,
            "config": asdict(config),
            "ceiling": _ceilings(train, test, delay_frames),
            "ceiling_dev": _ceilings(train, dev, delay_frames),
            "annotation_delay_s": config.delay_s,
            "annotation_delay_frames": delay_frames,
            "raters": {
                dimension: {name: asdict(rater) for name, rater in zip(RATERS, raters[dimension], strict=True)}
                for dimension in DIMENSIONS
            },
            "recordings": {
                name: {
                    "partition": partition,
                    "identity": recordings[name].identity,
                    **{
                        dimension: recordings[name].affect[:, index].round(4).tolist()
                        for index, dimension in enumerate(DIMENSIONS)
                    },
                }
                for partition, members in config.partition.items()
                for name in members
            },
        },
    )


# --- what is felt, shown and rated --------------------------------------------------------------------------


def _smooth_curves(frames: int, count: int, timescale_s: float, rng: np.random.Generator) -> np.ndarray:
    """Curves (frames, count) that move smoothly, with mean 0, variance 1 and no correlation between them."""
    noise = rng.normal(size=(frames, count))
    smooth = gaussian_filter1d(noise, timescale_s * FRAME_RATE_HZ, axis=0, mode="reflect")
    orthogonal, _ = np.linalg.qr(smooth - smooth.mean(axis=0))
    return orthogonal * np.sqrt(frames)


def _sample_raters(config: SyntheticRecolaConfig, rng: np.random.Generator) -> dict[str, list[_Rater]]:
    """Six raters for each dimension, whose delays have exactly the configured mean."""
    delays_s = config.delay_s + config.delay_spread_s * np.linspace(-1.0, 1.0, len(RATERS))
    return {
        dimension: [
            _Rater(
                round(delay_s, 4),
                round(float(rng.uniform(0.8, 1.1)), 4),
                round(rng.normal(0, config.rater_bias), 4),
            )
            for delay_s in rng.permutation(delays_s).tolist()
        ]
        for dimension in DIMENSIONS
    }


def _plan(
    name: str, number: int, config: SyntheticRecolaConfig, raters: dict[str, list[_Rater]], seed: int
) -> _Recording:
    rng = np.random.default_rng([seed, 1, number])
    frames = round(config.duration_s * FRAME_RATE_HZ)
    curves = _smooth_curves(frames, 6, config.timescale_s, rng)
    felt, distractions = curves[:, :2], (curves[:, 2:4], curves[:, 4:])
    own, other = config.own_correlation, config.other_correlation
    truly = (np.array([own, other]), np.array([other, own]))
    shown = np.stack(
        [
            correlation * felt + np.sqrt(1 - correlation**2) * distraction
            for correlation, distraction in zip(truly, distractions, strict=True)
        ]
    )
    affect = felt * np.minimum(_AFFECT_SPREAD, 1.0 / np.abs(felt).max(axis=0))
    ratings = np.stack(
        [_ratings(affect[:, index], raters[dimension], config, rng) for index, dimension in enumerate(DIMENSIONS)]
    )
    return _Recording(
        name=name,
        identity=number,
        seed=(seed, 2, number),
        face=FaceParameters(sample_identity(rng), light=sample_light(rng)),
        speaker=sample_speaker(rng),
        phrases=sample_phrases(config.duration_s, rng),
        affect=affect,
        shown=_AFFECT_SPREAD * shown,
        ratings=ratings,
    )


def _ratings(
    affect: np.ndarray, raters: list[_Rater], config: SyntheticRecolaConfig, rng: np.random.Generator
) -> np.ndarray:
    """Six late, biased and noisy ratings (6, T + 1) of one curve (T,), with three decimals."""
    times_s = np.arange(len(affect)) / FRAME_RATE_HZ
    label_times_s = np.arange(len(affect) + 1) / FRAME_RATE_HZ
    ratings = []
    for rater in raters:
        heard = np.interp(label_times_s - rater.delay_s, times_s, affect)
        noise = gaussian_filter1d(rng.normal(size=len(heard)), config.timescale_s * FRAME_RATE_HZ)
        noise *= config.rater_noise / noise.std()
        ratings.append(np.clip(rater.gain * heard + rater.bias + noise, -1.0, 1.0))
    return np.stack(ratings).round(3)


def _ceilings(
    train: Sequence[_Recording], evaluated: Sequence[_Recording], delay_frames: int
) -> dict[str, dict[str, dict[str, float]]]:
    """CCC of the best linear reading of what each modality, and both, show."""

    def shown(recording: _Recording, modality: str) -> np.ndarray:
        parts = recording.shown if modality == "fused" else recording.shown[[MODALITIES.index(modality)]]
        frames = parts.shape[1] - delay_frames
        return np.column_stack([*parts[:, :frames].transpose(0, 2, 1).reshape(-1, frames), np.ones(frames)])

    def gold(recording: _Recording, index: int) -> np.ndarray:
        return recording.ratings[index].mean(axis=0)[delay_frames:-1]

    scores: dict[str, dict[str, dict[str, float]]] = {}
    for modality in ("fused", *MODALITIES):
        scores[modality] = {}
        inputs = np.concatenate([shown(recording, modality) for recording in train])
        for index, dimension in enumerate(DIMENSIONS):
            target = np.concatenate([gold(recording, index) for recording in train])
            weights = np.linalg.lstsq(inputs, target, rcond=None)[0]
            # Least squares shrink; for the CCC the prediction should vary as much as the target.
            stretch = target.std() / (inputs @ weights).std()
            predicted = [
                target.mean() + stretch * (shown(recording, modality) @ weights - target.mean())
                for recording in evaluated
            ]
            scores[modality][dimension] = recording_ceiling(
                predicted, [gold(recording, index) for recording in evaluated]
            )
    return scores


def _write_ratings(path: Path, ratings_6xL: np.ndarray) -> None:
    """One annotation file in the public release's own spelling: trailing blanks in the header and all."""
    lines = ["time;" + ";".join(f"{name} " for name in RATERS[:-1]) + f";{RATERS[-1]}"]
    for number, values in enumerate(ratings_6xL.T):
        lines.append(f"{number / FRAME_RATE_HZ:.2f};" + ";".join(f"{value:.3f}" for value in values))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- sound and picture --------------------------------------------------------------------------------------


def _write_media(job: tuple[Path, _Recording, int]) -> None:
    """Writes the sound of a recording, and its video with the same sound."""
    out, recording, size = job
    rng = np.random.default_rng(recording.seed)
    valence, arousal = recording.shown[MODALITIES.index("voice")].T
    voice = synthesize_voice(recording.speaker, arousal, valence, recording.phrases, FRAME_RATE_HZ, rng)
    sound = np.rint(voice * 32767).astype(np.int16)
    audio_path = out / "RECOLA-Audio-recordings" / f"{recording.name}.wav"
    soundfile.write(audio_path, sound, SAMPLE_RATE_HZ, subtype="PCM_16")
    _write_video(out / "RECOLA-Video-recordings" / f"{recording.name}.mp4", _frames(recording, size, rng), sound, size)


def _frames(recording: _Recording, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The pictures: the face shows its curves, talks while the voice does, blinks, and moves a little."""
    frames = len(recording.affect)
    shown = recording.shown[MODALITIES.index("face")]
    talk = _talk(frames, recording.phrases, rng)
    open_lids = _open_lids(frames, rng)
    turns = _smooth_curves(frames, 3, 1.0, rng) * (0.12, 0.05, 0.05)
    shifts = _smooth_curves(frames, 2, 1.0, rng) * 0.012 * size
    for number in range(frames):
        # The mouth's talk goes at a pace of its own: it must not give away the voice's arousal.
        expression = expression_of_affect(*shown[number].tolist()).vector() + talk[number]
        face = Expression.from_vector(expression)
        lids = float(open_lids[number])
        parameters = FaceParameters(
            recording.face.identity,
            Expression(**{**vars(face), "eye_open": (1 + face.eye_open) * lids - 1}),
            Pose(*turns[number].tolist()),
            Light(recording.face.light.x, recording.face.light.y, recording.face.light.strength),
        )
        x, y = (np.array([0.5, 0.45]) * size + shifts[number]).tolist()
        # The same background and grain for every frame: a camera that stands still, and small files.
        background = np.random.default_rng(recording.seed)
        yield draw_photograph([(parameters, Placement(x, y, 0.24 * size))], size, size, background)[0]


def _talk(frames: int, phrases: list[tuple[float, float]], rng: np.random.Generator) -> np.ndarray:
    """What talking adds to the expression (frames, 12): the mouth opens about four times a second."""
    times_s = np.arange(frames) / FRAME_RATE_HZ
    phase = np.cumsum(rng.uniform(2.5, 5.5, frames)) / FRAME_RATE_HZ
    size = gaussian_filter1d(rng.uniform(0.0, 1.0, frames), 3.0)
    openness = speaking(times_s, phrases) * np.sin(np.pi * phase) ** 2 * size
    return openness[:, None] * Expression(mouth_open=0.7, mouth_stretch=-0.2).vector()


def _open_lids(frames: int, rng: np.random.Generator) -> np.ndarray:
    """1 where the lids are where the expression wants them, 0 where a blink shuts them; shape (frames,)."""
    lids = np.ones(frames)
    blink = np.array([0.5, 0.0, 0.0, 0.4, 0.8])
    start = int(rng.integers(20, 60))
    while start + len(blink) < frames:
        lids[start : start + len(blink)] = blink
        start += int(rng.integers(50, 130))
    return lids


def _write_video(path: Path, pictures: Iterator[np.ndarray], sound: np.ndarray, size: int) -> None:
    """H.264 and AAC in MP4. One thread: only so the bytes don't depend on the machine."""
    per_frame = SAMPLE_RATE_HZ // FRAME_RATE_HZ
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE_HZ, options={"crf": "20", "preset": "superfast"})
        video.width = video.height = size
        video.pix_fmt = _PIXEL_FORMAT
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options={"aac_coder": "fast"})
        for number, picture in enumerate(pictures):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            samples = av.AudioFrame.from_ndarray(
                sound[None, number * per_frame : (number + 1) * per_frame], format="s16", layout="mono"
            )
            samples.sample_rate = SAMPLE_RATE_HZ
            samples.pts = number * per_frame
            samples.time_base = Fraction(1, SAMPLE_RATE_HZ)
            container.mux(audio.encode(samples))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
