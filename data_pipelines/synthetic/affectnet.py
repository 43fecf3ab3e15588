"""A synthetic AffectNet in the form of either release; with one seed both hold the same faces and labels."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from avemo.labels import EXPRESSIONS
from data_pipelines.faces import encode_jpeg
from data_pipelines.synthetic.ceilings import ccc, expression_ceiling
from data_pipelines.synthetic.corpus import new_folder, shared_out, write_truth
from data_pipelines.synthetic.drawing import DrawnFace, draw_background, draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import (
    FaceParameters,
    affect,
    expression_of_class,
    sample_identity,
    sample_light,
    sample_pose,
)

_TRAINING_COUNTS = np.array([74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750])
"""Of the real release; the synthetic one is imbalanced alike, but only by the cube roots."""

_JPEG_QUALITY = 92
_NO_AFFECT = -2.0
_HEADER = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
_FOLDERS = {"2017": {}, "2021": {"train": "train_set", "validation": "val_set"}}
_LISTS = {"train": "training.csv", "validation": "validation.csv"}

Fault = Literal[
    "null_box",
    "negative_width",
    "box_leaves_image",
    "jpeg_named_png",
    "png_named_jpg",
    "tiff",
    "undecodable",
    "absent",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""What the 2017 form suffers from, one training row each, beside the regular ones."""


@dataclass(frozen=True)
class SyntheticAffectNetConfig:
    """Size and noise of a synthetic AffectNet.

    Attributes:
        release: Which form to write.
        train_faces: Regular training faces, imbalanced.
        validation_faces_per_class: Regular validation faces with each of the eight labels.
        train_identities: How many people the training faces belong to; the validation people are others.
        validation_identities: How many people the validation faces belong to.
        label_noise: Share of faces whose label is one of the seven wrong classes.
        affect_noise: Standard deviation of the noise on the labelled valence and arousal.
        unusable_per_code: 2017 only: rows with each of the codes 8, 9 and 10, in either list.
        canvas_size: Smallest and largest side of a picture of 2017, in pixels.
        crop_size: Side of the crops of 2021, in pixels.
        processes: How many draw.
    """

    release: Literal["2017", "2021"] = "2017"
    train_faces: int = 4000
    validation_faces_per_class: int = 100
    train_identities: int = 400
    validation_identities: int = 100
    label_noise: float = 0.06
    affect_noise: float = 0.16
    unusable_per_code: int = 10
    canvas_size: tuple[int, int] = (120, 180)
    crop_size: int = 96
    processes: int = 2

    def __post_init__(self) -> None:
        if self.release not in _FOLDERS:
            raise ValueError(f"release must be '2017' or '2021', not {self.release!r}")
        counts = (self.train_faces, self.validation_faces_per_class, self.processes)
        if min(counts) < 1 or min(self.train_identities, self.validation_identities) < 1:
            raise ValueError("counts of faces, identities and processes must be at least 1")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"label_noise must lie in [0, 1), not {self.label_noise}")
        if self.affect_noise < 0:
            raise ValueError(f"affect_noise must not be negative, is {self.affect_noise}")
        if not 64 <= self.canvas_size[0] <= self.canvas_size[1] <= 1000:
            raise ValueError(f"canvas_size must rise within 64 to 1000, not {self.canvas_size}")
        if self.crop_size < 8:
            raise ValueError(f"crop_size must be at least 8, not {self.crop_size}")


PRESETS = {
    "tiny": SyntheticAffectNetConfig(
        train_faces=64,
        validation_faces_per_class=4,
        train_identities=16,
        validation_identities=8,
        unusable_per_code=1,
        processes=1,
    ),
    "demo": SyntheticAffectNetConfig(),
}


@dataclass(frozen=True)
class _Face:
    """One row: how to draw it, what is true, and what the label says."""

    partition: str
    number: int
    key: str
    """Path in the images' folder (2017) or id (2021)."""
    seed: tuple[int, ...]
    size: int
    placement: Placement
    identity: int
    parameters: FaceParameters
    true_class: int
    label: int
    true_affect: tuple[float, float]
    labelled_affect: tuple[float, float]
    fault: Fault | None = None


