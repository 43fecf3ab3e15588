"""The results of `avemo benchmark distillation` as tables and as a page."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avemo.labels import EXPRESSIONS
from launch.figures import LINES, Mark, draw_marks
from launch.page import render
from launch.tables import PERCENT, Table, print_tables, show

TEACHER = "teacher"
REPORT_FILE = "report.html"
POINTS = "{:+.1f}"


def print_tables_of(results: Mapping[str, Any]) -> None:
    """Print all tables in the terminal."""
    print_tables(tables(results).values())


def write_page(out: Path, results: Mapping[str, Any]) -> Path:
    """Write `out`/report.html; return its path."""
    page = render(
        "benchmarks/distillation.html",
        tables=tables(results),
        plot=draw_marks(
            [*marks(results)],
            "accuracy against the time for one face",
            "ms for one face, one thread",
            "accuracy, 7 classes",
        ),
        trainings=results["trainings"],
        supervision=supervision(results),
        results=results,
        as_json=lambda value: json.dumps(value, indent=2),
    )
    path = out / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """What the networks are worth, what teaching adds, what they cost, and each class alone."""
    return {
        "accuracy": accuracy_table(results),
        "gain": gain_table(results),
        "more": more_table(results),
        "size": size_table(results),
        "speed": speed_table(results),
        "steps": steps_table(results),
        "classes": classes_table(results),
    }


def accuracy_table(results: Mapping[str, Any]) -> Table:
    """One row for each way of training a student, means over its seeds; and for teacher and peers."""
    rows = {}
    for label, names, summary in groups(results):
        rows[label] = [
            str(len(names)) if "runs" in summary else "",
            _with_interval(summary.get("accuracy_8"), summary.get("interval_8")),
            _with_interval(summary.get("accuracy_7"), summary.get("interval_7")),
            show(100 * summary["below_teacher"], "{:.1f}") if "below_teacher" in summary else "",
        ]
    columns = ("seeds", "8 classes", "7 classes", "points below\nthe teacher")
    return Table.of("Accuracy (95 % over faces)", columns, rows)


def more_table(results: Mapping[str, Any]) -> Table:
    """Calibration, triplets, valence and arousal: means over seeds."""
    forms = {
        "calibration_error_8": "{:.3f}",
        "calibration_error_7": "{:.3f}",
        "triplet_accuracy": PERCENT,
        "ccc_valence": "{:.3f}",
        "ccc_arousal": "{:.3f}",
    }
    rows = {
        label: [
            show(_mean([results["networks"][name].get(key) for name in names]), form) for key, form in forms.items()
        ]
        for label, names, _ in groups(results)
    }
    columns = ("ECE,\n8 classes", "ECE,\n7 classes", "FEC triplets", "CCC of valence", "CCC of arousal")
    return Table.of("Calibration, triplets, valence and arousal", columns, rows)


def gain_table(results: Mapping[str, Any]) -> Table:
    """What teaching adds to training alone with the same seeds, in points of accuracy."""
    rows = {}
    for student, arms in results["students"].items():
        for arm, found in arms.items():
            if gain := found.get("gain"):
                rows[f"{student} {arm}"] = [
                    show(100 * gain["mean"], POINTS),
                    _interval(gain["interval_over_seeds"], 100, POINTS),
                    _interval(gain["interval_over_faces"], 100, POINTS),
                    ", ".join(show(100 * value, POINTS) for value in gain["seeds"]),
                ]
    columns = ("points", "95 %\nover seeds", "95 %\nover faces", "each seed")
    return Table.of("What teaching adds to training alone (8 classes)", columns, rows, words=("each seed",))


def size_table(results: Mapping[str, Any]) -> Table:
    """What each network takes; a student's trainings all take the same."""
    rows = {}
    for name, timed in results["speed"]["one thread"].items():
        arms = results["students"].get(name)
        size = results["networks"][next(iter(arms.values()))["runs"][0] if arms else name]["size"]
        rows[name] = [
            show(size.get("parameters"), "{:,.0f}"),
            show(size.get("flops"), "{:,.1f}", 1e-6),
            show(size.get("file_bytes"), "{:,.2f}", 1e-6),
            show(timed["memory_bytes"], "{:,.2f}", 1e-6),
            show(timed["compile_s"], "{:,.1f}"),
        ]
    columns = ("parameters", "MFLOPs", "file, MB", "memory, MB", "compiling, s")
    return Table.of("Size, and one face on one thread", columns, rows)


