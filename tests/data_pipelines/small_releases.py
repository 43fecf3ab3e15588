"""Small releases on disk, with their faults, for the tests of builders."""

import csv
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from data_pipelines.builders.account import SKIPPED_FILE
from data_pipelines.faces import FACE_TEMPLATE, FoundFace
from data_pipelines.records import read_metadata
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
    write_image(root / "Manually_Annotated_Images/0/uncertain.jpg", picture(3))
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


def splits_of(folder: Path) -> dict:
    return read_metadata(folder)["splits"]


def skipped(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / SKIPPED_FILE).read_text().splitlines()))


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