def synthesize(out: Path, config: SyntheticAffectNetConfig, seed: int) -> None:
    """Writes the corpus and its `truth.json`.

    The truth holds, beside the configuration: `ceiling`, the accuracy_8, macro_f1_8, accuracy_7, macro_f1_7,
    ccc_valence and ccc_arousal of a perfect observer on the regular validation faces; `partitions`, lists of
    the regular faces' key, identity, true class, label, true valence and arousal; and `planted`, all other
    rows of the 2017 form, each with its file and what is the matter with it.

    Args:
        out: A folder that is new or empty.
        config: Form, size and noise.
        seed: The same seed gives the same files.

    Raises:
        DataError: If the folder holds anything.
    """
    new_folder(out)
    partitions = {name: _plan(name, config, seed) for name in _LISTS}
    if config.release == "2017":
        planted = _write_2017(out, partitions, config, seed)
    else:
        planted = []
        _write_2021(out, partitions, config)
    write_truth(
        out,
        {
            "corpus": "affectnet",
            "seed": seed,
            "config": asdict(config),
            "ceiling": _ceiling(partitions["validation"]),
            "planted": planted,
            "partitions": {name: _columns(faces) for name, faces in partitions.items()},
        },
    )


def _columns(faces: list[_Face]) -> dict[str, list[Any]]:
    return {
        "key": [face.key for face in faces],
        "identity": [face.identity for face in faces],
        "true_class": [face.true_class for face in faces],
        "label": [face.label for face in faces],
        "true_valence": [round(face.true_affect[0], 5) for face in faces],
        "true_arousal": [round(face.true_affect[1], 5) for face in faces],
    }


def _ceiling(faces: list[_Face]) -> dict[str, float]:
    true = np.array([face.true_affect for face in faces])
    labelled = np.array([face.labelled_affect for face in faces])
    return {
        **expression_ceiling(np.array([face.true_class for face in faces]), np.array([face.label for face in faces])),
        "ccc_valence": ccc(true[:, 0], labelled[:, 0]),
        "ccc_arousal": ccc(true[:, 1], labelled[:, 1]),
    }


def _labels(partition: str, config: SyntheticAffectNetConfig, rng: np.random.Generator) -> np.ndarray:
    """Labels of a partition in random order: balanced for validation, imbalanced for training."""
    if partition == "validation":
        counts = np.full(len(EXPRESSIONS), config.validation_faces_per_class)
    else:
        ends = np.cumsum(np.cbrt(_TRAINING_COUNTS))
        ends = np.rint(ends / ends[-1] * config.train_faces).astype(int)
        counts = np.diff(ends, prepend=0)
    return rng.permutation(np.repeat(np.arange(len(EXPRESSIONS)), counts))


def _keys(release: str, partition: str, count: int, seed: int, rng: np.random.Generator) -> list[str]:
    ids = sorted(rng.choice(3 * count, count, replace=False).tolist())
    if release == "2021":
        return [str(number) for number in ids]
    extensions = (".jpg", ".JPG", ".jpeg", ".png", ".bmp")
    endings = rng.choice(extensions, count, p=(0.88, 0.04, 0.04, 0.03, 0.01))
    names = [hashlib.sha224(f"{seed}/{partition}/{number}".encode()).hexdigest() for number in ids]
    return [f"{1 + number % 40}/{name}{end}" for number, name, end in zip(ids, names, endings, strict=True)]


def _plan(partition: str, config: SyntheticAffectNetConfig, seed: int) -> list[_Face]:
    """The regular faces of a partition. Keys have a random stream of their own: faces ignore the release."""
    code = list(_LISTS).index(partition)
    rng = np.random.default_rng([seed, code])
    people = config.train_identities if partition == "train" else config.validation_identities
    identities = [sample_identity(rng) for _ in range(people)]
    labels = _labels(partition, config, rng)
    true_classes = labels.copy()
    wrong = rng.choice(len(labels), round(config.label_noise * len(labels)), replace=False)
    true_classes[wrong] = (labels[wrong] + rng.integers(1, len(EXPRESSIONS), len(wrong))) % len(EXPRESSIONS)
    first = 0 if partition == "train" else config.train_identities

    faces = []
    keys = _keys(config.release, partition, len(labels), seed, np.random.default_rng([seed, code, 1]))
    for number, (label, true_class) in enumerate(zip(labels.tolist(), true_classes.tolist(), strict=True)):
        person = int(rng.integers(people))
        expression = expression_of_class(EXPRESSIONS[true_class], rng.uniform(0.6, 1.0), rng)
        true_affect = affect(expression)
        noisy = np.clip(rng.normal(true_affect, config.affect_noise), -1, 1).round(5).tolist()
        size = int(rng.integers(config.canvas_size[0], config.canvas_size[1] + 1))
        x, y = rng.uniform(0.46, 0.54), rng.uniform(0.45, 0.5)
        faces.append(
            _Face(
                partition=partition,
                number=number,
                key=keys[number],
                seed=(seed, code, 2, number),
                size=size,
                placement=Placement(x * size, y * size, rng.uniform(0.25, 0.31) * size),
                identity=first + person,
                parameters=FaceParameters(identities[person], expression, sample_pose(rng), sample_light(rng)),
                true_class=true_class,
                label=label,
                true_affect=true_affect,
                labelled_affect=(noisy[0], noisy[1]),
            )
        )
    return faces


