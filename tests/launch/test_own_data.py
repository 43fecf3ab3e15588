"""People's own faces and clips go the way of the corpora: listed, prepared, learned from, scored."""

import csv
import json
import math

import pytest
from conftest import avemo

from avemo.labels import EXPRESSIONS
from data_pipelines import loaders
from data_pipelines.releases import affectnet
from data_pipelines.releases.items import Face

FACES = ["--preset", "demo", "--faces", "faces", "--batch-size", "8", "--triplet-batch-size", "4", "--steps", "2"]
FACES += ["--network.trunk.width", "0.125", "--network.dense-layers", "1", "--network.growth", "8"]
FACES += ["--network.reduced-channels", "16"]
CLIPS = ["--preset", "demo", "--clips", "clips", "--batch-size", "4", "--steps", "2", "--window-s", "2"]
CLIPS += ["--annotation-delay-s", "1", "1", "--network.audio.features", "16", "--network.recurrent.features", "16"]


def list_faces(corpora, path, splits):
    """The faces of the tiny AffectNet; every third has no expression, every fourth no valence and arousal."""
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "split", "left", "top", "right", "bottom", "expression", "valence", "arousal"])
        for split in splits:
            released = affectnet.read_split(corpora / "affectnet", "2017", split)
            for number, face in enumerate(item for item in released if isinstance(item, Face)):
                expression = EXPRESSIONS[face.expression] if number % 3 else ""
                pair = (number % 4 and face.valence_arousal) or ("", "")
                rows.writerow([face.image.relative_to(path.parent), split, *face.box, expression, *pair])


def list_clips(corpora, path):
    """The tiny RECOLA's recordings with two labels a second of one's own making; the last has no sound file."""
    videos = sorted((corpora / "recola/RECOLA-Video-recordings").glob("*.mp4"))
    labels = [f"{t / 2},{math.sin(t / 4)},{math.cos(t / 4)}" for t in range(21)]
    (corpora / "labels.csv").write_text("\n".join(["time,valence,arousal", *labels]))
    rows = [
        f"{split},recola/RECOLA-Video-recordings/{video.name},{audio},labels.csv"
        for split, video, audio in zip(
            ("train", "dev", "test"),
            videos,
            [*(f"recola/RECOLA-Audio-recordings/{video.stem}.wav" for video in videos[:2]), ""],
            strict=True,
        )
    ]
    path.write_text("\n".join(["split,video,audio,annotation", *rows]))


@pytest.fixture(scope="module")
def own(tiny, tmp_path_factory):
    """The folder of prepared data: own faces and clips beside FEC."""
    data = tmp_path_factory.mktemp("own")
    (data / "fec").symlink_to(tiny.data / "fec")
    list_faces(tiny.corpora, tiny.corpora / "faces.csv", ("train", "validation"))
    list_clips(tiny.corpora, tiny.corpora / "clips.csv")
    for kind in ("faces", "clips"):
        avemo("prepare", kind, "--csv", tiny.corpora / f"{kind}.csv", "--out", data, "--size", 46, "--processes", 1)
    return data


def test_faces_without_an_expression_say_so(own):
    (batch,) = loaders.face_eval_batches(own, batch_size=200, name="faces", split="train")
    own_faces = {name: values[batch["valid"]] for name, values in batch.items()}
    assert not own_faces["expression"][~own_faces["expression_valid"]].any()
    counts = loaders.class_counts(own, "faces")
    assert 0 < sum(counts) == own_faces["expression_valid"].sum() < len(own_faces["image"])
    assert [int((own_faces["expression"][own_faces["expression_valid"]] == code).sum()) for code in range(8)] == list(
        counts
    )


def test_a_list_without_faces_to_learn_from_is_refused_by_trainings(tiny, tmp_path):
    list_faces(tiny.corpora, tiny.corpora / "scored.csv", ("validation",))
    avemo("prepare", "faces", "--csv", tiny.corpora / "scored.csv", "--out", tmp_path, "--size", 46, "--processes", 1)
    with pytest.raises(SystemExit, match="no split train; there are validation"):
        avemo("train", "teacher", "--data", tmp_path, *FACES, "--triplet-batch-size", "0", "--out", tmp_path / "run")


def test_own_data_are_learned_from_and_scored(own, tmp_path):
    avemo("train", "teacher", "--data", own, "--out", tmp_path / "teacher", *FACES)
    avemo("train", "fusion", "--data", own, "--out", tmp_path / "fusion", "--face", tmp_path / "teacher", *CLIPS)
    runs = ["--teacher", tmp_path / "teacher", "--fusion", tmp_path / "fusion"]
    avemo("evaluate", "--data", own, "--out", tmp_path, *runs, "--faces", "faces", "--clips", "clips")

    results = json.loads((tmp_path / "results.json").read_text())
    assert {"accuracy_8", "ccc_valence"} <= set(results["faces"]["teacher"])
    assert {"ccc_concatenated", "ccc_per_file"} <= set(results["clips"]["fused"]["arousal"])
    assert results["clips"]["protocol"]["partition"] == "as listed"
    assert not {"affectnet", "recola"} & set(results)
    for run, names in (("teacher", {"faces", "fec"}), ("fusion", {"clips", "face"})):
        assert set(json.loads((tmp_path / run / "run.json").read_text())["inputs"]) == names


def test_a_list_without_validation_faces_is_named_before_training(tiny, tmp_path):
    list_faces(tiny.corpora, tiny.corpora / "alone.csv", ("train",))
    avemo("prepare", "faces", "--csv", tiny.corpora / "alone.csv", "--out", tmp_path, "--size", 46, "--processes", 1)
    (tmp_path / "fec").symlink_to(tiny.data / "fec")
    with pytest.raises(SystemExit, match="no split validation; there are train"):
        avemo("train", "teacher", "--data", tmp_path, "--out", tmp_path / "run", *FACES)
    assert not (tmp_path / "run").exists()
