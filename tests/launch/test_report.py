import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from launch.errors import LaunchError
from launch.report import print_table, read_log, student_gain, tables, write_report

FACE = {
    "accuracy_8": 0.612,
    "accuracy_7": 0.654,
    "macro_f1_8": 0.6,
    "ccc_valence": 0.71,
    "ccc_arousal": 0.62,
}
CCC = {dimension: {"ccc_concatenated": 0.5, "ccc_per_file": 0.4} for dimension in ("valence", "arousal")}
INPUTS = ("fused", "face", "voice", "voice_swapped")


@pytest.fixture
def results(tmp_path):
    run = tmp_path / "runs" / "student"
    run.mkdir(parents=True)
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval/accuracy_8": 0.5}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {
        "affectnet": {"teacher": FACE, "student": {**FACE, "accuracy_8": 0.588}},
        "fec": {"student": {"triplet_accuracy": 0.8}},
        "recola": dict.fromkeys(INPUTS, CCC)
        | {
            "protocol": {
                "split": "test",
                "recordings": ["P16"],
                "gold_standard": "avec",
                "partition": "a",
                "delay": "searched",
                "annotation_delay_s": {"valence": 2.32, "arousal": 2.72},
                "post_processing": {
                    "valence": {"median_frames": 11, "scale": 1.25, "mean": 0.1, "bias": 0.05, "shift_frames": -2},
                    "arousal": {"median_frames": 1, "scale": 1.0, "mean": 0.0, "bias": 0.0, "shift_frames": 0},
                },
            },
            "spread": {
                "nominal_coverage": 0.9,
                "valence": {"coverage": 0.913, "mean_width": 0.4},
                "arousal": {"coverage": 0.874, "mean_width": 0.5},
            },
        },
        "ceiling": {"affectnet": {"accuracy_8": 0.9}, "recola": {"fused": CCC}},
        "speed": {
            "teacher": {"parameters": 7_000_000, "flops": 3e9, "ms_batch_1": 10.0, "images_per_s": 50.0},
            "student": {"parameters": 500_000, "flops": 1e8, "ms_batch_1": 2.5, "images_per_s": 400.0},
        },
        "provenance": {
            "time": "2021-01-01T00:00:00Z",
            "command": "avemo evaluate --out x",
            "versions": {"python": "3.12.1", "jax": "0.12"},
            "devices": ["cpu"],
            "data": {"affectnet": {"fingerprint": "0a1b2c"}},
            "runs": {
                "student": {
                    "preset": "demo",
                    "seed": 3,
                    "config": {"steps": 2},
                    "inputs": {"affectnet": "0a1b2c"},
                    "command": "avemo train student",
                    "versions": {"jax": "0.12"},
                    "path": str(run),
                }
            },
        },
    }


def predictions(recording="P16"):
    random = np.random.default_rng(0)
    labels = np.array([0, 7])
    arrays = {
        "student/confusion": np.diag(np.full(8, 3)) + np.eye(8, k=1, dtype=int),
        "student/sample_images": random.integers(0, 255, (2, 6, 6, 3), np.uint8),
        "student/sample_labels": labels,
        "student/sample_probabilities": np.eye(8)[[0, 6]] * 0.8 + 0.025,
    }
    for kind in ("gold_standard", *INPUTS):
        arrays[f"recola/{recording}/{kind}"] = random.uniform(-1, 1, (50, 2)).astype(np.float32)
    arrays[f"recola/{recording}/band"] = np.full((50, 2), 0.2, np.float32)
    return arrays


def page_of(out, results, arrays):
    out.mkdir()
    (out / "results.json").write_text(json.dumps(results))
    if arrays:
        np.savez_compressed(out / "predictions.npz", **arrays)
    return write_report(out).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def values(self, *names):
        return [value for name, value in self.attributes if name in names]


def test_the_page_is_self_contained(tmp_path, results):
    page = page_of(tmp_path / "out", results, predictions())
    elements = Elements(page)
    references = elements.values("src", "href", "xlink:href", "srcset", "action")
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert not {"script", "link", "iframe", "object"} & set(elements.tags)
    assert "@import" not in page


def test_ids_on_the_page_are_unique(tmp_path, results):
    ids = Elements(page_of(tmp_path / "out", results, predictions())).values("id")
    assert len(ids) == len(set(ids))


def test_page_and_terminal_show_the_same_cells(tmp_path, results, capsys):
    page = page_of(tmp_path / "out", results, predictions())
    print_table(results)
    terminal = capsys.readouterr().out
    for table in tables(results).values():
        for row in table.rows:
            for cell in row:
                assert cell in page.replace("&#39;", "'")
                assert cell in terminal


