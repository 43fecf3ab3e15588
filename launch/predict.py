"""`avemo predict`: what faces show and voices sound like, in anybody's videos, sound, pictures, or folders of them."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich
from rich.markup import escape
from tqdm import tqdm
from tyro.conf import Positional

from avemo import __version__
from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from avemo.stages.fusion import Modalities
from data_pipelines import video
from data_pipelines.errors import DataError
from data_pipelines.faces import read_picture
from data_pipelines.sound import has_voice
from data_pipelines.video import Contents, Played
from launch.errors import LaunchError
from launch.frame_files import FILE_NAMES, FileFormat, columns_of, frame_file
from launch.live import predict_live
from launch.media import FRAME_LIMIT
from launch.prediction import FaceTrace, ahead, joined, predict_picture, predict_stream, usable
from launch.report import CORPORA
from launch.runs import run_input, write_json
from launch.streaming import StreamModel, load_model
from launch.viewer import write_page

DEMO_MODEL = Path("runs/demo/fusion")

SUMMARY_FILE = "summary.json"
OUTCOMES_FILE = "outcomes.json"
PAGE_FILE = "page.html"

_VIDEO = ".mp4 .mov .m4v .mkv .webm .avi .wmv .flv .mpg .mpeg .ts .mts .3gp .ogv"
_SOUND = ".wav .flac .mp3 .m4a .aac .ogg .opus .wma .aiff"
_PICTURE = ".jpg .jpeg .png .bmp .webp .tif .tiff"
SUFFIXES = frozenset(f"{_VIDEO} {_SOUND} {_PICTURE}".split())
"""How the names of files end that are taken from folders; what a file holds, is seen by looking into it."""

_DECODED_AHEAD = 16
"""Pictures and bits of sound that another thread decodes in advance."""

_SHORTER = 0.9
"""A file that ends before this share of the time it says it lasts has lost its end (our choice)."""


@dataclass(frozen=True)
class Predict:
    """Predict expressions, valence and arousal over time.

    Attributes:
        inputs: videos, sound files, pictures, or folders of them; with --live one file, camera or address, such as
            v4l2:/dev/video0, rtsp://camera/stream or lavfi:testsrc, and if its sound is another's, that one, too, such
            as alsa:default.
        model: run of a fusion network; of a student or teacher for faces alone. The demo's if none is named.
        out: folder for the results; each input gets a folder of its own inside.
        faces: how many faces to follow at most, each with rows of its own; with one, the largest at first.
        modalities: what the model may use.
        formats: of the files with a row for each frame and face.
        html: write a page for each input, too: the video with what is predicted of it, in one file.
        live: predict a stream as it comes and print a line every second; rows are kept only if --out is named.
    """

    inputs: Positional[tuple[str, ...]]
    model: Path = DEMO_MODEL
    out: Path | None = None
    faces: int = 1
    modalities: Modalities = "fused"
    formats: tuple[FileFormat, ...] = ("csv",)
    html: bool = False
    live: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("name a video, a sound file, a picture, or a folder of them")
        if self.faces < 1:
            raise ValueError(f"--faces {self.faces}: at least one is to be followed")
        if self.live and len(self.inputs) > 2:
            raise ValueError("--live predicts one source at a time, or the pictures of one and the sound of another")
        if self.live and (self.html or self.formats != ("csv",)):
            raise ValueError("--live keeps rows as CSV, and makes no page: leave out --formats and --html")

    def __call__(self) -> None:
        """Predict every input that isn't predicted yet, and say what became of each.

        Raises:
            LaunchError: there is no such model, nothing to predict, or some of it couldn't be predicted.
        """
        if self.model == DEMO_MODEL and not self.model.is_dir():
            raise LaunchError(f"no --model is named, and the demo's isn't at {self.model}: avemo demo makes it")
        model = load_model(self.model)
        for warning in self._warnings(model):
            print(f"warning: {warning}")
        if self.live:
            predict_live(model, self.inputs, self.faces, self.modalities, self.out)
            return
        out = self.out or Path("predictions")
        found, unknown = find_inputs(self.inputs, out)
        outcomes = [Outcome(str(path), "skipped", ["no kind of file that is known here"]) for path in unknown]
        for name, path in tqdm(found.items(), desc="predict", unit="file", disable=len(found) < 2):
            outcomes.append(self._predict(model, name, path, out / name))
        write_json(out / OUTCOMES_FILE, [asdict(outcome) for outcome in outcomes])
        print_outcomes(outcomes, out)
        failed = [outcome for outcome in outcomes if outcome.result == "failed"]
        if failed:
            raise LaunchError(f"{len(failed)} of {len(found)} could not be predicted; why is told above")

    def _predict(self, model: StreamModel, name: str, path: Path, folder: Path) -> "Outcome":
        """Predict one file, unless that has been done before."""
        try:
            made_from = self._made_from(path)
            if (before := finished(folder, made_from)) is not None:
                return Outcome(str(path), "reused", before["notes"])
            summary, shown = Summary(), list[FaceTrace]()
            folder.mkdir(parents=True, exist_ok=True)
            for old in (SUMMARY_FILE, PAGE_FILE, *FILE_NAMES.values()):  # the summary first: it says that all is there
                (folder / old).unlink(missing_ok=True)
            with ExitStack() as files:
                writers = [files.enter_context(frame_file(folder / FILE_NAMES[each], each)) for each in self.formats]
                for trace in self._traces(model, path, summary):
                    summary.add(trace)
                    for write in writers:
                        write(columns_of(trace))
                    if self.html and trace.first_frame < FRAME_LIMIT:
                        shown.append(trace)
            content = summary.content(name)
            if self.html:
                write_page(
                    folder / PAGE_FILE,
                    path.name,
                    path,
                    joined(shown),
                    [*self._warnings(model), *map(sentence, summary.notes)],
                )
            write_json(folder / SUMMARY_FILE, content | {"made_from": made_from})
        except LaunchError:
            raise
        except Exception as error:  # libraries raise almost anything, and one odd file must not end all others
            with suppress(OSError):
                folder.rmdir()  # where nothing came of it
            kind = "" if isinstance(error, DataError | OSError) else f"{type(error).__name__}: "
            return Outcome(str(path), "failed", [" ".join(f"{kind}{error}".split())])
        return Outcome(str(path), "partly" if summary.broken else "predicted", summary.notes)

    def _warnings(self, model: StreamModel) -> list[str]:
        """What those must know who use a model that has learned from synthetic corpora."""
        if not model.synthetic and self.model != DEMO_MODEL:
            return []
        corpora = ", ".join(title for name, title in CORPORA.items() if name in model.synthetic)
        named = f" in the form of {corpora}" if corpora else ""
        return [
            f"This model has learned from synthetic corpora{named}, whose people are drawn and whose voices are "
            "synthetic: what it has learned there shows how things work, and says nothing of people."
        ]

    def _made_from(self, path: Path) -> dict[str, Any]:
        """All that decides what is predicted of a file; if it is the same, so is the result."""
        status = path.stat()
        settings = {name: getattr(self, name) for name in ("faces", "modalities", "html")}
        settings |= {"formats": list(self.formats)}
        file = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        return {"file": file, "model": run_input(self.model), "settings": settings, "version": __version__}

    def _traces(self, model: StreamModel, path: Path, summary: "Summary") -> Iterator[FaceTrace]:
        """Predictions of whatever a file holds; what is noticed on the way goes to the summary."""
        contents = video.look_into(path)
        has_pictures, has_sound = usable(model, contents, self.modalities, path)
        if contents.picture:
            image = read_picture(path, upright=True)
            if isinstance(image, str):
                raise DataError(f"{path}: {image}; fetch the file anew")
            summary.begin("picture", contents, model)
            yield from predict_picture(model, image, self.faces)
            return
        summary.begin("video" if has_pictures else "sound", contents, model, has_sound)
        damage = lambda kind: summary.damage.update([kind])
        played = ahead(video.play(path, has_pictures, has_sound, damage), most=_DECODED_AHEAD)
        duration_s = round(contents.duration_s) if contents.duration_s else None
        with tqdm(total=duration_s, desc=path.name, unit="s", leave=False) as bar:
            try:
                for trace in predict_stream(model, summary.noting(played), has_pictures, has_sound, self.faces):
                    bar.update(max(round(float(trace.time_s[-1])) - bar.n, 0))
                    yield trace
            except DataError as error:
                if not summary.frames:
                    raise
                summary.breaks(str(error).removeprefix(f"{path}: "))
        if not summary.frames:
            raise DataError(f"{path}: not one frame can be decoded; fetch the file anew")


def find_inputs(inputs: tuple[str, ...], out: Path) -> tuple[dict[str, Path], list[Path]]:
    """The files that are meant, by the name of the folder for their results; and those in folders that aren't known.

    What lies in the folder for results is not looked at.

    Raises:
        LaunchError: an input isn't there, a folder holds nothing that is known, or two files would have one name.
    """
    found: dict[str, Path] = {}
    unknown = []
    for given in map(Path, inputs):
        if not given.exists():
            raise LaunchError(f"{given} isn't there")
        there = (path for path in given.rglob("*") if path.is_file() and out.absolute() not in path.absolute().parents)
        files = sorted(there) if given.is_dir() else [given]
        known = [path for path in files if path.suffix.lower() in SUFFIXES or path == given]
        if not known:
            raise LaunchError(f"{given} holds no video, sound or picture: name files, or a folder that does")
        unknown += sorted(set(files).difference(known))
        for path in known:
            name = path.name if path == given else str(path.relative_to(given))
            if found.setdefault(name, path) != path:
                raise LaunchError(f"{found[name]} and {path} would both be written to {name}: predict them apart")
    return found, unknown


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        input: its path.
        result: what was done.
        notes: what there is to know, or why it failed.
    """

    input: str
    result: Literal["predicted", "partly", "reused", "failed", "skipped"]
    notes: list[str]


