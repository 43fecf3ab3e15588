"""The folder of a training run: what was asked for (`run.json`), how it went (`metrics.jsonl`), and its checkpoints."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from launch.errors import LaunchError

Config = TypeVar("Config")

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
PACKAGES = (
    "avemo",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
    "librosa",
)


@dataclass(frozen=True)
class RunRecord:
    """All that is needed to repeat a run.

    Attributes:
        stage: "teacher", "student" or "fusion".
        preset: the preset that the configuration started from.
        seed: root of all random numbers.
        config: the resolved stage configuration, as plain data.
        inputs: fingerprints of the prepared data, and paths of the runs this one builds on.
        command: the command line.
        versions: of the packages that matter.
        crop: how the faces that it learned from were cut (`CropConfig`'s settings); a run of an earlier version
            doesn't say so.
        rates: whether it has learned valence and arousal.
        corpora: of each corpus that it learned from, or the runs it builds on did: how it was prepared, and whether
            it is "synthetic"; a run of an earlier version doesn't say so.
    """

    stage: str
    preset: str
    seed: int
    config: dict[str, Any]
    inputs: dict[str, Any]
    command: str
    versions: dict[str, str]
    crop: dict[str, Any] = field(default_factory=dict)
    rates: bool = False
    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Names of the corpora that were synthetic."""
        return tuple(name for name, told in self.corpora.items() if told.get("synthetic"))

    @classmethod
    def new(
        cls,
        stage: str,
        preset: str,
        seed: int,
        config: Any,
        inputs: dict[str, Any],
        crop: Mapping[str, Any] = MappingProxyType({}),
        rates: bool = False,
        corpora: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        builds_on: Iterable[Path] = (),
    ) -> "RunRecord":
        """The record of a run started now; of the runs it builds on it takes over what they have learned from."""
        said = plain(config), inputs, command_line(), package_versions()
        learned = {name: dict(told) for name, told in corpora.items()}
        for run in builds_on:
            for name, told in read_record(run).corpora.items():
                learned[name] = told | learned.get(name, {}) | ({"synthetic": True} if told.get("synthetic") else {})
        return cls(stage, preset, seed, *said, dict(crop), rates, learned)

    def what(self) -> dict[str, Any]:
        """The part that decides the result; the rest may differ when a run is resumed, or its folder is moved."""
        decisive = {name: getattr(self, name) for name in ("stage", "seed", "config")}
        return decisive | {"inputs": without_paths(self.inputs)}


def run_input(run: Path) -> dict[str, str]:
    """How a run that another one builds on is named in its `inputs`: where it is, and a digest of what it was."""
    what = json.dumps(read_record(run).what(), sort_keys=True)
    return {"run": str(run.absolute()), "fingerprint": hashlib.sha256(what.encode()).hexdigest()}


def without_paths(inputs: Any) -> Any:
    """The inputs of a run: of another run, its fingerprint alone."""
    if isinstance(inputs, dict):
        return inputs["fingerprint"] if "run" in inputs else {name: without_paths(inputs[name]) for name in inputs}
    return [without_paths(each) for each in inputs] if isinstance(inputs, list) else inputs


def plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as the plain data that JSON gives back (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def command_line() -> str:
    """The command as it was typed, with the program's short name."""
    return " ".join(["avemo", *sys.argv[1:]])


def package_versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def read_record(run: Path) -> RunRecord:
    """The record of an earlier run. Raises LaunchError where there is none or it can't be read."""
    path = run / RUN_FILE
    if not path.is_file():
        raise LaunchError(f"{run} is no training run: it has no {RUN_FILE}")
    try:
        return TypeAdapter(RunRecord).validate_json(path.read_bytes())
    except ValidationError as error:
        raise LaunchError(f"{path} can't be read: {_first(error)}") from error


def stage_config(run: Path, stage: str, config_type: type[Config]) -> Config:
    """The configuration of an earlier run of the given stage.

    Raises:
        LaunchError: the run is of another stage, or was written by a version whose configuration had other fields.
    """
    record = read_record(run)
    if record.stage != stage:
        raise LaunchError(f"{run} holds a {record.stage}, not a {stage}")
    try:
        config = TypeAdapter(config_type).validate_python(record.config)
    except ValidationError as error:
        raise LaunchError(f"{run / RUN_FILE} is no configuration of this version: {_first(error)}") from error
    if (field := first_difference(plain(config), record.config)) is not None:
        raise LaunchError(f"{run / RUN_FILE} is no configuration of this version: {field} is unknown or missing")
    return config


def first_difference(mine: Any, theirs: Any, where: str = "") -> str | None:
    """The dotted name of the first place where two plain structures differ, or None where they are equal."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted(mine.keys() | theirs.keys()):
            inner = first_difference(mine.get(key), theirs.get(key), f"{where}.{key}".lstrip("."))
            if inner is not None:
                return inner
        return None
    return None if mine == theirs else where or "the whole"


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
