"""Preparing: nothing is lost uncounted, nothing depends on the number of processes, nothing half-done is accepted."""

import csv
import hashlib
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from data_pipelines import builders
from data_pipelines.builders import (
    SKIPPED_FILE,
    AffectNetPreparation,
    FecPreparation,
    RecolaPreparation,
    prepare_affectnet,
    prepare_fec,
    prepare_recola,
    summarize,
)
from data_pipelines.errors import DataError
from data_pipelines.faces import FACE_TEMPLATE, FoundFace, decode_image
from data_pipelines.loaders import fingerprint
from data_pipelines.records import dataset_folder, open_split, read_metadata
from data_pipelines.releases.affectnet import COLUMNS
from data_pipelines.releases.fec import photograph_path


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth random picture, so that resampling and JPEG change it little."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_image(path: Path, image: np.ndarray, kind: str = ".png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(kind, image[..., ::-1])[1].tobytes())


def write_affectnet_2017(root: Path, count: int = 40) -> None:
    """As many faces as said with classes in turn, the box 40 × 40 at (20, 10), and every fault that needs decoding."""
    lists = root / "Manually_Annotated_file_lists"
    lists.mkdir(parents=True)
    rows = []
    for number in range(count):
        name = f"{number % 3}/{number}.{('jpg', 'PNG', 'tif')[number % 3]}"  # all of them PNG or TIFF by content
        write_image(root / "Manually_Annotated_Images" / name, picture(number), (".png", ".png", ".tiff")[number % 3])
        affect = (-2, -2) if number % 4 == 0 else (number / 100, -number / 100)
        rows.append((name, 20, 10, 40, 40, "", number % 8, *affect))
    rows += [
        ("0/0.jpg", 20, 10, 40, 40, "", 0, 0, 0),
        ("0/absent.jpg", 20, 10, 40, 40, "", 0, 0, 0),
        ("0/bad.jpg", 20, 10, 40, 40, "", 0, 0, 0),
        ("0/outside.jpg", 200, 10, 40, 40, "", 0, 0, 0),
        ("0/partly.jpg", -20, 10, 40, 40, "", 7, 0, 0),
        ("../secret.jpg", 20, 10, 40, 40, "", 0, 0, 0),
        ("0/null.jpg", "NULL", "NULL", 40, 40, "", 0, 0, 0),
        ("0/negative.jpg", 20, 10, -40, 40, "", 0, 0, 0),
        ("0/uncertain.jpg", 20, 10, 40, 40, "", 9, -2, -2),
    ]
    (root / "Manually_Annotated_Images/0/bad.jpg").write_bytes(b"no picture")
    write_image(root / "Manually_Annotated_Images/0/outside.jpg", picture(1))
    write_image(root / "Manually_Annotated_Images/0/partly.jpg", picture(2))
    for name in ("training.csv", "validation.csv"):
        with (lists / name).open("w", newline="") as handle:
            csv.writer(handle).writerows([COLUMNS, *rows])


def write_affectnet_2021(root: Path, count: int = 40) -> None:
    """The usable faces of the other form, cut to their box and enlarged to 224 × 224."""
    for split in ("train_set", "val_set"):
        (root / split / "annotations").mkdir(parents=True)
        for number in range(count):
            crop = cv2.resize(picture(number)[10:50, 20:60], (224, 224), interpolation=cv2.INTER_CUBIC)
            write_image(root / split / "images" / f"{number}.jpg", crop)
            affect = ("-2", "-2") if number % 4 == 0 else (str(number / 100), str(-number / 100))
            for name, value in zip(("exp", "val", "aro"), (str(number % 8), *affect), strict=True):
                np.save(root / split / "annotations" / f"{number}_{name}.npy", np.array(value))
            np.save(root / split / "annotations" / f"{number}_lnd.npy", np.zeros(136))


def skipped(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / SKIPPED_FILE).read_text().splitlines()))


EXPECTED_SKIPS = {
    "box has no area": 1,
    "box is not four numbers": 1,
    "box outside the picture": 1,
    "expression uncertain": 1,
    "listed but absent": 1,
    "listed twice": 1,
    "path leaves the source folder": 1,
    "undecodable picture": 1,
}


def test_every_row_of_affectnet_is_prepared_or_counted(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path / "out", AffectNetPreparation(size=40, processes=1))

    assert folder == tmp_path / "out/affectnet/1.0.0"
    train = summarize(folder)["train"]
    assert train["skipped"] == EXPECTED_SKIPS
    assert train["records"] + sum(EXPECTED_SKIPS.values()) == 40 + 9
    assert train["classes"] == [5] * 7 + [6]
    assert train["without_valence_arousal"] == 10
    listed = skipped(folder)
    assert len(listed) == 2 * sum(EXPECTED_SKIPS.values())
    assert ["train", "../secret.jpg", "path leaves the source folder"] in listed
    assert read_metadata(folder)["preparation"] == {
        "size": 40,
        "margin": 0.0,
        "jpeg_quality": 95,
        "release": "2017",
    }