def speed_table(results: Mapping[str, Any]) -> Table:
    """Time for one face, and faces a second in the batch that gives most, on each device."""
    rows = {}
    for where, found in results["speed"].items():
        for name, timed in found.items():
            batch, rate = max(timed["faces_per_s"].items(), key=lambda pair: pair[1])
            latency = [_spread(timed["latency_s"], "{:.3f}", 1e3)]
            rows[f"{name}, {where}"] = [*latency, show(rate, "{:,.0f}"), batch]
    return Table.of("Speed (medians, 5 to 95 %)", ("ms for one face", "most faces/s", "in batches of"), rows)


def steps_table(results: Mapping[str, Any]) -> Table:
    """What a teacher adds to a training step."""
    found = results["steps"]
    rows = {name: [_spread(values, "{:,.1f}", 1e3), ""] for name, values in found["seconds"].items()}
    rows |= {name: ["", _spread(values, "{:.3f}", 1)] for name, values in found["ratios"].items()}
    return Table.of(
        f"A training step of the student {results['settings']['students'][0]} (medians, 5 to 95 %)",
        ("ms", "ratio"),
        rows,
    )


def classes_table(results: Mapping[str, Any]) -> Table:
    """Recall of each expression, means over seeds, and how many faces there are."""
    networks = results["networks"]
    faces = networks[TEACHER]["classes"]
    rows = {"faces": [str(faces[expression]["faces"]) for expression in EXPRESSIONS]}
    for label, names, _ in groups(results):
        recalls = [[networks[name]["classes"][expression]["recall"] for name in names] for expression in EXPRESSIONS]
        rows[label] = [show(_mean(values), "{:.0%}") for values in recalls]
    return Table.of("Recall of each expression", EXPRESSIONS, rows)


def marks(results: Mapping[str, Any]) -> Iterator[Mark]:
    """A mark for each row of the first table, in the colour of its way of training."""
    arms = list(dict.fromkeys(arm for found in results["students"].values() for arm in found))
    style = dict(zip(["others", *arms], LINES, strict=False))
    timed = results["speed"]["one thread"]
    for label, _, summary in groups(results):
        if "accuracy_7" not in summary:
            continue
        student, _, arm = label.partition(" ")
        of_student = student in results["students"] and arm in arms
        yield Mark(
            label=label,
            x=1e3 * float(np.median(timed[student if of_student else label]["latency_s"])),
            y=summary["accuracy_7"],
            y_interval=summary["interval_7"],
            style=style[arm if of_student else "others"],
        )


def groups(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str], Mapping[str, Any]]]:
    """What stands in a row: its label, the networks in it, and accuracy over all of these."""
    networks = results["networks"]
    yield TEACHER, [TEACHER], networks[TEACHER]
    of_students = set()
    for student, arms in results["students"].items():
        for arm, summary in arms.items():
            of_students.update(summary["runs"])
            yield f"{student} {arm}", summary["runs"], summary
    for name in [name for name in networks if name not in of_students | {TEACHER}]:
        yield name, [name], networks[name]


def supervision(results: Mapping[str, Any]) -> dict[str, Any]:
    """How teacher and students learn from labels; a student's trainings all do alike."""
    first = {student: next(iter(arms.values()))["runs"][0] for student, arms in results["students"].items()}
    runs = {TEACHER: TEACHER} | first
    return {name: results["trainings"][run]["config"]["supervision"] for name, run in runs.items()}


def _spread(values: list[float], form: str, unit: float) -> str:
    median, low, high = np.percentile(values, (50, 5, 95))
    return f"{show(median, form, unit)} {_interval((low, high), unit, form)}"


def _with_interval(value: float | None, interval: Any) -> str:
    return f"{show(value, PERCENT)} {_interval(interval, 100, '{:.1f}')}" if value is not None else ""


def _interval(interval: Any, unit: float, form: str) -> str:
    return f"({show(interval[0], form, unit)} \N{EN DASH} {show(interval[1], form, unit)})" if interval else ""


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
