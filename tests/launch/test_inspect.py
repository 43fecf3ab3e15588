import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from avemo.labels import TRIPLET_KINDS
from data_pipelines.builders import labelled_faces
from data_pipelines.builders.dataset_builder import Workers, prepare
from data_pipelines.builders.recipe import Outcome, Recipe
from data_pipelines.faces import encode_jpeg
from data_pipelines.records import read_metadata
from data_pipelines.releases.items import Skip
from launch.card import in_bytes, in_words, near_duplicates, plane, sheet
from launch.errors import LaunchError
from launch.inspect import Inspect, datasets_in
from launch.survey import Sample, rater_agreement

SIZE = 16
EVIL = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Numbered:
    number: int


@dataclass(frozen=True)
class Given(Recipe):
    """A dataset of just the records given."""

    name: str
    outcomes: Mapping[str, Sequence[Outcome]]
    given_features: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    source = Path("/given")
    description = "Given records."
    unit = "records"

    def preparation(self):
        return {"size": SIZE, "margin": 0.5, **self.settings}

    def features(self):
        return dict(self.given_features)

    def splits(self):
        return tuple(self.outcomes)

    def items(self, split):
        return iter([Numbered(number) for number in range(len(self.outcomes[split]))])

    def prepare(self, split, item):
        return self.outcomes[split][item.number]

    def metadata(self):
        return dict(self.more)


def jpeg(shade):
    return encode_jpeg(np.full((SIZE, SIZE, 3), shade, np.uint8), 95)


def face(key, expression=-1, valence_arousal=None, size_px=64.0, shade=200, near=()):
    record = {
        "key": key,
        "image": jpeg(shade),
        "expression": expression,
        "valence_arousal": np.array(valence_arousal or (0, 0), np.float32),
        "valence_arousal_valid": valence_arousal is not None,
        "face_size_px": np.float32(size_px),
        "soft_label": np.eye(8, dtype=np.float32)[0],
    }
    return Outcome([record], near_duplicates=[(key, *each) for each in near])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An AffectNet+, a FEC and a RECOLA of a few records each."""
    out = tmp_path_factory.mktemp("data")
    workers = Workers(processes=1)
    affectnet = {
        "train": [
            *(face(f"a{i}", 0, (0.5, -0.5), size_px=4.0) for i in range(3)),
            face("b", 7, (-1, 1), size_px=40.0, near=[("v", 5)]),
            face("c", -1),
            Outcome(skips=[Skip(EVIL, "listed but absent")]),
            Outcome(skips=[Skip("e", f"odd {EVIL}")]),
        ],
        "validation": [face("v", 1, shade=40)],
    }
    features = labelled_faces.features(SIZE, soft_label=True)
    prepare(Given("affectnet", affectnet, features, {"release": "plus", "align": False}), out, workers)

    fec_faces = {
        split: [Outcome([{"key": str(i), "image": jpeg(20 * i), "face_size_px": np.float32(30)}]) for i in range(4)]
        for split in ("train", "test")
    }
    fec_features = {name: features[name] for name in ("key", "image", "face_size_px")}
    faces = prepare(Given("fec/faces", fec_faces, fec_features, more={"shared_photographs": 2}), out, workers)
    triplets = {
        split: [
            *(Outcome([{"key": str(i), "faces": np.array([0, 1, i], np.int64), "kind": i % 2}]) for i in range(1, 4)),
            Outcome(skips=[Skip("9", f"a face is missing ({TRIPLET_KINDS[0]})")]),
        ]
        for split in ("train", "test")
    }
    triplet_features = {
        "key": tfds.features.Text(),
        "faces": tfds.features.Tensor(shape=(3,), dtype=np.int64),
        "kind": tfds.features.ClassLabel(names=TRIPLET_KINDS),
    }
    settings = {"faces_fingerprint": read_metadata(faces)["fingerprint"]}
    prepare(Given("fec/triplets", triplets, triplet_features, settings), out, workers)

    array = lambda shape, dtype: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
    recording_features = {
        "name": tfds.features.Text(),
        "frames": tfds.features.Sequence(features["image"]),
        "face_valid": array((None,), np.bool_),
        "face_size_px": array((None,), np.float32),
        "waveform": array((None,), np.int16),
        "voice_valid": tfds.features.Scalar(np.bool_),
        "ratings": array((None, 2, 2), np.float32),
        "gold_standard": array((None, 2), np.float32),
    }
    settings = {"partition": {"train": ["P1"], "dev": ["P2"]}, "gold_standard": "mean"}
    recordings = {split: [recording(name)] for split, name in (("train", "P1"), ("dev", "P2"))}
    prepare(Given("recola", recordings, recording_features, settings, {"raters": ["FM1", "FF1"]}), out, workers)
    return out


def recording(name):
    """Two seconds; no face in every fifth frame; two raters who agree on valence and contradict on arousal."""
    trace = np.sin(np.arange(50)).astype(np.float32)
    trace -= trace.mean()
    face_valid = np.arange(50) % 5 > 0
    ratings = np.stack([np.stack([trace, trace], 1), np.stack([trace, -trace], 1)], 1)
    return Outcome(
        [
            {
                "name": name,
                "frames": [jpeg(120)] * 50,
                "face_valid": face_valid.tobytes(),
                "face_size_px": np.where(face_valid, np.float32(100), np.float32(0)).tobytes(),
                "waveform": np.zeros(50 * 640, np.int16).tobytes(),
                "voice_valid": name == "P1",
                "ratings": ratings.tobytes(),
                "gold_standard": ratings.mean(axis=1).tobytes(),
            }
        ]
    )


class Page(HTMLParser):
    """Collects the tags, attributes, pictures and rows of tables of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.text = [], [], [], ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th")

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def values(self, *names):
        return [value for name, value in self.attributes if name in names]

    @property
    def pictures(self):
        return [value for value in self.values("src") if value.startswith("data:image/jpeg")]