def test_rows_of_the_summary(results):
    summary = tables(results)
    assert summary["faces"].columns == ("", "teacher", "student", "ceiling")
    assert summary["faces"].rows[0][1:] == ("61.2\u202f%", "58.8\u202f%", "90.0\u202f%")
    assert summary["faces"].rows[-1] == ("FEC triplet accuracy", "–", "80.0\u202f%", "–")
    assert summary["recola"].rows[0] == ("fused", "0.500", "0.400", "0.500", "0.400")
    assert summary["recola"].rows[-1][0] == "ceiling: fused"
    assert [row[1:] for row in summary["speed"].rows] == [
        ("7.00 M", "0.50 M", "14.0×"),
        ("3,000.0", "100.0", "30.0×"),
        ("10.0", "2.5", "4.0×"),
        ("50", "400", "8.0×"),
    ]


def test_gain_of_fusion_stands_with_its_interval(results):
    gain = {"ccc_concatenated": -0.01, "ccc_concatenated_interval": [-0.0312, 0.0104], "ccc_per_file": 0.02}
    results["recola"]["fused_beyond_voice"] = {"arousal": gain}
    rows = {label: cells for label, *cells in tables(results)["recola"].rows}
    assert rows["fused minus voice"] == ["–", "–", "-0.010\n[-.031,.010]", "0.020"]


def test_gain_needs_both_networks():
    assert student_gain(8.0, 2.0, more_is_better=False) == 4.0
    assert student_gain(8.0, 2.0, more_is_better=True) == 0.25
    assert student_gain(None, 2.0, more_is_better=True) is None


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("fec", ["FEC"]),
        ("recola", ["RECOLA ", "recordings", "masked"]),
        ("ceiling", ["eiling", "ynthetic"]),
        ("speed", ["MFLOPs", "parameters"]),
        ("provenance", ["To repeat it", "seed"]),
    ],
)
def test_missing_parts_are_left_out(tmp_path, results, part, words):
    whole = page_of(tmp_path / "whole", results, predictions())
    without = copy.deepcopy(results)
    del without[part]
    if part == "recola":
        del without["ceiling"]["recola"]
    page = page_of(tmp_path / "out", without, predictions())
    for word in words:
        assert word in whole
        assert word not in page


def test_a_student_alone_without_valence_arousal_or_pictures(tmp_path, results):
    alone = {
        "affectnet": {"student": {"accuracy_8": 0.5, "accuracy_7": float("nan")}},
        "speed": {"student": results["speed"]["student"]},
    }
    page = page_of(tmp_path / "out", alone, {})
    assert tables(alone)["faces"].columns == ("", "student")
    assert [row[0] for row in tables(alone)["faces"].rows] == ["AffectNet accuracy, 8 classes"]
    assert tables(alone)["speed"].columns == ("", "student")
    for word in ("teacher", "CCC of valence", "nan", "Sample faces", "taken for which", "Training loss"):
        assert word not in page


def test_wrong_faces_are_marked_in_words_and_form(tmp_path, results):
    page = page_of(tmp_path / "out", results, predictions())
    assert page.count('class="face wrong"') == 1
    assert "✓ neutral 82" in page
    assert "✗ anger 82" in page


def test_confusion_shows_share_and_count(tmp_path, results):
    page = page_of(tmp_path / "out", results, predictions())
    assert page.count('<td style="--share: 0.750">75<small>3</small></td>') == 7
    assert page.count('<td style="--share: 1.000">100<small>3</small></td>') == 1


def test_names_are_escaped(tmp_path, results):
    name = '<img src=x onerror="a">'
    results["recola"]["protocol"] |= {"recordings": [name], "partition": "<i>a"}
    results["provenance"]["command"] = "avemo evaluate --out <b>"
    results["provenance"]["runs"]["student"]["config"] = {"note": "</pre><script>"}
    elements = Elements(page_of(tmp_path / "out", results, predictions(name)))
    assert "onerror" not in dict(elements.attributes)
    assert "script" not in elements.tags
    assert "i" not in elements.tags
    assert any(label.startswith(name) for label in elements.values("aria-label"))


def test_same_input_same_bytes(tmp_path, results):
    pages = [page_of(tmp_path / folder, results, predictions()) for folder in ("a", "b")]
    assert pages[0] == pages[1]


def test_a_lost_log_is_named(tmp_path, results):
    results["provenance"]["runs"]["student"]["path"] = "gone"
    page = page_of(tmp_path / "out", results, predictions())
    assert "gone/metrics.jsonl" in page
    assert "Training loss" not in page


def test_a_half_written_last_line_of_a_log_is_ignored(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(LaunchError, match="avemo evaluate --out"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(LaunchError, match=r"results\.json can't be read"):
        write_report(tmp_path)