def test_records_hold_what_the_release_says(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=1))
    records = open_split(tmp_path, "affectnet", "train")
    assert len(records) == 41
    for number in range(40):
        record = records[number]
        assert record["key"][0].decode().split("/")[1].startswith(f"{number}.")
        assert record["expression"][0] == number % 8
        assert bool(record["valence_arousal_valid"][0]) == (number % 4 != 0)
        expected = (number / 100, -number / 100) if number % 4 else (0, 0)
        np.testing.assert_allclose(record["valence_arousal"], expected, atol=1e-6)
        image = decode_image(record["image"][0])
        assert image is not None
        assert np.abs(image.astype(int) - picture(number)[10:50, 20:60]).mean() < 3


def test_both_releases_give_the_same_records(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "2017")
    write_affectnet_2021(tmp_path / "2021")
    for release in ("2017", "2021"):
        config = AffectNetPreparation(size=40, processes=1)
        prepare_affectnet(tmp_path / release, tmp_path / f"out{release}", config)
    ours, theirs = (open_split(tmp_path / f"out{release}", "affectnet", "train") for release in ("2017", "2021"))
    for number in range(40):
        for name in ("expression", "valence_arousal", "valence_arousal_valid"):
            assert list(ours[number][name]) == list(theirs[number][name])
        images = [decode_image(records[number]["image"][0]) for records in (ours, theirs)]
        assert images[0] is not None
        assert images[1] is not None
        assert np.abs(images[0].astype(int) - images[1]).mean() < 4


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folders = [
        prepare_affectnet(tmp_path / "in", tmp_path / f"out{count}", AffectNetPreparation(size=40, processes=count))
        for count in (1, 2)
    ]
    assert digests(folders[0]) == digests(folders[1])
    assert sum(".array_record" in name for name in digests(folders[0])) == 2


def test_shards_continue_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")
    config = AffectNetPreparation(size=40, processes=1)
    monkeypatch.setattr("tensorflow_datasets.core.utils.shard_utils.ShardConfig.min_shard_size", 10_000)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 0)  # What TFDS holds in memory.
    folder = prepare_affectnet(tmp_path / "in", tmp_path, config)
    assert len(list(folder.glob("*train*-of-00004"))) == 4
    records = open_split(tmp_path, "affectnet", "train")
    keys = [records[index]["key"][0].decode() for index in range(len(records))]
    assert [key.split("/")[1].split(".")[0] for key in keys] == [*map(str, range(40)), "partly"]


def test_prepared_once_is_used_again(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=1))
    before = digests(folder)
    (tmp_path / "in/Manually_Annotated_Images/0/0.jpg").unlink()
    assert prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=2)) == folder
    assert digests(folder) == before
    with pytest.raises(DataError, match=r"size was 40, is now 48\); choose another --out or remove it"):
        prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=48, processes=1))


def test_a_failure_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")
    calls = iter(range(1000))

    def fail_late(task: object) -> bytes:
        if next(calls) == 45:
            raise MemoryError
        return b"\xff\xd8"

    with monkeypatch.context() as patch:
        patch.setattr(builders, "_crop_face", fail_late)
        with pytest.raises(MemoryError):
            prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=1))
    with pytest.raises(DataError, match="affectnet is not prepared; make it with: avemo prepare affectnet"):
        open_split(tmp_path, "affectnet", "train")
    prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=1))
    assert len(open_split(tmp_path, "affectnet", "train")) == 41


def test_a_missing_validation_list_is_told_before_any_cutting(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=1)
    (tmp_path / "in/Manually_Annotated_file_lists/validation.csv").unlink()
    with pytest.raises(DataError, match=r"no validation\.csv"):
        prepare_affectnet(tmp_path / "in", tmp_path / "out", AffectNetPreparation(processes=1))
    assert not (tmp_path / "out").exists()


def test_a_split_without_any_face_is_an_error(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    (tmp_path / "in/Manually_Annotated_file_lists/validation.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="nothing usable in split validation"):
        prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40, processes=1))


URLS = [f"http://x/{number}" for number in range(6)]
BOXES = "0.25,0.5,0.2,0.6", "0.5,0.75,0.2,0.6"  # left, right, top, bottom