@pytest.fixture
def inspect(data, tmp_path, capsys):
    """What a command says in the terminal and on its page."""

    def run(part, **settings):
        html = tmp_path / "card.html"
        Inspect(data / part, html=html, **settings)()
        said = capsys.readouterr().out
        return said, Page(html.read_text(encoding="utf-8"))

    return run


def rows(said):
    return [line.split() for line in said.splitlines()]


def test_faces(inspect):
    said, page = inspect("affectnet")
    assert "affectnet 2" in said
    assert "6 faces (train 5, validation 1)" in said
    assert "2 left out (25.0" in said
    assert ["neutral", "3", "60.0", "%", "█" * 12, "0", "0.0", "%"] in rows(said)
    assert ["neutral", "3", "0"] in page.rows
    assert ["contempt", "1", "0"] in page.rows
    assert ["no label", "1", "0"] in page.rows
    assert ["sum", "5", "1"] in page.rows
    # Four faces of train have a label; the soft label says "neutral" for all.
    assert ["soft label agrees with label", "75.0\u202f%", "0.0\u202f%"] in page.rows
    # Crops of 16 pixels with a margin of a half show faces of 8.
    assert ["train", "4", "4", "4", "4", "40", "59", "64", "60.0\u202f%"] in page.rows
    for text in (said, page.text):
        assert "release" in text
        assert "plus" in text


def test_what_was_left_out_is_told_with_its_reason_and_escaped(inspect):
    said, page = inspect("affectnet")
    assert ["listed but absent", "1", "0", EVIL] in page.rows
    assert [f"odd {EVIL}", "1", "0", "e"] in page.rows
    assert "script" not in page.tags
    assert EVIL in said
    assert "skipped.csv" in said


def test_near_duplicates_are_shown_side_by_side(inspect, data):
    assert near_duplicates(datasets_in(data / "affectnet")[0]) == [("train", "b", "v", 5)]
    said, page = inspect("affectnet")
    assert "near_duplicates.csv" in said
    assert ["5", "train", "b", "v"] in page.rows
    assert ["", "1–8"] in page.rows
    assert "Rows of faces: face, resembles" in page.values("alt")


def test_triplets_and_their_faces(inspect):
    said, page = inspect("fec")
    assert said.index("fec/faces 2") < said.index("fec/triplets 2")
    assert "share 2 photographs" in said
    assert "8 faces (train 4, test 4)" in said
    assert "6 triplets (train 3, test 3)" in said
    assert ["two-class", "2", "2"] in page.rows
    assert ["one-class", "1", "1", "50.0\u202f%"] in page.rows
    assert ["two-class", "2", "0", "0.0\u202f%"] in page.rows
    assert "2 prepared datasets" in page.text
    # Faces of two splits; triplets of two kinds in each.
    assert len(page.pictures) == 6


def test_triplets_without_their_faces_are_shown_without_pictures(inspect, data, tmp_path):
    (tmp_path / "fec").mkdir()
    (tmp_path / "fec" / "triplets").symlink_to(data / "fec" / "triplets")
    _, page = inspect(tmp_path / "fec" / "triplets")
    assert "doesn't hold the faces" in page.text
    assert not page.pictures