def _draw(face: _Face) -> tuple[np.ndarray, DrawnFace]:
    """The picture; a head turned so far that its box would leave the picture is moved back in."""
    image, drawn = _draw_at(face, face.placement)
    x, y, width, height = _whole_box(drawn)
    shift_x = max(0, -x) + min(0, face.size - x - width)
    shift_y = max(0, -y) + min(0, face.size - y - height)
    if shift_x or shift_y:
        place = face.placement
        image, drawn = _draw_at(face, Placement(place.x + shift_x, place.y + shift_y, place.half_width))
    return image, drawn


def _draw_at(face: _Face, placement: Placement) -> tuple[np.ndarray, DrawnFace]:
    rng = np.random.default_rng(face.seed)
    image, drawn = draw_photograph([(face.parameters, placement)], face.size, face.size, rng)
    return image, drawn[0]


def _whole_box(drawn: DrawnFace) -> tuple[int, int, int, int]:
    x, y, width, height = (round(value) for value in drawn.box)
    return x, y, width, height


# --- the 2021 form ------------------------------------------------------------------------------------------


def _write_2021(out: Path, partitions: dict[str, list[_Face]], config: SyntheticAffectNetConfig) -> None:
    for folder in _FOLDERS["2021"].values():
        (out / folder / "images").mkdir(parents=True)
        (out / folder / "annotations").mkdir()
    jobs = [(out, face, config.crop_size) for faces in partitions.values() for face in faces]
    for _ in shared_out(_write_crop, jobs, len(jobs), config.processes, "synthesize affectnet"):
        pass


def _write_crop(job: tuple[Path, _Face, int]) -> None:
    out, face, crop_size = job
    image, drawn = _draw(face)
    x, y, width, height = _whole_box(drawn)
    square = image[y : y + height, x : x + width]
    crop = cv2.resize(square, (crop_size, crop_size), interpolation=cv2.INTER_AREA)
    landmarks = (drawn.landmarks - (x, y)) * (crop_size / width, crop_size / height)
    folder = out / _FOLDERS["2021"][face.partition]
    (folder / "images" / f"{face.key}.jpg").write_bytes(encode_jpeg(crop, _JPEG_QUALITY))
    valence, arousal = face.labelled_affect
    values = {"exp": str(face.label), "val": f"{valence:.5f}", "aro": f"{arousal:.5f}"}
    for name, value in values.items():
        np.save(folder / "annotations" / f"{face.key}_{name}.npy", np.array(value))
    np.save(folder / "annotations" / f"{face.key}_lnd.npy", landmarks.round(2).ravel())


# --- the 2017 form ------------------------------------------------------------------------------------------


