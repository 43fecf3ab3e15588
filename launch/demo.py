"""`avemo demo`: the whole chain on synthetic corpora, from files in the releases' forms to a report.

Every part looks first whether its result is there already, so a second run, or one after an interruption, goes on
where the last one stopped.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from avemo.stages import fusion, student, teacher
from data_pipelines.builders.affectnet import AffectNetPreparation
from data_pipelines.builders.fec import FecPreparation
from data_pipelines.builders.recola import RecolaPreparation
from data_pipelines.synthetic.corpus import TRUTH_FILE
from launch.errors import LaunchError
from launch.evaluate import Evaluate
from launch.loop import Rhythm
from launch.prepare import PrepareAffectNet, PrepareFec, PrepareRecola
from launch.report import RESULTS_FILE, Report
from launch.runs import read_record, write_json
from launch.synthesize import SynthesizeAffectNet, SynthesizeFec, SynthesizeRecola
from launch.train import TrainStudent, TrainTeacher
from launch.train_fusion import TrainFusion

CORPORA = {"affectnet": SynthesizeAffectNet, "fec": SynthesizeFec, "recola": SynthesizeRecola}
FACE_SIZE = 46
"""Pixels of a prepared face: the demo's networks see random 40-pixel crops of it."""

DETECT_EVERY = 5
"""Frames from one search for the face to the next; landmarks are interpolated between."""


@dataclass(frozen=True)
class Demo:
    """Make small synthetic corpora, prepare them, train all three stages on them, evaluate, report.

    Attributes:
        out: folder for all of it.
        seed: root of all random numbers, of the corpora too.
    """

    out: Path = Path("runs/demo")
    seed: int = 0

    def __call__(self) -> None:
        """Run every part that is not done yet."""
        self._claim_folder()
        corpora, data, seed = self.out / "corpora", self.out / "data", self.seed
        runs = {stage: self.out / stage for stage in ("teacher", "student", "fusion")}
        rhythm = Rhythm(log_every=10, evaluate_every=200, checkpoint_every=200)
        affectnet = AffectNetPreparation(size=FACE_SIZE)
        recola = RecolaPreparation(size=FACE_SIZE, detect_every=DETECT_EVERY)
        parts: dict[str, Callable[[], None]] = {
            "Draw a synthetic AffectNet": lambda: self._synthesize("affectnet", corpora),
            "Draw a synthetic FEC": lambda: self._synthesize("fec", corpora),
            "Draw a synthetic RECOLA": lambda: self._synthesize("recola", corpora),
            "Prepare AffectNet": PrepareAffectNet(corpora / "affectnet", data, config=affectnet),
            "Prepare FEC": PrepareFec(corpora / "fec", data, config=FecPreparation(size=FACE_SIZE)),
            "Prepare RECOLA": PrepareRecola(corpora / "recola", data, config=recola),
            "Train the teacher": TrainTeacher(
                data, runs["teacher"], "demo", seed, resume=True, rhythm=rhythm, config=teacher.DEMO
            ),
            "Distil the student": TrainStudent(
                data, runs["student"], "demo", seed, True, rhythm, teacher=(runs["teacher"],), config=student.DEMO
            ),
            "Train voice and fusion": TrainFusion(
                data, runs["fusion"], "demo", seed, True, rhythm, face=runs["student"], config=fusion.DEMO
            ),
            "Evaluate": lambda: self._evaluate(data, runs, corpora),
        }
        console = Console()
        for number, (title, part) in enumerate(parts.items(), 1):
            console.rule(f"[bold]{number}/{len(parts)} {title}", align="left")
            part()

    def _claim_folder(self) -> None:
        """Keep demos of different seeds apart."""
        path = self.out / "demo.json"
        if path.exists() and (seed := json.loads(path.read_text())["seed"]) != self.seed:
            raise LaunchError(f"{self.out} was made with --seed {seed}: choose another --out for --seed {self.seed}")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seed": self.seed})

    def _synthesize(self, name: str, corpora: Path) -> None:
        folder = corpora / name
        if (folder / TRUTH_FILE).exists():
            print(f"reused: {folder}")
            return
        shutil.rmtree(folder, ignore_errors=True)  # truth.json is written last: what lies here is a broken start
        CORPORA[name](out=folder, seed=self.seed, preset="demo")()

    def _evaluate(self, data: Path, runs: dict[str, Path], corpora: Path) -> None:
        path = self.out / RESULTS_FILE
        if path.exists():
            evaluated = json.loads(path.read_text())["provenance"]["runs"]
            if evaluated == {
                name: asdict(read_record(run)) | {"path": str(run.absolute())} for name, run in runs.items()
            }:
                print(f"reused: {path}")
                Report(self.out)()
                return
        truth = tuple(corpora / name / TRUTH_FILE for name in CORPORA)
        Evaluate(data, self.out, runs["teacher"], runs["student"], runs["fusion"], truth=truth)()
