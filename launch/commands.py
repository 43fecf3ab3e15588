"""The tree of subcommands, made by tyro from the dataclasses that hold their settings."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from launch.benchmarks.distillation import BenchmarkDistillation
from launch.benchmarks.pipeline import BenchmarkPipeline
from launch.benchmarks.streaming import BenchmarkStreaming
from launch.benchmarks.train import BenchmarkTrain
from launch.convert import Convert
from launch.demo import Demo
from launch.errors import LaunchError
from launch.evaluate import Evaluate
from launch.export import Export
from launch.fetch import Fetch
from launch.inspect import Inspect
from launch.predict import Predict
from launch.prepare import PrepareAffectNet, PrepareClips, PrepareFaces, PrepareFec, PrepareRecola
from launch.report import Report
from launch.synthesize import SynthesizeAffectNet, SynthesizeFec, SynthesizeRecola
from launch.train import PRESETS, TrainStudent, TrainTeacher
from launch.train_fusion import TrainFusion

STAGES: dict[str, Any] = {"teacher": TrainTeacher, "student": TrainStudent, "fusion": TrainFusion}


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to be called; help and wrong usage exit here.

    Raises:
        LaunchError: the stage has no preset of the name given.
    """
    config = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(command_tree(preset_of(arguments)), args=arguments, config=config, prog="avemo")


def command_tree(preset: str | None) -> Any:
    """The type that tyro parses: a union of unions of dataclasses, their defaults set from the preset."""
    trainings = {stage: subcommand(stage, default=with_preset(stage, preset), prefix_name=False) for stage in STAGES}
    return _group(
        synthesize=(
            "Draw a synthetic corpus in the form of a real release.",
            _group(
                affectnet=SynthesizeAffectNet,
                fec=SynthesizeFec,
                recola=SynthesizeRecola,
            ),
        ),
        fetch=Fetch,
        prepare=(
            "Turn a corpus as it was released, or your own data, into ArrayRecord.",
            _group(
                affectnet=PrepareAffectNet, fec=PrepareFec, recola=PrepareRecola, faces=PrepareFaces, clips=PrepareClips
            ),
        ),
        inspect=Inspect,
        train=(
            "Train a stage.",
            Union[tuple(Annotated[STAGES[stage], trainings[stage]] for stage in STAGES)],  # noqa: UP007
        ),
        convert=Convert,
        evaluate=Evaluate,
        predict=Predict,
        export=Export,
        report=Report,
        benchmark=(
            "Measure speed and worth, against the machine's limits and against others.",
            _group(
                pipeline=BenchmarkPipeline,
                train=BenchmarkTrain,
                distillation=BenchmarkDistillation,
                streaming=BenchmarkStreaming,
            ),
        ),
        demo=Demo,
    )


def with_preset(stage: str, preset: str | None) -> Any:
    """The stage's command, with a preset's settings as its defaults."""
    presets = PRESETS[stage]
    name = preset or "paper"
    return STAGES[stage](data=tyro.MISSING, out=tyro.MISSING, preset=name, config=presets.get(name, presets["paper"]))


def preset_of(arguments: Sequence[str]) -> str | None:
    """The value of --preset, which decides the other settings' defaults and so is needed before they are parsed."""
    preset = None
    for i, argument in enumerate(arguments):
        if argument == "--preset" and i + 1 < len(arguments):
            preset = arguments[i + 1]
        elif argument.startswith("--preset="):
            preset = argument.removeprefix("--preset=")
    if arguments[:1] == ["train"] and arguments[1:2] and preset is not None:
        known = PRESETS.get(arguments[1], {preset: None})
        if preset not in known:
            raise LaunchError(f"{arguments[1]} has no preset {preset}: choose among {', '.join(known)}")
    return preset


def _group(**commands: Any) -> Any:
    members = []
    for name, command in commands.items():
        description, members_type = command if isinstance(command, tuple) else (None, command)
        members.append(Annotated[members_type, subcommand(name, description=description, prefix_name=False)])
    return Union[tuple(members)]  # noqa: UP007
