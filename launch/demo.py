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
from data_pipelines.builders import AffectNetPreparation, FecPreparation, RecolaPreparation
from launch.errors import LaunchError
from launch.evaluate import RESULTS_FILE, Evaluate
from launch.loop import Rhythm
from launch.prepare import PrepareAffectNet, PrepareFec, PrepareRecola
from launch.report import print_table, write_report
from launch.runs import read_record, write_json
from launch.synthesize import SynthesizeAffectNet, SynthesizeFec, SynthesizeRecola
from launch.train import TrainFusion, TrainStudent, TrainTeacher

CORPORA = {"affectnet": SynthesizeAffectNet, "fec": SynthesizeFec, "recola": SynthesizeRecola}
STAGES = ("teacher", "student", "fusion")
FACE_SIZE = 56
"""Pixels of a prepared face: the demo's networks see random 48-pixel crops of it."""


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
        corpora, data, out, seed = self.out / "corpora", self.out / "data", self.out, self.seed
        runs = {stage: out / stage for stage in STAGES}
        common = {"data": data, "preset": "demo", "seed": seed, "resume": True}
        rhythm = Rhythm(log_every=10, evaluate_every=200, checkpoint_every=200)
        parts: list[tuple[str, Callable[[], None]]] = [
            *(
                (f"Synthetic {name}", lambda name=name: self._synthesize(name, corpora / name))
                for name in CORPORA
            ),
            (
                "Prepare affectnet",
                PrepareAffectNet(corpora / "affectnet", data, AffectNetPreparation(size=FACE_SIZE)),
            ),
            ("Prepare fec", PrepareFec(corpora / "fec", data, FecPreparation(size=FACE_SIZE))),
            (
                "Prepare recola",
                PrepareRecola(corpora / "recola", data, RecolaPreparation(size=FACE_SIZE, detect_every=5)),
            ),
            ("Train the teacher", TrainTeacher(out=runs["teacher"], rhythm=rhythm, config=teacher.DEMO, **common)),
            (
                "Distil the student",
                TrainStudent(
                    out=runs["student"], rhythm=rhythm, config=student.DEMO, teacher=runs["teacher"], **common
                ),
            ),
            (
                "Train voice and fusion",
                TrainFusion(out=runs["fusion"], rhythm=rhythm, config=fusion.DEMO, face=runs["student"], **common),
            ),
            ("Evaluate", lambda: self._evaluate(data, runs, [corpora / name / "truth.json" for name in CORPORA])),
        ]
        console = Console()
        for number, (title, part) in enumerate(parts, 1):
            console.rule(f"[bold]{number}/{len(parts)} {title}", align="left")
            part()
        print_table(json.loads((out / RESULTS_FILE).read_text()))
        print(f"report: {write_report(out)}")

    def _claim_folder(self) -> None:
        """Keep demos of different seeds apart."""
        path = self.out / "demo.json"
        if path.exists() and (seed := json.loads(path.read_text())["seed"]) != self.seed:
            raise LaunchError(f"{self.out} was made with --seed {seed}: choose another --out for --seed {self.seed}")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seed": self.seed})

    def _synthesize(self, name: str, folder: Path) -> None:
        if (folder / "truth.json").exists():
            print(f"reused: {folder}")
            return
        shutil.rmtree(folder, ignore_errors=True)  # truth.json is written last: what lies here is a broken start
        CORPORA[name](out=folder, seed=self.seed, preset="demo")()

    def _evaluate(self, data: Path, runs: dict[str, Path], truth: list[Path]) -> None:
        path = self.out / RESULTS_FILE
        if path.exists():
            evaluated = json.loads(path.read_text())["provenance"]["runs"]
            if all(
                evaluated.get(name) == asdict(read_record(run)) | {"path": str(run)} for name, run in runs.items()
            ):
                print(f"reused: {path}")
                return
        Evaluate(data=data, out=self.out, truth=tuple(truth), **runs)()
