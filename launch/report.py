"""`avemo report`: results as one self-contained HTML page, and as tables in the terminal.

`tables` turns results into rows; page and terminal both show those. What was not evaluated is left out.
"""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from markupsafe import Markup
from PIL import Image

from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ
from launch.errors import LaunchError
from launch.figures import GOLD_STANDARD, LINES, Line, draw_lines
from launch.page import data_uri, render
from launch.runs import METRICS_FILE
from launch.speed import THROUGHPUT_BATCH
from launch.tables import PERCENT, Table, print_tables, show

RESULTS_FILE = "results.json"
PREDICTIONS_FILE = "predictions.npz"
REPORT_FILE = "report.html"

FACE_SETS = {"affectnet": "AffectNet", "faces": "Own faces"}
CLIP_SETS = {"recola": "RECOLA", "clips": "Own clips"}
CORPORA = {**FACE_SETS, "fec": "FEC", **CLIP_SETS}

DECIMALS, TIMES = "{:.3f}", "{:,.1f}\N{MULTIPLICATION SIGN}"
FACE_FIGURES = (
    *(
        (f"{title} {label}", corpus, key, form)
        for corpus, title in FACE_SETS.items()
        for label, key, form in (
            ("accuracy, 8 classes", "accuracy_8", PERCENT),
            ("accuracy, 7 classes", "accuracy_7", PERCENT),
            ("macro F1, 8 classes", "macro_f1_8", DECIMALS),
            ("CCC of valence", "ccc_valence", DECIMALS),
            ("CCC of arousal", "ccc_arousal", DECIMALS),
        )
    ),
    ("FEC triplet accuracy", "fec", "triplet_accuracy", PERCENT),
)
"""Label, corpus, key and format of the figures in the first table."""

HEADLINES = ("accuracy_8", "triplet_accuracy")
"""Keys of those that stand at the head of the page."""

MORE_FACE_FIGURES = (
    *(
        (f"{title} {label}", corpus, key, form)
        for corpus, title in FACE_SETS.items()
        for label, key, form in (
            ("macro F1, 7 classes", "macro_f1_7", DECIMALS),
            *(
                (f"{label} of {dimension}", f"{key}_{dimension}", form)
                for key, label, form in (
                    ("rmse", "RMSE", DECIMALS),
                    ("pearson", "Pearson correlation", DECIMALS),
                    ("sagr", "sign agreement (SAGR)", PERCENT),
                )
                for dimension in DIMENSIONS
            ),
        )
    ),
    ("FEC one-class triplets", "fec", "triplet_accuracy_one_class", PERCENT),
    ("FEC two-class triplets", "fec", "triplet_accuracy_two_class", PERCENT),
    ("FEC three-class triplets", "fec", "triplet_accuracy_three_class", PERCENT),
)

RECOLA_ROWS = {
    "fused": "fused",
    "face": "face only",
    "voice": "voice only",
    "post_processed": "post-processed",
    "voice_swapped": "voice swapped",
    "chance": "another recording",
    "fused_beyond_face": "fused minus face",
    "fused_beyond_voice": "fused minus voice",
}
POOLINGS = {"ccc_concatenated": "concatenated", "ccc_per_file": "per file"}

SPEED_FIGURES = (
    ("parameters", "parameters", 1e-6, "{:,.2f} M", False),
    ("MFLOPs for one face", "flops", 1e-6, "{:,.1f}", False),
    ("ms for one face", "ms_batch_1", 1.0, "{:,.1f}", False),
    (f"faces/s in batches of {THROUGHPUT_BATCH}", "images_per_s", 1.0, "{:,.0f}", True),
)
"""Label, key, unit, format, and whether more is better."""

CURVES = {
    "Training loss": {"loss": "loss"},
    "Expressions": {
        "eval/accuracy_8": "accuracy, 8 classes",
        "eval/accuracy_7": "accuracy, 7 classes",
        "eval/macro_f1_8": "macro F1, 8 classes",
    },
    "Valence and arousal, CCC": {"eval/ccc_valence": "valence", "eval/ccc_arousal": "arousal"},
    "FEC, triplet accuracy": {"eval/triplet_accuracy": "all triplets"},
    "Dev, CCC of valence": {f"eval/{name}/ccc_valence": name for name in ("fused", "face", "voice")},
    "Dev, CCC of arousal": {f"eval/{name}/ccc_arousal": name for name in ("fused", "face", "voice")},
}
"""Panels of the training curves: title, then key in metrics.jsonl and label of each line."""