def write_fec(root: Path) -> None:
    for number, url in enumerate(URLS[:4]):
        write_image(photograph_path(root, url), picture(number, 50, 80))
    write_image(photograph_path(root, URLS[5]), picture(5))
    photograph_path(root, URLS[5]).write_bytes(b"dead link")

    def triplet(first: int, second: int, third: int, kind: str, *answers: int) -> str:
        faces = ",".join(f"{URLS[face // 2]},{BOXES[face % 2]}" for face in (first, second, third))
        return f"{faces},{kind}_CLASS_TRIPLET," + ",".join(f"a,{answer}" for answer in answers)

    rows = [
        triplet(0, 1, 2, "ONE", 1, 1, 1),  # two faces of one photograph
        triplet(2, 1, 7, "TWO", 3, 3, 3, 1),
        triplet(6, 3, 0, "THREE", 2, 2, 2),
        triplet(0, 2, 4, "ONE", 1, 2, 3),  # no consensus
        triplet(0, 2, 8, "TWO", 1, 1, 1),  # photograph absent
        triplet(0, 2, 10, "THREE", 1, 1, 1),  # photograph undecodable
    ]
    for split in ("train", "test"):
        (root / f"faceexp-comparison-data-{split}-public.csv").write_text("\n".join(rows) + "\n")


def face_pixels(face: int, size: int) -> np.ndarray:
    left = (20, 40)[face % 2]
    return cv2.resize(picture(face // 2, 50, 80)[10:30, left : left + 20], (size, size), interpolation=cv2.INTER_CUBIC)


def test_fec_triplets_point_at_their_faces(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    folder = prepare_fec(tmp_path / "in", tmp_path, FecPreparation(size=24, processes=1))
    assert folder == tmp_path / "fec"
    assert summarize(dataset_folder(tmp_path, "fec/faces"))["train"] == {
        "records": 6,
        "skipped": {"photograph absent": 1, "undecodable picture": 1},
    }
    assert summarize(dataset_folder(tmp_path, "fec/triplets"))["test"] == {
        "records": 3,
        "kinds": [1, 1, 1],
        "skipped": {
            "a face is missing (THREE_CLASS_TRIPLET)": 1,
            "a face is missing (TWO_CLASS_TRIPLET)": 1,
            "no consensus (ONE_CLASS_TRIPLET)": 1,
        },
    }
    faces, triplets = (
        open_split(tmp_path, "fec/faces", "train"),
        open_split(tmp_path, "fec/triplets", "train"),
    )
    for triplet, wanted in zip((triplets[0], triplets[1], triplets[2]), [(1, 2, 0), (2, 1, 7), (6, 0, 3)], strict=True):
        for position, face in zip(triplet["faces"], wanted, strict=True):
            image = decode_image(faces[position]["image"][0])
            assert image is not None
            assert np.abs(image.astype(int) - face_pixels(face, 24)).mean() < 4


def test_fec_by_two_processes_and_again(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    prepare_fec(tmp_path / "in", tmp_path / "1", FecPreparation(size=24, processes=1))
    prepare_fec(tmp_path / "in", tmp_path / "2", FecPreparation(size=24, processes=2))
    assert fingerprint(tmp_path / "1", "fec") == fingerprint(tmp_path / "2", "fec")
    with pytest.raises(DataError, match=r"consensus was 0\.66.*, is now 0\.5"):
        prepare_fec(tmp_path / "in", tmp_path / "1", FecPreparation(size=24, processes=1, consensus=0.5))


def test_triplets_of_other_faces_are_not_used_again(tmp_path: Path) -> None:
    write_fec(tmp_path / "in")
    config = FecPreparation(size=24, processes=1)
    prepare_fec(tmp_path / "in", tmp_path, config)
    shutil.rmtree(tmp_path / "fec/faces")
    photograph_path(tmp_path / "in", URLS[3]).unlink()
    with pytest.raises(DataError, match=r"fec/triplets/1\.0\.0: .*\(faces_fingerprint was .*\); choose another --out"):
        prepare_fec(tmp_path / "in", tmp_path, config)
    shutil.rmtree(tmp_path / "fec/triplets")
    prepare_fec(tmp_path / "in", tmp_path, config)
    assert len(open_split(tmp_path, "fec/triplets", "train")) == 1


class OneFace:
    """Finds a face at a fixed place, except in dark pictures."""

    def find(self, image: np.ndarray) -> list[FoundFace]:
        if image.mean() < 20:
            return []
        return [FoundFace((16, 8, 56, 48), FACE_TEMPLATE * 40 + [16, 8], 1.0)]


def write_recola(root: Path, name: str, frames: int, silent: bool = False) -> None:
    for dimension, level in (("valence", 0.25), ("arousal", -0.5)):
        path = root / "RECOLA-Annotation/emotional_behaviour" / dimension / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{number / 25:.2f};{level};{level + 0.1}" for number in range(51)]
        path.write_text("time;FM1 ;FF1 \n" + "\n".join(rows) + "\n")
    for folder in ("RECOLA-Audio-recordings", "RECOLA-Video-recordings"):
        (root / folder).mkdir(exist_ok=True)
    tone = 0 if silent else 0.5 * np.sin(np.arange(2 * 44_100) / 20)
    soundfile.write(root / f"RECOLA-Audio-recordings/{name}.wav", tone * np.ones(2 * 44_100), 44_100)
    with av.open(
        str(root / f"RECOLA-Video-recordings/{name}.mp4"), "w", options={"movflags": "faststart"}
    ) as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for number in range(frames):
            image = picture(3) // 2 + 64 if number >= 5 else np.zeros((60, 80, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_recola_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "FaceFinder", OneFace)
    write_recola(tmp_path / "in", "P45", frames=50)
    write_recola(tmp_path / "in", "P46", frames=48, silent=True)
    write_recola(tmp_path / "in", "P16", frames=55)
    sounds = tmp_path / "in/RECOLA-Audio-recordings"
    soundfile.write(sounds / "P45.wav", np.full(51 * 640, 0.5), 16_000)
    soundfile.write(sounds / "P16.wav", np.full(50 * 640 - 4000, 0.5), 16_000)
    write_recola(tmp_path / "in", "P99", frames=50)
    folder = prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40, processes=1))

    summary = summarize(folder)
    assert summary["unassigned"]["skipped"] == {"not in partition A": 1}
    assert {split: counts["records"] for split, counts in summary.items()} == {
        "unassigned": 0,
        "train": 2,
        "dev": 0,
        "test": 1,
    }
    assert summary["train"]["frames"] == 100
    assert summary["train"]["frames_without_face"] == 5 + 5 + 2
    assert (summary["train"]["frames_missing"], summary["train"]["frames_cut"]) == (2, 0)
    assert (summary["test"]["frames_missing"], summary["test"]["frames_cut"]) == (0, 5)
    assert (summary["train"]["samples_missing"], summary["train"]["samples_cut"]) == (0, 640)
    assert (summary["test"]["samples_missing"], summary["test"]["samples_cut"]) == (4000, 0)
    assert read_metadata(folder)["raters"] == ["FM1", "FF1"]
    assert summary["train"]["without_voice"] == 1
    assert summary["train"]["skipped"] == {"absent": 6}
    with pytest.raises(DataError, match="no split dev; there are test, train"):
        open_split(tmp_path, "recola", "dev")
    assert ["dev", "P28", "absent"] in skipped(folder)
    assert ["unassigned", "P99", "not in partition A"] in skipped(folder)


def test_unreadable_media_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "FaceFinder", OneFace)
    write_recola(tmp_path / "in", "P45", frames=50)
    write_recola(tmp_path / "in", "P46", frames=50)
    (tmp_path / "in/RECOLA-Video-recordings/P46.mp4").write_bytes(b"no video")
    write_recola(tmp_path / "in", "P48", frames=50)
    cut_short = tmp_path / "in/RECOLA-Video-recordings/P48.mp4"
    cut_short.write_bytes(cut_short.read_bytes().partition(b"mdat")[0] + b"mdat")
    write_recola(tmp_path / "in", "P56", frames=50)
    soundfile.write(tmp_path / "in/RECOLA-Audio-recordings/P56.wav", np.zeros(0), 44_100)
    folder = prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40, processes=1))
    skipped = summarize(folder)["train"]["skipped"]
    assert any("P46.mp4: can't be opened as video" in reason for reason in skipped)
    assert skipped["video without a frame that can be decoded"] == 1
    assert skipped["sound without samples"] == 1