@dataclass
class Summary:
    """What is told of a file as a whole, gathered while it is predicted.

    Attributes:
        kind: "video", "sound" or "picture".
        notes: sentences for people.
        broken: whether a part of it is missing.
        frames: how many frames there are, whether or not there is a face in them.
        damage: how many packets of "video", and of "sound", couldn't be decoded.
    """

    kind: str = ""
    notes: list[str] = field(default_factory=list)
    broken: bool = False
    frames: int = 0
    damage: Counter[str] = field(default_factory=Counter)
    _contents: Contents | None = None
    _model: StreamModel | None = None
    _listens: bool = False
    _whole: bool = False
    _heard: bool = False
    _samples: int = 0
    _with_face: int = 0
    _with_voice: int = 0
    _faces: dict[int, "FaceSummary"] = field(default_factory=dict)

    def begin(self, kind: str, contents: Contents, model: StreamModel, listens: bool = False) -> None:
        """Say what it is, who predicts it, and whether its sound is used."""
        self.kind, self._contents, self._model, self._listens = kind, contents, model, listens
        self._whole = kind != "picture" and (kind == "video", listens) == (contents.video, contents.sound)
        rate_hz = contents.frame_rate_hz
        if kind == "video" and rate_hz is not None and abs(rate_hz - FRAME_RATE_HZ) > 0.01:
            self.notes.append(f"{rate_hz:.4g} pictures per second; predicted at {FRAME_RATE_HZ}")

    def noting(self, played: Iterable[Played]) -> Iterator[Played]:
        """The same; how much there is of it is noted."""
        for kind, part in played:
            if kind == "picture":
                self.frames += 1
            else:
                self._heard |= has_voice(part)
                self._samples += len(part)
                self.frames = self._samples // SAMPLES_PER_FRAME if self.kind == "sound" else self.frames
            yield kind, part

    def add(self, trace: FaceTrace) -> None:
        """Take the next part."""
        self.frames = max(self.frames, trace.first_frame + len(trace))
        self._with_face += int(trace.face_valid.sum())
        self._with_voice += int(trace.voice_valid.sum())
        self._faces.setdefault(trace.face, FaceSummary()).add(trace)

    def breaks(self, why: str) -> None:
        """Note that nothing more could be read."""
        self.notes.append(f"{why}: only its first {self.frames / FRAME_RATE_HZ:.1f} s are predicted")
        self.broken = True

    def content(self, name: str) -> dict[str, Any]:
        """All of it as plain data; called once, at the end."""
        contents = self._contents
        seconds = self.frames / FRAME_RATE_HZ
        said_s = contents.duration_s if contents is not None else None
        played_s = max(seconds, self._samples / SAMPLE_RATE_HZ)
        if self._whole and not self.broken and said_s and played_s < _SHORTER * said_s - 1:
            self.breaks(f"it says that it lasts {said_s:.1f} s")
        if self.damage:
            packets = " and ".join(f"{count} of {kind}" for kind, count in sorted(self.damage.items()))
            self.notes.append(f"damaged packets were left out: {packets}")
            self.broken = True
        if not self._with_face and self.kind != "sound":
            self.notes.append("no face was found")
        seen = self.kind == "video" and self._model is not None and self._model.uses[0]
        what_is_left = "told from the face alone" if seen else "so nothing that this model could tell anything from"
        if self._listens and not self._heard:
            self.notes.append(f"its sound is silent throughout: {what_is_left}")
        elif self.kind == "video" and contents is not None and not contents.sound:
            missing = "no decoder for its sound" if contents.undecodable_sound else "without sound"
            self.notes.append(f"{missing}: {what_is_left}")
        return {
            "input": name,
            "kind": self.kind,
            "seconds": seconds,
            "frames": self.frames,
            "rows_with_face": self._with_face,
            "rows_with_voice": self._with_voice,
            "faces": {number: face.content() for number, face in sorted(self._faces.items())},
            "notes": self.notes,
        }


