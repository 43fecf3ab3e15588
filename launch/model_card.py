"""The card of what was exported: `card.json` for programs, `README.md` for people, the same in both."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ
from avemo.models.face import FaceConfig
from avemo.models.fusion import FusionConfig
from launch.exported_parts import Part, Port
from launch.runs import RunRecord, package_versions, run_input, without_paths
from launch.train_fusion import FittedOnDev, Fusion

CARD_FILE = "card.json"
README_FILE = "README.md"

MUST_NOT = (
    "It tells what expression a face shows and how a voice sounds to raters, on average, in recordings like those it "
    "was trained on; it does not know what a person feels, thinks or intends, and its errors fall unevenly. Do not use "
    "it for surveillance, hiring, grading, policing, border control, lie detection, credit or insurance, medical or "
    "psychological diagnosis, or any other decision about a person, nor on people who have not agreed. In the European "
    "Union, inferring emotions at work and in education is prohibited with few exceptions (AI Act, Article 5)."
)
"""What the README of the project says, in short."""

LICENCE = (
    "The project's code is Apache-2.0. The weights were learned from the corpora named here, and inherit their terms: "
    "AffectNet and RECOLA, for instance, are for research only."
)


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        run: its folder.
        record: what it was.
        face_config: size of its face network.
        face_variables: that network's.
        face_record: what the run of that network was, where this one is a fusion.
        fusion: the fusion, where it is one.
        fitted: what was fitted after it.
    """

    run: Path
    record: RunRecord
    face_config: FaceConfig
    face_variables: Any
    face_record: RunRecord | None = None
    fusion: Fusion | None = None
    fitted: FittedOnDev | None = None


def card_of(
    trained: Trained, file_format: str, dtype: str, bound: float, files: Mapping[str, tuple[Part, Mapping[str, Any]]]
) -> dict[str, Any]:
    """All that is to be known of exported files, as plain data. No path of this machine is in it.

    Args:
        trained: What was exported.
        file_format: In what.
        dtype: What kernels are stored in.
        bound: How far a number may be from JAX's.
        files: Of each file what it holds, and what was found out about it.
    """
    card: dict[str, Any] = {
        "run": what_it_was(trained.record) | {"fingerprint": run_input(trained.run)["fingerprint"]},
        "format": file_format,
        "dtype": dtype,
        "files": {
            name: dict(found) | {"inputs": ports(part.inputs), "outputs": ports(part.outputs)}
            for name, (part, found) in files.items()
        },
        "parity": {
            "compared_with": "the same network in JAX, float32, on a CPU",
            "measure": "largest difference of any number, divided by its size where that is more than 1",
            "bound": bound,
        },
        "expressions": list(EXPRESSIONS),
        "dimensions": list(DIMENSIONS),
        "images": {
            "colour_order": "RGB",
            "size": trained.face_config.image_size,
            "values": "uint8, 0 to 255",
            "mean": 127.5,
            "std": 128.0,
            "normalised": "inside the file, (value - mean) / std",
            "framing": "the middle of a prepared face: the corpus' box (AffectNet, FEC), or aligned by five landmarks "
            "to the same framing (recordings)",
            "prepared": trained.record.crop,
        },
    }
    if trained.fusion and trained.fitted and trained.face_record:
        learned_along = trained.fusion.config.face_learns
        card["run"]["face_network"] = what_it_was(trained.face_record) | {"learned_along": learned_along}
        card |= over_time(trained.fusion, trained.fitted)
    versions = package_versions() | ({"onnx": version("onnx")} if file_format == "onnx" else {})
    return card | {"must_not_be_used_for": MUST_NOT, "licence": LICENCE, "versions": versions}


def what_it_was(record: RunRecord) -> dict[str, Any]:
    """A run without the paths that its record holds: by fingerprint, data and other runs are found as well."""
    kept = ("stage", "preset", "seed")
    network = record.config["network"]
    return {name: getattr(record, name) for name in kept} | {
        "network": network,
        "learned_valence_arousal": record.rates,
        "trained_on": without_paths(record.inputs),
        "corpora": record.corpora,
        "synthetic_corpora": list(record.synthetic),
    }


def over_time(fusion: Fusion, fitted: FittedOnDev) -> dict[str, Any]:
    """What there is to say of predictions over time only."""
    config: FusionConfig = fusion.config.network
    delay_s = (fusion.delay / FRAME_RATE_HZ).round(3).tolist()
    return {
        "sound": {
            "sample_rate_hz": config.log_mel.sample_rate_hz,
            "hop_s": config.log_mel.hop_s,
            "window_s": config.log_mel.window_s,
            "mel_bands": config.log_mel.mel_bands,
            "samples_per_frame": config.samples_per_frame,
            "values": "float32, -1 to 1, mono",
        },
        "frame_rate_hz": FRAME_RATE_HZ,
        "state": "zeros before the first frame; then every next_ output is fed to the input of that name; frames may "
        "come in chunks of any length",
        "modalities": fusion.config.modalities,
        "annotation_delay_s": dict(zip(DIMENSIONS, delay_s, strict=True)),
        "annotation_delay": "taken out: a prediction is of its own frame, which raters noted that much later",
        "band": {"nominal_coverage": fitted.nominal_coverage, "factor_of_spread": fitted.spread_factor},
        "post_processing": "none: it would look into the future",
    }