def test_a_recording_in_which_finding_faces_fails_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(OneFace):
        def find(self, image: np.ndarray) -> list[FoundFace]:
            if image.mean() < 20:
                cv2.resize(image, (0, 0))  # raises cv2.error
            return super().find(image)

    monkeypatch.setattr(builders, "FaceFinder", Failing)
    write_recola(tmp_path / "in", "P45", frames=50)
    with pytest.raises(DataError, match=r"nothing usable in split train; skipped: .*finding faces failed"):
        prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(size=40, processes=1))


def test_the_gold_standard_of_avec_needs_two_raters(tmp_path: Path) -> None:
    write_recola(tmp_path / "in", "P45", frames=1)
    for path in (tmp_path / "in/RECOLA-Annotation").rglob("*.csv"):
        path.write_text("\n".join(line.rsplit(";", 1)[0] for line in path.read_text().splitlines()))
    with pytest.raises(DataError, match="at least two raters"):
        prepare_recola(tmp_path / "in", tmp_path, RecolaPreparation(gold_standard="avec", processes=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffectNetPreparation(processes=0), "processes"),
        (lambda: FecPreparation(consensus=1.5), "consensus"),
        (lambda: RecolaPreparation(detect_every=0), "detect_every"),
    ],
)
def test_settings_are_checked(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