def _write_2017(
    out: Path, partitions: dict[str, list[_Face]], config: SyntheticAffectNetConfig, seed: int
) -> list[dict[str, Any]]:
    """Writes pictures and lists; returns what was planted."""
    images = out / "Manually_Annotated_Images"
    lists = out / "Manually_Annotated_file_lists"
    lists.mkdir()
    planted: list[dict[str, Any]] = []
    rows_of = {}
    faulty = _faulty_faces(partitions["train"], seed)
    faces = [*partitions["train"], *partitions["validation"], *faulty]
    for face in faces:
        (images / face.key).parent.mkdir(parents=True, exist_ok=True)
    rows = shared_out(
        _write_picture,
        [(images, face) for face in faces],
        len(faces),
        config.processes,
        "synthesize affectnet",
    )
    for partition in _LISTS:
        rows_of[partition] = [next(rows) for _ in partitions[partition]]
    for face, row in zip(faulty, rows, strict=True):
        rows_of["train"].append(row)
        planted.append({"partition": "train", "file": face.key, "fault": face.fault, "label": face.label})
    for partition in _LISTS:
        for file, row in _write_unusable(images, partition, config, seed):
            rows_of[partition].append(row)
            planted.append({"partition": partition, "file": file, "fault": f"code_{row[6]}"})
        with (lists / _LISTS[partition]).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([_HEADER, *rows_of[partition]])
    return planted


def _faulty_faces(faces: list[_Face], seed: int) -> list[_Face]:
    """One more training face for every fault: people and labels of the first regular ones, new pictures."""
    faulty = []
    for number, fault in enumerate(FAULTS):
        model = faces[number % len(faces)]
        ending = {"jpeg_named_png": ".png", "tiff": ".tif"}.get(fault, ".jpg")
        key = f"{41 + number}/{hashlib.sha224(f'{seed}/{fault}'.encode()).hexdigest()}{ending}"
        changes = {"key": key, "seed": (seed, 9, number), "fault": fault, "number": len(faces) + number}
        faulty.append(_Face(**{**vars(model), **changes}))
    return faulty


def _write_picture(job: tuple[Path, _Face]) -> list[Any]:
    """Writes one picture and returns its row of the list."""
    images, face = job
    image, drawn = _draw(face)
    if face.fault != "absent":
        (images / face.key).write_bytes(_encoded(image, face))
    x, y, width, height = _whole_box(drawn)
    box: list[Any] = [x, y, width, height]
    if face.fault == "null_box":
        box = ["NULL", "NULL", width, height]
    elif face.fault == "negative_width":
        box = [x, y, -width, height]
    elif face.fault == "box_leaves_image":
        box = [x - face.size // 2, y, face.size, height]
    return _row(face.key, box, drawn.landmarks, face.label, face.labelled_affect)


def _encoded(image: np.ndarray, face: _Face) -> bytes:
    if face.fault == "undecodable":
        return b"\xff\xd8\xff\xe0 this was a picture once"
    ending = Path(face.key).suffix.lower()
    content = {"jpeg_named_png": ".jpg", "png_named_jpg": ".png"}.get(face.fault or "", ending)
    if content in (".jpg", ".jpeg"):
        return encode_jpeg(image, _JPEG_QUALITY)
    return cv2.imencode(content, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _row(file: str, box: list[Any], landmarks: np.ndarray, code: int, affect_label: tuple[float, float]) -> list[Any]:
    points = ";".join(f"{value:.2f}" for value in landmarks.ravel())
    return [file, *box, points, code, *(f"{value:.6g}" for value in affect_label)]


def _write_unusable(
    images: Path, partition: str, config: SyntheticAffectNetConfig, seed: int
) -> Iterator[tuple[str, list[Any]]]:
    """Rows with the codes 8 (none), 9 (uncertain) and 10 (non-face); only code 8 has valence and arousal."""
    part = list(_LISTS).index(partition)
    size = config.canvas_size[0]
    for number in range(3 * config.unusable_per_code):
        code = 8 + number % 3
        rng = np.random.default_rng([seed, part, 3, number])
        file = f"{50 + part}/{hashlib.sha224(f'{seed}/{partition}/unusable/{number}'.encode()).hexdigest()}.jpg"
        parameters = FaceParameters(sample_identity(rng), pose=sample_pose(rng), light=sample_light(rng))
        placement = Placement(0.5 * size, 0.47 * size, 0.27 * size)
        image, drawn = draw_photograph([(parameters, placement)], size, size, rng)
        if code == 10:
            image = draw_background(size, size, rng)
        (images / file).parent.mkdir(parents=True, exist_ok=True)
        (images / file).write_bytes(encode_jpeg(image, _JPEG_QUALITY))
        valence, arousal = rng.normal(0.0, 0.1, 2).round(5).tolist() if code == 8 else (_NO_AFFECT, _NO_AFFECT)
        yield file, _row(file, list(_whole_box(drawn[0])), drawn[0].landmarks, code, (valence, arousal))
