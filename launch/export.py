"""`avemo export`: trained networks as files that run without this project, and a card that says what they are."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from launch.errors import LaunchError
from launch.exported_parts import Arrays, ExportDType, Part, audio_part, face_part, fusion_part
from launch.mesh import data_mesh
from launch.model_card import CARD_FILE, README_FILE, Trained, as_markdown, card_of
from launch.parity import largest_error
from launch.runs import read_record, write_json
from launch.train import load_face_network
from launch.train_fusion import load_fitted, load_fusion, trained_face

Format = Literal["stablehlo", "onnx"]

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a StableHLO file can be run on."""

BOUND: dict[ExportDType, float] = {"float32": 1e-4, "float16": 1e-2}
"""How far an exported number may be from JAX's in float32, see `largest_error`; else nothing is written."""

Made = tuple[bytes, Callable[[Arrays], Arrays]]
"""A file's content, and a function that runs it."""


@dataclass(frozen=True)
class Export:
    """Export a finished run: a teacher or student as one file, a fusion as three (face, audio, and the streaming step).

    Attributes:
        run: of a teacher, a student or a fusion.
        out: folder for the files, card.json and README.md; a new or an empty one.
        format: StableHLO, for JAX and XLA, on CPUs, CUDA and TPUs alike; or ONNX.
        dtype: float16 halves the files; what isn't safe in it stays float32, as do inputs and outputs.
    """

    run: Path
    out: Path
    format: Format
    dtype: ExportDType = "float32"

    def __call__(self) -> None:
        """Make the files, compare each with JAX, and only then write them."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise LaunchError(f"{self.out} is not empty: give a new folder with --out")
        make = to_stablehlo if self.format == "stablehlo" else onnx_maker()
        trained = load_trained(self.run)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # an accelerator would round float32 products
            self.write(trained, make)

    def write(self, trained: Trained, make: Callable[[Part], Made]) -> None:
        """Write what a file's maker makes of a run, unless it is further from JAX than the bound."""
        contents, files = {}, {}
        for part, in_jax in zip(parts_of(trained, self.dtype), parts_of(trained, "float32"), strict=True):
            name = f"{part.name}.{self.format}"
            contents[name], run = make(part)
            error = largest_error(run, in_jax)
            if error > BOUND[self.dtype]:
                hint = "try --dtype float32" if self.dtype == "float16" else "try another --format"
                raise LaunchError(
                    f"{name} would be {error:.1e} from what {self.run} gives in JAX, more than "
                    f"{BOUND[self.dtype]:.0e}: nothing was written; {hint}"
                )
            digest = hashlib.sha256(contents[name]).hexdigest()
            files[name] = (part, {"bytes": len(contents[name]), "sha256": digest, "largest_error_found": error})
        card = card_of(trained, self.format, self.dtype, BOUND[self.dtype], files)
        self.out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (self.out / name).write_bytes(content)
            print(f"{self.out / name}: {len(content):,} bytes, {files[name][1]['largest_error_found']:.1e} from JAX")
        (self.out / README_FILE).write_text(as_markdown(card))
        write_json(self.out / CARD_FILE, card)


def load_trained(run: Path) -> Trained:
    """The networks of a finished run of any stage. Raises LaunchError where it isn't finished."""
    mesh, record = data_mesh(), read_record(run)
    if record.stage != "fusion":
        return Trained(run, record, *load_face_network(run, mesh))
    fusion, fitted, face = load_fusion(run, mesh), load_fitted(run), read_record(trained_face(run))
    return Trained(run, record, fusion.face_config, fusion.face_variables, face, fusion, fitted)


def parts_of(trained: Trained, dtype: ExportDType) -> list[Part]:
    """What a run is exported as."""
    face = face_part(trained.face_config, trained.face_variables, dtype)
    if trained.fusion is None or trained.fitted is None:
        return [face]
    return [face, audio_part(trained.fusion, dtype), fusion_part(trained.fusion, trained.fitted, dtype)]


def to_stablehlo(part: Part) -> Made:
    """For all platforms at once, as `jax.export.deserialize` reads it."""
    exported = jax.export.export(jax.jit(part.step), platforms=PLATFORMS)(part.shapes())
    content = bytes(exported.serialize())
    again = jax.export.deserialize(bytearray(content))
    return content, lambda inputs: jax.device_get(again.call(inputs))


def onnx_maker() -> Callable[[Part], Made]:
    """What makes ONNX files. Raises LaunchError where its packages aren't installed."""
    try:
        import onnxruntime

        from launch.onnx_graph import to_onnx
    except ImportError as error:
        raise LaunchError(
            'ONNX needs packages that are not installed; in the project folder: pip install -e ".[export]"'
        ) from error

    def make(part: Part) -> Made:
        content = to_onnx(part.step, part.shapes(), part.name).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return content, lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))

    return make