@dataclass(frozen=True)
class Report:
    """Write the report of an evaluation anew, and print its tables.

    Attributes:
        out: folder that `avemo evaluate` wrote.
    """

    out: tyro.conf.Positional[Path]

    def __call__(self) -> None:
        """Print the tables and write report.html."""
        print_table(read_results(self.out))
        print(f"report: {write_report(self.out)}")


def write_report(out: Path) -> Path:
    """Draw `out`/report.html from results.json, predictions.npz and the logs of the runs; return its path.

    Raises:
        LaunchError: there is no readable results.json.
    """
    results, predictions = read_results(out), read_predictions(out)
    runs = results.get("provenance", {}).get("runs", {})
    page = render(
        "report.html",
        subject=subject(results),
        headlines=headlines(results),
        tables=tables(results),
        more_face_figures=more_face_figures(results),
        curves=training_curves(runs),
        missing_logs=[log for run in runs.values() if not (log := Path(run["path"]) / METRICS_FILE).is_file()],
        classes=EXPRESSIONS,
        confusions=confusions(predictions),
        faces=sample_faces(predictions),
        traces=recola_traces(predictions, results),
        trace_styles={kind: TRACE_STYLES[kind] for kind in ("gold_standard", *_told(results))},
        told=_told(results),
        face_set=FACE_SETS[_scored(results, FACE_SETS)],
        clip_set=CLIP_SETS[_scored(results, CLIP_SETS)],
        protocol=find(results, _scored(results, CLIP_SETS), "protocol"),
        spread=find(results, _scored(results, CLIP_SETS), "spread"),
        dimensions=DIMENSIONS,
        synthetic=[CORPORA[name] for name in CORPORA if name in results.get("ceiling", {})],
        faces_are_synthetic=_scored(results, FACE_SETS) in results.get("ceiling", {}),
        has={name: bool(results.get(name)) for name in ("affectnet", "fec", "recola")},
        provenance=results.get("provenance", {}),
        as_json=lambda value: json.dumps(value, indent=2),
    )
    path = out / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def print_table(results: Mapping[str, Any]) -> None:
    """Print the summary tables in the terminal."""
    print_tables(tables(results).values())


def read_results(out: Path) -> dict[str, Any]:
    """The content of `out`/results.json. Raises LaunchError where there is none or it can't be read."""
    path = out / RESULTS_FILE
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise LaunchError(f"{out} has no {RESULTS_FILE}: make it with avemo evaluate --out {out}") from error
    except ValueError as error:
        raise LaunchError(f"{path} can't be read: {error}") from error


def read_predictions(out: Path) -> dict[str, np.ndarray]:
    """The arrays of `out`/predictions.npz; none where there is no such file."""
    path = out / PREDICTIONS_FILE
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


# ---------------------------------------- results to rows ----------------------------------------


def tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """The summary of what was measured: on faces, over time, and of size and speed."""
    summary = {
        "faces": _face_table(f"Faces: {', '.join(face_corpora(results))}", FACE_FIGURES, results),
        "recola": recola_table(results),
        "speed": speed_table(results),
    }
    return {name: table for name, table in summary.items() if table.rows}


def more_face_figures(results: Mapping[str, Any]) -> Table:
    """What the summary leaves out."""
    return _face_table("More figures on faces", MORE_FACE_FIGURES, results)


def recola_table(results: Mapping[str, Any]) -> Table:
    """CCC of each input and of the ceilings, in both poolings, and what fusion adds, with their intervals."""
    clips = _scored(results, CLIP_SETS)
    split = find(results, clips, "protocol", "split") or ""
    keys = [(dimension, pooling) for dimension in DIMENSIONS for pooling in POOLINGS]
    rows = {
        f"{prefix}{label}": [show_with_interval(find(results, *path, name, key[0]), key[1]) for key in keys]
        for prefix, path in (("", (clips,)), ("ceiling: ", ("ceiling", clips)))
        for name, label in RECOLA_ROWS.items()
    }
    columns = [f"{dimension}\n{POOLINGS[pooling]}" for dimension, pooling in keys]
    return Table.of(f"Valence and arousal over time: CCC on {CLIP_SETS[clips]} {split}".rstrip(), columns, rows)