def test_recordings(inspect):
    said, page = inspect("recola")
    assert ["P1", "train", "2 s", "50", "80.0\u202f%", "yes", "1.00", "-1.00"] in page.rows
    assert ["P2", "dev", "2 s", "50", "80.0\u202f%", "no", "1.00", "-1.00"] in page.rows
    assert "FM1, FF1" in said
    assert "train: P1; dev: P2" in said
    assert any("gold standard of P2" in value for value in page.values("aria-label"))
    # Only frames with a face have a size.
    assert ["train", *["100"] * 7, "0.0\u202f%"] in page.rows


def test_all_datasets_in_a_folder_are_shown(inspect):
    said, page = inspect("")
    assert "4 prepared datasets" in page.text
    for name in ("affectnet", "fec/faces", "fec/triplets", "recola"):
        assert f"\n{name} 2" in said
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_the_page_is_self_contained(inspect):
    _, page = inspect("")
    references = page.values("src", "href", "xlink:href", "srcset", "action")
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_pictures_come_with_a_warning_and_can_be_left_out(inspect):
    _, page = inspect("")
    assert page.pictures
    assert "holds pictures of people" in page.text
    _, page = inspect("", samples=0)
    assert not page.pictures
    assert "holds pictures of people" not in page.text


def test_without_a_page_nothing_is_written(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Inspect(data / "affectnet")()
    assert "6 faces" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_records_are_verified(data, tmp_path, capsys):
    Inspect(data, verify=True)()
    assert len(re.findall("verified", capsys.readouterr().out)) == 4
    changed = tmp_path / "affectnet"
    changed.mkdir()
    for path in datasets_in(data / "affectnet")[0].iterdir():
        content = path.read_bytes()
        if path.name == "metadata.json":
            content = re.sub(rb'("fingerprint": ")........', rb"\g<1>00000000", content)
        (changed / path.name).write_bytes(content)
    with pytest.raises(LaunchError, match="fingerprint"):
        Inspect(changed, html=tmp_path / "card.html", verify=True)()
    assert "The records were changed" in (tmp_path / "card.html").read_text(encoding="utf-8")


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(LaunchError, match=r"no prepared dataset here; expected .*metadata\.json"):
        Inspect(tmp_path)()
    (tmp_path / "1.0.0.incomplete7").mkdir()
    for name in ("dataset_info.json", "metadata.json"):
        (tmp_path / "1.0.0.incomplete7" / name).write_text("{}")
    with pytest.raises(LaunchError, match="no prepared dataset"):
        Inspect(tmp_path)()


def test_a_page_without_a_folder_is_refused_before_anything_is_read(data, tmp_path):
    with pytest.raises(LaunchError, match="there is no folder"):
        Inspect(data, html=tmp_path / "absent" / "card.html")()


def test_samples_are_drawn_with_equal_chances():
    drawn = [0] * 6
    sample = Sample(3)
    for number in range(6):
        sample.offer(number)
    assert len(set(sample.items)) == 3
    for seed in range(3000):
        sample = Sample(2)
        sample._random = np.random.default_rng(seed)
        for number in range(6):
            sample.offer(number)
        for number in sample.items:
            drawn[number] += 1
    np.testing.assert_allclose(np.array(drawn) / 3000, 1 / 3, atol=0.04)
    nothing = Sample(0)
    nothing.offer(1)
    assert nothing.items == []


def test_agreement_needs_two_raters():
    assert rater_agreement(np.ones((5, 1, 2), np.float32)) is None
    assert rater_agreement(np.ones((5, 0, 2), np.float32)) is None


def test_plane_has_valence_first_and_holds_its_edges():
    counts = plane([-1, 1, 1], [-1, -1, 1])
    assert counts[0, 0] == counts[-1, 0] == counts[-1, -1] == 1
    assert counts.sum() == 3


def test_a_sheet_keeps_its_rows_apart():
    made = sheet("", {"dark": [jpeg(0)], "light": [jpeg(255), jpeg(255)]})
    assert made.rows == ("dark", "light")


def test_words():
    assert in_words([0.5, "a"]) == "0.5, a"
    assert in_words([]) == in_words(None) == "none"
    assert in_words(True) == "yes"
    assert [in_bytes(count) for count in (999, 1500, 2_000_000, 12_340_000_000)] == [
        "999 B",
        "1.5 kB",
        "2 MB",
        "12.3 GB",
    ]
