"""`avemo train {teacher,student}`: put data, stage and loop together."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import jax
import tyro
from jax.sharding import Mesh
from tyro.conf import arg

from avemo.models.face import FaceConfig, FaceNetwork, check_trunk, variable_shapes
from avemo.stages import fusion, student, teacher
from avemo.stages.student import Distillation
from avemo.stages.supervision import FaceTraining, class_weights
from avemo.training import Stage
from data_pipelines import loaders
from data_pipelines.kept_outputs import KeptOutputs
from data_pipelines.loaders import FaceSet, PictureSet
from data_pipelines.records import open_split
from launch.checkpoints import Checkpoints
from launch.convert import read_trunk
from launch.errors import LaunchError
from launch.evaluation import (
    Evaluator,
    face_results,
    score_faces,
)
from launch.freed_memory import keep_freed_memory
from launch.hosts import Hosts, host_share, joined
from launch.interruption import Check
from launch.loop import Rhythm, Together, start_run, train
from launch.mesh import MeshSetting, MeshShape, check_batch_size, device_mesh
from launch.prepare import check_image_size, check_same_size, crop_settings, what_they_are
from launch.runs import RunRecord, read_record, run_input, stage_config
from launch.teacher_cache import TeacherCache

PRESETS: dict[str, dict[str, Any]] = {
    "teacher": {**teacher.PRESETS},
    "student": {**student.PRESETS},
    "fusion": {**fusion.PRESETS},
}
"""What `--preset` starts from, by stage."""


@dataclass(frozen=True)
class Run:
    """What every training is told.

    Attributes:
        data: folder of the prepared corpora (the --out of `avemo prepare`).
        out: folder of this run: its configuration, metrics and checkpoints.
        preset: where the settings below start from; whoever asks for one that there isn't is told those there are.
        seed: root of all random numbers.
        resume: go on with a run that was stopped.
        rhythm: when to log, evaluate and save.
        mesh: devices along each axis, e.g. `data=8` or `data=4 fsdp=2`; all of them along data by default.
        hosts: how the processes of this training find each other.
        profile: steps to trace, after the first few; 0 for none. The trace lies in the folder profile of --out, and
            Perfetto and XProf open it.
    """

    data: Path
    out: Path
    preset: str = "paper"
    seed: int = 0
    resume: bool = False
    rhythm: Annotated[Rhythm, arg(name="")] = field(default_factory=Rhythm)
    mesh: MeshSetting = field(default_factory=MeshShape)
    hosts: Annotated[Hosts, arg(name="")] = field(default_factory=Hosts)
    profile: int = 0

    def __post_init__(self) -> None:
        if self.profile < 0:
            raise ValueError(f"--profile {self.profile}: a number of steps can't be negative")

    def __call__(self) -> None:
        """Train to the last step, together with the other hosts if there are any."""
        keep_freed_memory()
        with joined(self.hosts):  # before anything touches a device
            self.train_on(device_mesh(self.mesh))

    def train_on(self, mesh: Mesh) -> None:
        """Train on these devices."""
        raise NotImplementedError


@dataclass(frozen=True)
class FaceRun(Run):
    """What every training of a face network is told.

    Attributes:
        faces: whose labels it learns from: AffectNet's, or your own (`avemo prepare faces`).
        hold_out: share of the training faces that is not learnt from, and on which the training is evaluated instead of
            on the validation split (and FEC's test split): for choosing settings without looking at those.
        trunk: what `avemo convert` made of published weights, for the trunk to begin with.
    """

    faces: FaceSet = "affectnet"
    hold_out: float = 0.0
    trunk: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"--hold-out {self.hold_out}: the share must lie in [0, 1)")


@dataclass(frozen=True)
class TrainTeacher(FaceRun):
    """Train the face teacher on AffectNet's labels (or your own) and FEC's triplets.

    Attributes:
        config: the training itself.
    """

    config: Annotated[FaceTraining, arg(name="")] = teacher.PAPER

    def train_on(self, mesh: Mesh) -> None:
        """Train on these devices."""
        config, trunk, inputs = self.config, first_trunk(self), face_inputs(self)
        crop, rates = crop_settings(self.data, self.faces), loaders.has_valence_arousal(self.data, self.faces)
        corpora = what_they_are(self.data, corpora_of(config, self.faces))
        record = RunRecord.new("teacher", self.preset, self.seed, config, inputs, crop, rates, corpora)
        weights = class_weights(loaders.class_counts(self.data, self.faces), config.supervision.class_weighting)
        stage = teacher.build(config, weights, self.seed, trunk)
        train_faces(self, mesh, record, config, stage)


@dataclass(frozen=True)
class TrainStudent(FaceRun):
    """Distil a teacher into a student.

    Attributes:
        teacher: run of the teacher, or of several; another student's run serves for the second step of
            self-distillation.
        cache_teacher: run each teacher once over all faces in all their --views, keep what it says beside the data, and
            learn from that: the first student pays for it, later ones train as fast as without a teacher.
        unlabelled: faces to learn from beside those with labels, by what the teachers say of them alone: AffectNet's
            without an expression (`avemo prepare affectnet --unlabelled`), FEC's, or your own.
        config: the training itself.
    """

    teacher: tuple[Path, ...] = tyro.MISSING
    config: Annotated[Distillation, arg(name="")] = student.PAPER
    cache_teacher: bool = False
    unlabelled: PictureSet | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.unlabelled is None) != (self.config.unlabelled_batch_size == 0):
            raise ValueError("--unlabelled says which faces, --unlabelled-batch-size how many: give both or neither")
        if self.cache_teacher and not self.config.views:
            raise ValueError("--cache-teacher needs a number of ways to vary each face: add, for instance, --views 10")

    def train_on(self, mesh: Mesh) -> None:
        """Train on these devices."""
        config, trunk = self.config, first_trunk(self)
        teachers = [load_face_network(teacher, mesh) for teacher in self.teacher]
        if not all(read_record(teacher).rates for teacher in self.teacher):  # theirs is a head that has learned nothing
            config = replace(config, regression_weight=0.0)
        inputs = face_inputs(self, self.unlabelled)
        inputs |= {"teacher": [run_input(teacher) for teacher in self.teacher]}
        crop, rates = crop_settings(self.data, self.faces), loaders.has_valence_arousal(self.data, self.faces)
        rates |= bool(config.regression_weight)
        corpora = what_they_are(self.data, corpora_of(config, self.faces, self.unlabelled))
        record = RunRecord.new("student", self.preset, self.seed, config, inputs, crop, rates, corpora, self.teacher)
        weights = class_weights(loaders.class_counts(self.data, self.faces), config.supervision.class_weighting)
        try:
            stage = student.build(config, weights, self.seed, teachers, trunk)
        except ValueError as error:
            raise LaunchError(f"{', '.join(map(str, self.teacher))} can't teach this student: {error}") from error
        if not self.cache_teacher:
            train_faces(self, mesh, record, config, stage, unlabelled=self.unlabelled)
            return
        taught = {
            stream: [TeacherCache(self.data, stream, source, *teacher, config, mesh) for teacher in teachers]
            for stream, source in sources_of(config, self.faces, self.unlabelled).items()
        }
        train_faces(self, mesh, record, config, from_kept_outputs(stage), taught, self.unlabelled)


def train_faces(
    run: FaceRun,
    mesh: Mesh,
    record: RunRecord,
    config: FaceTraining,
    stage: Stage,
    taught: Mapping[str, Sequence[TeacherCache]] = MappingProxyType({}),
    unlabelled: PictureSet | None = None,
) -> None:
    """What teacher and student have in common: faces in, figures on labelled faces and on FEC out.

    `taught` is what teachers say of the faces of each stream; what isn't kept yet is said before the first step.
    """
    corpora = corpora_of(config, run.faces, unlabelled)
    for corpus in corpora:
        check_image_size(run.data, corpus, config.network.image_size)
    check_same_size(run.data, corpora)
    sizes = {name: size for name, size in asdict(config).items() if name.endswith("batch_size")}
    check_batch_size(mesh, config.accumulate, **sizes)
    kept = {stream: [cache.kept for cache in caches] for stream, caches in taught.items()}
    batches = face_streams(run.data, run.faces, config, run.seed, run.hold_out, kept, unlabelled)
    if not run.hold_out:
        open_split(run.data, run.faces, "validation")  # if there is none, it is told now, not at the first evaluation
    if not start_run(run.out, record, config.steps, run.resume):
        return
    for cache in chain(*taught.values()):
        cache.fill()
    evaluator = Evaluator(stage.eval_step, mesh)

    def evaluate(variables: Any, check: Check) -> dict[str, float]:
        with_fec = bool(config.triplet_batch_size)
        found = score_faces(evaluator, variables, run.data, run.faces, with_fec, check=check, held_out=run.hold_out)
        return face_results(found)

    train(
        name=record.stage,
        run=run.out,
        stage=stage,
        batches=batches,
        steps=config.steps,
        examples_per_step=faces_in_a_step(config),
        seed=run.seed,
        mesh=mesh,
        rhythm=run.rhythm,
        evaluate=evaluate,
        profile_steps=run.profile,
    )


def face_streams(
    data: Path,
    faces: FaceSet,
    config: FaceTraining,
    seed: int,
    hold_out: float = 0.0,
    taught: Mapping[str, Sequence[KeptOutputs]] = MappingProxyType({}),
    unlabelled: PictureSet | None = None,
) -> Together:
    """The training batches of a face network, this host's share of each.

    Args:
        data: folder of the prepared corpora.
        faces: the labelled faces.
        config: says how many of them, and how many of FEC's triplets, make a batch.
        seed: of the order.
        hold_out: share of the labelled faces that is left out.
        taught: what teachers said of the faces of each stream.
        unlabelled: faces to be learnt from without labels.
    """
    hosts = jax.process_count()
    share: Callable[[str], Any] = lambda stream: {"seed": seed, "taught": taught.get(stream, ())} | host_share()
    sources = sources_of(config, faces, unlabelled)
    streams = {
        "affectnet": loaders.face_batches(
            data, batch_size=config.batch_size // hosts, name=faces, hold_out=hold_out, **share("affectnet")
        )
    }
    if triplets := config.triplet_batch_size // hosts:
        streams["fec"] = loaders.triplet_batches(data, batch_size=triplets, **share("fec"))
    if "unlabelled" in sources and isinstance(config, Distillation):
        dataset, split = sources["unlabelled"]
        kept: Any = {"hold_out": hold_out} if sources["unlabelled"] == sources["affectnet"] else {}
        count = config.unlabelled_batch_size // hosts
        streams["unlabelled"] = loaders.picture_batches(
            data, dataset, split, batch_size=count, **kept, **share("unlabelled")
        )
    return Together(streams)


def faces_in_a_step(config: FaceTraining) -> int:
    """How many pictures all streams together give."""
    unlabelled = config.unlabelled_batch_size if isinstance(config, Distillation) else 0
    return config.batch_size + 3 * config.triplet_batch_size + unlabelled


def without_teacher(config: Distillation) -> FaceTraining:
    """The same training from labels alone."""
    return FaceTraining(**{each.name: getattr(config, each.name) for each in fields(FaceTraining)})


def from_kept_outputs(stage: Stage) -> Stage:
    """A student's stage for batches that bring along what its teachers said: these are not needed any more."""
    return stage._replace(frozen=((),))


def face_inputs(run: TrainTeacher | TrainStudent, unlabelled: PictureSet | None = None) -> dict[str, Any]:
    """Fingerprints of what a face network learns from, the data by the name of the dataset."""
    corpora = corpora_of(run.config, run.faces, unlabelled)
    inputs: dict[str, Any] = {corpus: loaders.fingerprint(run.data, corpus) for corpus in corpora}
    trunk = hashlib.sha256(run.trunk.read_bytes()).hexdigest() if run.trunk else None
    told = {"hold_out": run.hold_out, "unlabelled": unlabelled, "trunk": trunk}
    return inputs | {name: value for name, value in told.items() if value}


def first_trunk(run: TrainTeacher | TrainStudent) -> Any:
    """What the network's trunk begins with; None draws it. Raises LaunchError where that is another network's."""
    if run.trunk is None:
        return None
    trunk = read_trunk(run.trunk)
    try:
        check_trunk(FaceNetwork(run.config.network), trunk)
    except ValueError as error:
        raise LaunchError(f"{run.trunk} can't begin this network: {error}") from error
    return trunk


def sources_of(
    config: FaceTraining, faces: FaceSet, unlabelled: PictureSet | None = None
) -> dict[str, tuple[str, str]]:
    """Dataset and split of the pictures of each stream."""
    sources: dict[str, tuple[str, str]] = {"affectnet": (faces, "train")}
    if config.triplet_batch_size:
        sources["fec"] = loaders.PICTURES["fec"]
    if unlabelled:
        sources["unlabelled"] = loaders.PICTURES[unlabelled]
    return sources


def corpora_of(config: FaceTraining, faces: FaceSet, unlabelled: PictureSet | None = None) -> list[str]:
    """The corpora that those pictures are of."""
    sources = sources_of(config, faces, unlabelled).values()
    return list(dict.fromkeys(loaders.corpus_of(dataset) for dataset, _ in sources))


def load_face_network(run: Path, mesh: Mesh) -> tuple[FaceConfig, Any]:
    """The network of a teacher's or a student's run, and its trained variables.

    Raises:
        LaunchError: the run holds something else, no checkpoint, or one that does not fit its configuration.
    """
    record = read_record(run)
    if record.stage not in ("teacher", "student"):
        raise LaunchError(f"{run} holds a {record.stage}, not a face network")
    training: type[FaceTraining] = FaceTraining if record.stage == "teacher" else Distillation
    trained = stage_config(run, record.stage, training)
    config = trained.network
    like = variable_shapes(FaceNetwork(config))
    return config, finished_variables(run, trained.steps, like, mesh)


def finished_variables(run: Path, steps: int, like: Any, mesh: Mesh) -> Any:
    """The variables after the last step of a run. Raises LaunchError where it has not got there."""
    with Checkpoints(run) as checkpoints:
        if (step := checkpoints.latest_step() or 0) < steps:
            raise LaunchError(f"{run} has done {step} of {steps} steps: finish it with --resume")
        return checkpoints.restore_variables(like, mesh)