def show_with_interval(figures: Mapping[str, Any] | None, pooling: str) -> str:
    """A CCC and, where there is one, its interval, without zeros before the point, so that a terminal holds them."""
    value, interval = find(figures or {}, pooling), find(figures or {}, f"{pooling}_interval")
    if value is None or interval is None:
        return show(value, DECIMALS)
    low, high = (show(bound, DECIMALS).replace("0.", ".") for bound in interval)
    return f"{show(value, DECIMALS)}\n[{low},{high}]"


def speed_table(results: Mapping[str, Any]) -> Table:
    """Size and speed of teacher and student, and how many times better the student does."""
    rows = {}
    for label, key, unit, form, more_is_better in SPEED_FIGURES:
        teacher, student = (find(results, "speed", name, key) for name in ("teacher", "student"))
        gain = student_gain(teacher, student, more_is_better)
        rows[label] = [show(teacher, form, unit), show(student, form, unit), show(gain, TIMES)]
    return Table.of("Size and speed of the face networks", ("teacher", "student", "student's gain"), rows)


def student_gain(teacher: float | None, student: float | None, more_is_better: bool) -> float | None:
    """How many times better the student is; None where either figure is missing."""
    if not teacher or not student:
        return None
    return student / teacher if more_is_better else teacher / student


