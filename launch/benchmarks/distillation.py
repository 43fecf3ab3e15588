"""`avemo benchmark distillation`: what a student keeps of its teacher, what it saves, and what distillation adds.

Every student is trained alone, taught by the teacher, and taught by itself (that is, by the same network trained alone
with the same seed), each with several seeds. Trainings that are done are used again, so that a benchmark that was
stopped goes on where it was; scores and times are measured anew, all in one run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from tyro.conf import arg

from avemo.models.face import FaceNetwork
from avemo.stages import supervision
from avemo.stages.student import Distillation
from avemo.stages.supervision import FaceTraining
from data_pipelines import loaders
from data_pipelines.loaders import FaceSet
from launch.benchmarks import latency, scores
from launch.benchmarks.classifiers import BLANK_FACE, Classifier, MiniXception, OnnxClassifier, OurClassifier
from launch.benchmarks.distillation_report import TEACHER, print_tables_of, write_page
from launch.benchmarks.results import as_json, machine, used_by_others, write_results
from launch.benchmarks.scores import Predictions
from launch.benchmarks.step_cost import measure_steps
from launch.checkpoints import variables_bytes
from launch.errors import LaunchError
from launch.evaluation import Evaluator, face_results, score_faces
from launch.freed_memory import keep_freed_memory
from launch.interruption import Interrupted
from launch.loop import Rhythm
from launch.mesh import MeshSetting, MeshShape, device_mesh
from launch.runs import command_line, read_record
from launch.train import PRESETS, TrainStudent, TrainTeacher, load_face_network, without_teacher

Arm = Literal["alone", "distilled", "self-distilled"]

MINI_XCEPTION = "mini-XCEPTION (fer)"
ONNX = "ONNX"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ai-edge-litert", "fer", "onnxruntime")
"""Whose versions the results name, where they are installed."""


class Cell(NamedTuple):
    """One training of a student."""

    student: str
    arm: Arm
    seed: int

    @property
    def folder(self) -> str:
        """Of its run."""
        return f"{self.student}-{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class BenchmarkDistillation:
    """Train students alone, distilled and self-distilled, and compare what they are worth and what they cost.

    Attributes:
        data: folder of the prepared corpora.
        out: folder for the runs, results.json and report.html.
        preset: the teacher's.
        students: presets of the students.
        arms: how they are trained.
        seeds: with which each is trained.
        faces: the labelled faces: AffectNet's, or your own (`avemo prepare faces`).
        teacher: run of a teacher that is trained already; by default one is trained here, with seed 0.
        hold_out: share of the training faces that no training learns from, and on which each is evaluated on its way.
        views: in how many ways each face is varied for students that are taught, so that a teacher is run once over
            each and what it says is kept, for all its students; 0 runs it in every step, on faces varied anew.
        steps: of every training; None leaves the presets'.
        rhythm: when to log, evaluate and save.
        mesh: devices along each axis.
        mini_xception: also score the network of the package fer.
        onnx: also score a classifier in an ONNX file.
        onnx_labels: the expressions that it tells, in its order.
        onnx_mean: what it wants subtracted from values 0 … 255: one number, or one for each channel.
        onnx_std: what it wants them divided by then.
    """

    data: Path
    out: Path
    preset: str = "small"
    students: tuple[str, ...] = ("small", "tiny")
    arms: tuple[Arm, ...] = get_args(Arm)
    seeds: tuple[int, ...] = (0, 1, 2)
    faces: FaceSet = "affectnet"
    teacher: Path | None = None
    hold_out: float = 0.1
    views: int = 0
    steps: int | None = None
    rhythm: Annotated[Rhythm, arg(name="")] = field(default_factory=Rhythm)
    mesh: MeshSetting = field(default_factory=MeshShape)
    mini_xception: bool = False
    onnx: Path | None = None
    onnx_labels: tuple[str, ...] = ()
    onnx_mean: tuple[float, ...] = (0.0,)
    onnx_std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for stage, names in {"teacher": (self.preset,), "student": self.students}.items():
            if unknown := [name for name in names if name not in PRESETS[stage]]:
                raise ValueError(f"{stage} has no preset {unknown[0]}: choose among {', '.join(PRESETS[stage])}")
        for name in ("students", "arms", "seeds"):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} must not be empty, and name each but once")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"--hold-out {self.hold_out}: the share must lie in [0, 1)")
        for student in self.students:
            self.config_of(student)  # refuses what can't be
        if self.onnx:
            self.onnx_peer(self.onnx)

    def __call__(self) -> None:
        """Train what is not trained yet, measure, and write results and report."""
        keep_freed_memory()
        mesh, console = device_mesh(self.mesh), Console()
        self.check(mesh)
        peers = self.peers()
        try:
            self.train_all(mesh, console)
        except Interrupted as stop:
            raise Interrupted("told to stop, and all steps are saved: to go on, give the same command again") from stop
        results = self.measure(mesh, peers, console)
        write_results(self.out / "results.json", results, console)
        print_tables_of(results)
        console.print(f"report: {write_page(self.out, results)}")

    def check(self, mesh: Mesh) -> None:
        """Raise LaunchError where something would only fail after hours of training."""
        if not any(loaders.class_counts(self.data, self.faces, "validation")):
            raise LaunchError(f"{self.data / self.faces}: no face of the validation split has an expression")
        teacher = self.config_of_teacher().network
        if self.teacher:
            teacher, _ = load_face_network(self.teacher, mesh)
            learned_from, corpus = read_record(self.teacher).inputs, loaders.corpus_of(self.faces)
            same = learned_from.get(corpus) == loaders.fingerprint(self.data, corpus)
            if same and (held_out := learned_from.get("hold_out", 0.0)) != self.hold_out:
                raise LaunchError(
                    f"{self.teacher} held out {held_out:g} of these faces, the students would {self.hold_out:g}, and "
                    f"learn from it what they shouldn't see: add --hold-out {held_out:g}"
                )
        for student in self.students:
            size = self.config_of(student).network.image_size
            if size != teacher.image_size:
                raise LaunchError(
                    f"the student {student} sees {size} pixels, its teacher {teacher.image_size}: choose others"
                )

    def peers(self) -> dict[str, Classifier]:
        """The classifiers of others. Raises LaunchError where one can't be measured here."""
        found: dict[str, Classifier] = {}
        if self.mini_xception:
            found[MINI_XCEPTION] = MiniXception()
        if self.onnx:
            found[f"{ONNX} {self.onnx.stem}"] = self.onnx_peer(self.onnx)
        for peer in found.values():
            peer.build(1, None).probabilities(peer.prepare(BLANK_FACE[None]))
        return found

    def onnx_peer(self, path: Path) -> OnnxClassifier:
        """The classifier in an ONNX file."""
        return OnnxClassifier(path, self.onnx_labels, self.onnx_mean, self.onnx_std)

    # ---------------------------------------- training ----------------------------------------

    def cells(self) -> Iterator[Cell]:
        """All trainings of students, those that teach others first."""
        arms = [arm for arm in get_args(Arm) if arm in self.arms or (arm == "alone" and "self-distilled" in self.arms)]
        for arm, seed, student in product(arms, self.seeds, self.students):
            yield Cell(student, arm, seed)

    def run_of(self, cell: Cell) -> Path:
        """The folder of a cell's run."""
        return self.out / "runs" / cell.folder

    def teacher_run(self) -> Path:
        """The folder of the teacher's run."""
        return self.teacher or self.out / "runs" / TEACHER

    def train_all(self, mesh: Mesh, console: Console) -> None:
        """Every training that is not done yet."""
        cells = list(self.cells())
        if self.teacher is None:
            console.rule(f"[bold]{TEACHER}", align="left")
            config = self.config_of_teacher()
            run = TrainTeacher(out=self.teacher_run(), preset=self.preset, seed=0, config=config, **self._common())
            run.train_on(mesh)
        for number, cell in enumerate(cells, start=1):
            console.rule(f"[bold]{number}/{len(cells)} {cell.student} {cell.arm}, seed {cell.seed}", align="left")
            self._train(cell, mesh)

    def _train(self, cell: Cell, mesh: Mesh) -> None:
        config = self.config_of(cell.student)
        common: dict[str, Any] = {"out": self.run_of(cell), "preset": cell.student, "seed": cell.seed} | self._common()
        if cell.arm == "alone":
            TrainTeacher(config=without_teacher(config), **common).train_on(mesh)
            return
        teacher = self.teacher_run() if cell.arm == "distilled" else self.run_of(cell._replace(arm="alone"))
        TrainStudent(teacher=(teacher,), config=config, cache_teacher=self.views > 0, **common).train_on(mesh)

    def _common(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "faces": self.faces,
            "hold_out": self.hold_out,
            "resume": True,
            "rhythm": self.rhythm,
            "mesh": self.mesh,
        }

    def config_of_teacher(self) -> FaceTraining:
        """The teacher's training."""
        config = PRESETS["teacher"][self.preset]
        return config if self.steps is None else replace(config, steps=self.steps)

    def config_of(self, student: str) -> Distillation:
        """The training of a student that is taught."""
        config = replace(PRESETS["student"][student], views=self.views)
        return config if self.steps is None else replace(config, steps=self.steps)

    # ---------------------------------------- measuring ----------------------------------------

    def measure(self, mesh: Mesh, peers: Mapping[str, Classifier], console: Console) -> dict[str, Any]:
        """All that is known of the trained networks and of the peers."""
        runs = {TEACHER: self.teacher_run()} | {cell.folder: self.run_of(cell) for cell in self.cells()}
        networks = {name: classifier_of(run, mesh) for name, run in runs.items()}
        everyone: dict[str, Classifier] = {**networks, **peers}
        predictions = scores.predict(everyone, self.data, self.faces)
        found = {name: scores.figures(predictions[name]) | {"size": dict(each.size)} for name, each in everyone.items()}
        for name, network in networks.items():
            found[name] |= self._more_scores(network, runs[name], mesh)
        measured: dict[str, Classifier] = {TEACHER: networks[TEACHER]}
        measured |= {cell.student: networks[cell.folder] for cell in self.cells()}  # its trainings cost the same
        measured |= peers
        device = jax.devices()[0].device_kind
        used = used_by_others(console)
        return {
            "settings": as_json(self),
            "command": command_line(),
            "machine": machine(PACKAGES) | {"device": device, "devices": jax.device_count(), "used by others": used},
            "data": {"faces": self.faces, "fingerprint": loaders.fingerprint(self.data, self.faces)},
            "trainings": {name: asdict(read_record(run)) for name, run in runs.items()},
            "networks": found,
            "students": {student: self._compare(student, predictions) for student in self.students},
            "speed": self._speeds(measured, console),
            "steps": self._steps(mesh, console),
        }

    def _more_scores(self, network: OurClassifier, run: Path, mesh: Mesh) -> dict[str, Any]:
        """Triplets, and valence and arousal, where there are labels."""
        with_fec = read_record(run).config["triplet_batch_size"] > 0
        evaluator = Evaluator(partial(supervision.evaluate_faces, FaceNetwork(network.config)), mesh)
        metrics = face_results(score_faces(evaluator, network.variables, self.data, self.faces, with_fec))
        return {name: value for name, value in metrics.items() if name.startswith(("triplet_accuracy", "ccc"))}

    def _compare(self, student: str, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
        """A student's arms, each over all seeds, and how they differ from training alone."""
        runs: dict[str, list[str]] = {}
        for cell in self.cells():
            if cell.student == student:
                runs.setdefault(cell.arm, []).append(cell.folder)
        by_arm = {arm: [predictions[run] for run in names] for arm, names in runs.items()}
        found: dict[str, Any] = {}
        for arm, trained in by_arm.items():
            right = np.array([each.right() for each in trained])
            seven = np.array([each.of_seven().right() for each in trained])
            found[arm] = {
                "runs": runs[arm],
                "accuracy_8": right.mean(),
                "interval_8": scores.interval_over_faces(right.mean(axis=0)),
                "seeds_8": right.mean(axis=1).tolist(),
                "accuracy_7": seven.mean(),
                "interval_7": scores.interval_over_faces(seven.mean(axis=0)),
                "below_teacher": predictions[TEACHER].right().mean() - right.mean(),
            }
            if arm != "alone" and "alone" in by_arm:
                found[arm]["gain"] = scores.difference(trained, by_arm["alone"])
        return found

    def _speeds(self, measured: Mapping[str, Classifier], console: Console) -> dict[str, Any]:
        """Times on one processor, on all, and on an accelerator if there is one."""
        faces = next(iter(loaders.face_eval_batches(self.data, batch_size=max(latency.BATCHES), name=self.faces)))
        found = {}
        for label, threads in {"one thread": 1, "all threads": None}.items():
            console.print(f"timing {len(measured)} networks, {label} ...")
            found[label] = latency.measure_apart(measured, faces["image"], threads)
        if (device := jax.devices()[0]).platform != "cpu":
            console.print(f"timing on {device.device_kind} ...")
            ours = {name: each for name, each in measured.items() if isinstance(each, OurClassifier)}
            found[device.device_kind] = latency.measure(ours, faces["image"], None)
        return found

    def _steps(self, mesh: Mesh, console: Console) -> dict[str, Any]:
        """What teaching adds to a training step."""
        console.print("timing training steps ...")
        taught_by = load_face_network(self.teacher_run(), mesh)
        return measure_steps(self.config_of(self.students[0]), taught_by, self.data, self.faces, mesh)


def classifier_of(run: Path, mesh: Mesh) -> OurClassifier:
    """The network of a finished run."""
    config, variables = load_face_network(run, mesh)
    return OurClassifier(config, jax.device_get(variables), variables_bytes(run))