class FaceSummary:
    """Means over the frames of one face."""

    def __init__(self) -> None:
        """Begin without any."""
        self._first: float | None = None
        self._last = 0.0
        self._sums = np.zeros(len(EXPRESSIONS) + len(DIMENSIONS))
        self._counts = np.zeros(len(EXPRESSIONS) + len(DIMENSIONS), int)

    def add(self, trace: FaceTrace) -> None:
        """Take the next part of its trace."""
        self._first = float(trace.time_s[0]) if self._first is None else self._first
        self._last = float(trace.time_s[-1])
        values = np.concatenate([trace.expression, trace.valence_arousal], axis=1)
        self._sums += np.nansum(values, axis=0, dtype=np.float64)
        self._counts += (~np.isnan(values)).sum(0)

    def content(self) -> dict[str, Any]:
        """First and last second, and the mean of all that is told; None where nothing is."""
        names = (*EXPRESSIONS, *DIMENSIONS)
        means = zip(names, self._sums.tolist(), self._counts.tolist(), strict=True)
        return {"from_s": self._first, "to_s": self._last} | {
            f"mean_{name}": total / count if count else None for name, total, count in means
        }


def sentence(note: str) -> str:
    """A note as the page shows it."""
    return f"{note[:1].upper()}{note[1:]}."


def finished(folder: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier prediction, if it was made from the same."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    settings = made_from["settings"]
    files = [folder / FILE_NAMES[each] for each in settings["formats"]] + [folder / PAGE_FILE] * settings["html"]
    return summary if summary.get("made_from") == made_from and all(file.is_file() for file in files) else None


def printable(text: str) -> str:
    """A text that may name a file, for the terminal: names need be no UTF-8."""
    return escape(text.encode("utf-8", "replace").decode())


def print_outcomes(outcomes: list[Outcome], out: Path) -> None:
    """Print what became of each input, one below the other."""
    for outcome in outcomes:
        rich.print(f"[bold]{outcome.result:9}[/] {printable(outcome.input)}")
        for note in outcome.notes:
            rich.print(f"          [dim]{printable(note)}[/]")
    print(f"results: {out}{os.sep}")