def ports(named: Mapping[str, Port]) -> dict[str, Any]:
    """Shape, dtype and meaning by name."""
    return {name: asdict(port) | {"shape": list(port.shape)} for name, port in named.items()}


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card to be read by people."""
    run, images, parity = card["run"], card["images"], card["parity"]
    lines = [
        f"# avemo: an exported {run['stage']}",
        "",
        f"Format {card['format']}, kernels in {card['dtype']}. Made from the run {run['fingerprint'][:12]} (preset "
        f"{run['preset']}, seed {run['seed']}). The same as below stands in `{CARD_FILE}`, for programs.",
        "",
        f"**What it must not be used for.** {card['must_not_be_used_for']}",
        "",
        f"**Licence.** {card['licence']}",
        "",
    ]
    if synthetic := run["synthetic_corpora"]:
        lines += [
            f"**Synthetic data.** It has learned from synthetic corpora ({', '.join(synthetic)}), whose people are "
            "drawn and whose voices are synthetic: what it has learned there says nothing of people.",
            "",
        ]
    lines += ["## Files", ""]
    for name, file in card["files"].items():
        lines += [
            f"`{name}`: {file['bytes']:,} bytes; the largest error found is {file['largest_error_found']:.1e}.",
            "",
            *table(("", "name", "shape", "numbers", "meaning"), _port_rows(file)),
            "",
        ]
    lines += [
        f"Each was compared with {parity['compared_with']}: {parity['measure']}. Files whose error is more than "
        f"{parity['bound']:.0e} aren't written.",
        "",
        "## Faces",
        "",
        f"{images['size']}×{images['size']} pixels, {images['colour_order']}, {images['values']}, normalised "
        f"{images['normalised']} with mean {images['mean']} and std {images['std']}. Framing: {images['framing']}.",
        "",
        f"Expressions stand in this order: {', '.join(card['expressions'])}. Valence comes before arousal.",
        "",
    ]
    if not run.get("face_network", run)["learned_valence_arousal"]:
        lines += ["The face network has not learned valence and arousal: what it gives there means nothing.", ""]
    if "sound" in card:
        lines += ["## Recordings", "", *table(("", ""), _time_rows(card)), "", f"State: {card['state']}.", ""]
    lines += ["## Trained on", "", *table(("", "fingerprint (SHA-256) or setting"), _training_rows(run)), ""]
    told = lambda settings: ", ".join(f"{name} {value}" for name, value in settings.items())
    lines += [*table(("corpus", "as prepared"), ((name, told(each)) for name, each in run["corpora"].items())), ""]
    lines += ["## Made with", "", *table(("package", "version"), card["versions"].items()), ""]
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """A Markdown table."""
    line = lambda cells: f"| {' | '.join(map(str, cells))} |"
    return [line(head), line("---" for _ in head), *map(line, rows)]


def _port_rows(file: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (kind[:-1], f"`{name}`", " × ".join(map(str, port["shape"])), port["dtype"], port["meaning"])
        for kind in ("inputs", "outputs")
        for name, port in file[kind].items()
    ]


def _time_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    sound, delay_s, band = card["sound"], card["annotation_delay_s"], card["band"]
    factors = " and ".join(f"{band['factor_of_spread'][name]:.2f} ({name})" for name in card["dimensions"])
    return [
        ("frames", f"{card['frame_rate_hz']} per second, {sound['samples_per_frame']} samples each"),
        ("sound", f"{sound['sample_rate_hz']} Hz, {sound['values']}"),
        (
            "spectrogram",
            f"{sound['mel_bands']} mel bands, window {sound['window_s']} s, hop {sound['hop_s']} s, inside the file",
        ),
        ("modalities", card["modalities"]),
        (
            "annotation delay",
            f"{delay_s['valence']} s (valence), {delay_s['arousal']} s (arousal); {card['annotation_delay']}",
        ),
        ("band", f"nominal coverage {band['nominal_coverage']:.0%}; the network's spread times {factors}"),
        ("post-processing", card["post_processing"]),
    ]


def _training_rows(run: Mapping[str, Any], of: str = "") -> list[tuple[str, str]]:
    rows = [
        (of + name, ", ".join(value) if isinstance(value, list) else str(value))
        for name, value in run["trained_on"].items()
    ]
    return rows + (_training_rows(run["face_network"], "face network: ") if "face_network" in run else [])