def headlines(results: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """The few figures to remember: value, what it is, and what to hold it against."""
    cards = []
    clips, told = _scored(results, CLIP_SETS), next(iter(_told(results)), "fused")
    for label, corpus, key, form in (figure for figure in FACE_FIGURES if figure[2] in HEADLINES):
        paths = {
            "student": (corpus, "student"),
            "teacher": (corpus, "teacher"),
            "ceiling": ("ceiling", corpus),
        }
        values = {name: show(find(results, *path, key), form) for name, path in paths.items()}
        if name := next((name for name in ("student", "teacher") if values[name]), None):
            cards.append((values.pop(name), f"{label}, {name}", [f"{n} {v}" for n, v in values.items() if v]))
    for dimension in DIMENSIONS:
        path = (clips, told, dimension, "ccc_concatenated")
        value, ceiling = show(find(results, *path), DECIMALS), show(find(results, "ceiling", *path), DECIMALS)
        if value:
            label = f"{CLIP_SETS[clips]} CCC of {dimension}, {RECOLA_ROWS[told]}"
            cards.append((value, label, [f"ceiling {ceiling}"] if ceiling else []))
    _, key, unit, form, more_is_better = SPEED_FIGURES[0]
    teacher, student = (find(results, "speed", name, key) for name in ("teacher", "student"))
    if gain := show(student_gain(teacher, student, more_is_better), TIMES):
        against = [show(student, form, unit), f"teacher {show(teacher, form, unit)}"]
        cards.append((gain, "fewer parameters in the student", against))
    return cards


def subject(results: Mapping[str, Any]) -> str:
    """One sentence saying what was evaluated."""
    faces, clips = _scored(results, FACE_SETS), _scored(results, CLIP_SETS)
    names = [name for name in ("teacher", "student") if name in results.get(faces, {})]
    parts = [f"{' and '.join(names)} on {' and '.join(face_corpora(results))}"] if names else []
    if protocol := find(results, clips, "protocol"):
        count = len(protocol["recordings"])
        recordings = "1 recording" if count == 1 else f"{count} recordings"
        network = "the fusion of face and voice" if "fused" in _told(results) else "a network for one modality"
        parts.append(f"{network} on {recordings} of {CLIP_SETS[clips]} ({protocol['split']})")
    sentence = "; ".join(parts) or "nothing"
    return sentence[0].upper() + sentence[1:]


def face_corpora(results: Mapping[str, Any]) -> list[str]:
    """The corpora of faces that were scored, with the split."""
    names = {key: f"{title} (validation)" for key, title in FACE_SETS.items()} | {"fec": "FEC (test)"}
    return [name for key, name in names.items() if results.get(key)]


def _scored(results: Mapping[str, Any], sets: Iterable[str]) -> str:
    """Which of some corpora was scored; the first, where none was."""
    first, *_ = [name for name in sets if results.get(name)] or sets
    return first


def find(results: Mapping[str, Any], *path: str) -> Any:
    """What lies at a path of nested mappings, or None."""
    found: Any = results
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _face_table(title: str, figures: Iterable[tuple[str, str, str, str]], results: Mapping[str, Any]) -> Table:
    rows = {
        label: [
            show(find(results, corpus, "teacher", key), form),
            show(find(results, corpus, "student", key), form),
            show(find(results, "ceiling", corpus, key), form),
        ]
        for label, corpus, key, form in figures
    }
    return Table.of(title, ("teacher", "student", "ceiling"), rows)


# ------------------------------------ predictions to pictures ------------------------------------


TRACE_STYLES = {"gold_standard": GOLD_STANDARD, **dict(zip(("fused", "face", "voice"), LINES, strict=False))}


def training_curves(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each run that has a log, its charts: title, lines (for the key) and drawing."""
    curves = {}
    for name, run in runs.items():
        log = read_log(Path(run["path"]) / METRICS_FILE)
        charts = []
        for title, keys in CURVES.items():
            lines = [
                Line(
                    label,
                    [row["step"] for row in log if key in row],
                    [row[key] for row in log if key in row],
                    style,
                )
                for (key, label), style in zip(keys.items(), LINES, strict=False)
                if any(key in row for row in log)
            ]
            if lines:
                drawing = draw_lines([("", lines)], f"{name}: {title}", "step", inches=(2.8, 1.75))
                charts.append({"title": title, "lines": lines, "drawing": drawing})
        if charts:
            curves[name] = charts
    return curves


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, but for a half-written last one; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise LaunchError(f"{path} can't be read: {error}") from error


def _told(results: Mapping[str, Any]) -> list[str]:
    """What the fusion network predicted from: "fused" first, or the one modality that it was trained for."""
    scored = results.get(_scored(results, CLIP_SETS), {})
    return [kind for kind in TRACE_STYLES if kind in scored]


def recola_traces(predictions: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> dict[str, Markup]:
    """For each recording, valence and arousal over time; all drawings have the same scale."""
    clips = _scored(results, CLIP_SETS)
    recordings = find(results, clips, "protocol", "recordings") or []
    recordings = [name for name in recordings if f"{clips}/{name}/gold_standard" in predictions]
    kinds = ("gold_standard", *_told(results))
    drawn = [predictions[f"{clips}/{name}/{kind}"] for name in recordings for kind in kinds]
    limit = 1.05 * max((float(np.abs(values).max(initial=0)) for values in drawn), default=1.0)
    traces = {}
    for name in recordings:
        panels = []
        for i, dimension in enumerate(DIMENSIONS):
            lines = []
            for kind in kinds:
                values = predictions[f"{clips}/{name}/{kind}"][:, i]
                band = predictions[f"{clips}/{name}/band"][:, i] if kind == kinds[1] else None
                lines.append(Line(kind, np.arange(len(values)) / FRAME_RATE_HZ, values, TRACE_STYLES[kind], band))
            panels.append((dimension, lines))
        traces[name] = draw_lines(panels, f"{name}: valence and arousal over time", "time (s)", (10, 3.7), limit)
    return traces


def confusions(predictions: Mapping[str, np.ndarray]) -> dict[str, list[list[tuple[float, int]]]]:
    """Student's and teacher's confusion: rows are labels, cells are the share of the row and the count."""
    matrices = {}
    for name in ("student", "teacher"):
        if (counts := predictions.get(f"{name}/confusion")) is not None:
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            matrices[name] = [
                [(float(share), int(count)) for share, count in zip(*row, strict=True)]
                for row in zip(shares, counts, strict=True)
            ]
    return matrices


def sample_faces(predictions: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Sample faces with label and prediction: the student's, or the teacher's where there is no student."""
    name = next((name for name in ("student", "teacher") if f"{name}/sample_images" in predictions), None)
    if name is None:
        return []
    parts = (predictions[f"{name}/sample_{part}"] for part in ("images", "labels", "probabilities"))
    return [
        {
            "image": data_uri(png(image), "png"),
            "label": EXPRESSIONS[label],
            "predicted": EXPRESSIONS[probabilities.argmax()],
            "probability": show(probabilities.max(), "{:.0%}"),
        }
        for image, label, probabilities in zip(*parts, strict=True)
    ]


def png(image_HxWx3: np.ndarray) -> bytes:
    """An image, uint8 (H, W, 3) RGB, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image_HxWx3).save(file, "PNG", optimize=True)
    return file.getvalue()
