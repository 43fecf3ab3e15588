"""A synthetic Google FEC: photographs of several people, and triplets judged by annotators who can err."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avemo.labels import EXPRESSIONS, TRIPLET_KINDS
from data_pipelines.errors import DataError
from data_pipelines.faces import encode_jpeg
from data_pipelines.releases.fec import photograph_path
from data_pipelines.synthetic.corpus import new_folder, shared_out, write_truth
from data_pipelines.synthetic.drawing import draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import (
    FaceParameters,
    expression_of_class,
    sample_identity,
    sample_light,
    sample_pose,
    similarity_points,
)

_PARTITIONS = ("train", "test")
_FACES_PER_PHOTOGRAPH = (0.4, 0.3, 0.2, 0.1)
_ANNOTATORS = 40
_ANSWERS_PER_TRIPLET = ((5, 0.06), (6, 0.88), (7, 0.06))
_JPEG_QUALITY = 92
_LEAST_DISTANCE = 0.6
"""Of the odd one from the other two: about half of the way from no smile to a full one."""
_MOST_TRIES = 100_000

CONSENSUS = (2, 3)
"""The share of equal answers, two thirds, that makes a triplet count for the ceiling."""

_PAIR_OF_ODD = ((1, 2), (0, 2), (0, 1))
"""For every image, the pair that is left if it is the odd one out."""


@dataclass(frozen=True)
class SyntheticFecConfig:
    """Size and noise of a synthetic FEC.

    Attributes:
        train_photographs: Each holds one to four people.
        test_photographs: Of other people.
        train_triplets: A third of each kind.
        test_triplets: A third of each kind.
        train_identities: How many people the training photographs show.
        test_identities: How many people the test photographs show.
        absent_photographs: How many in either partition are listed, but can't be had.
        face_size: Smallest and largest half width of a head, in pixels.
        clarity: By what factor, at least, the two alike are closer to each other than either is to the third.
        answer_noise: Standard deviation of the logarithm of a distance as an annotator sees it.
        processes: How many draw.
    """

    train_photographs: int = 1200
    test_photographs: int = 300
    train_triplets: int = 3000
    test_triplets: int = 600
    train_identities: int = 300
    test_identities: int = 80
    absent_photographs: int = 4
    face_size: tuple[float, float] = (32.0, 50.0)
    clarity: float = 1.8
    answer_noise: float = 0.6
    processes: int = 2

    def __post_init__(self) -> None:
        if min(self.train_photographs, self.test_photographs) < 16:
            raise ValueError("each partition needs at least 16 photographs to find triplets in")
        if min(self.train_triplets, self.test_triplets) < len(TRIPLET_KINDS):
            raise ValueError(f"each partition needs at least {len(TRIPLET_KINDS)} triplets")
        if min(self.train_identities, self.test_identities) < len(_FACES_PER_PHOTOGRAPH):
            raise ValueError(f"each partition needs at least {len(_FACES_PER_PHOTOGRAPH)} identities")
        if not 0 <= self.absent_photographs <= min(self.train_photographs, self.test_photographs) // 2:
            raise ValueError(f"absent_photographs must be at most half of a partition, not {self.absent_photographs}")
        if not 12 <= self.face_size[0] <= self.face_size[1] <= 75:
            raise ValueError(f"face_size must rise within 12 to 75 pixels, not {self.face_size}")
        if not 1 <= self.clarity <= 3:
            raise ValueError(f"clarity must lie in [1, 3], not {self.clarity}")
        if not 0 <= self.answer_noise <= 10:
            raise ValueError(f"answer_noise must lie in [0, 10], not {self.answer_noise}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")


PRESETS = {
    "tiny": SyntheticFecConfig(
        train_photographs=24,
        test_photographs=16,
        train_triplets=39,
        test_triplets=21,
        train_identities=12,
        test_identities=8,
        absent_photographs=1,
        processes=1,
    ),
    "demo": SyntheticFecConfig(),
}


@dataclass(frozen=True)
class _Photograph:
    url: str
    seed: tuple[int, ...]
    height: int
    width: int
    people: tuple[tuple[FaceParameters, Placement], ...]


@dataclass(frozen=True)
class _Face:
    """One of the people of a photograph, with what is true of them."""

    photograph: int
    place: int
    identity: int
    true_class: int


@dataclass(frozen=True)
class _Triplet:
    faces: tuple[int, int, int]
    kind: str
    odd_one: int
    """1, 2 or 3, by the true distances."""
    answers: tuple[tuple[int, int], ...]
    """Annotator and answer."""


def synthesize(out: Path, config: SyntheticFecConfig, seed: int) -> None:
    """Writes the corpus and its `truth.json`.

    The photographs lie where the reader looks for them. The truth holds, beside the configuration: `ceiling`,
    the triplet_accuracy of a perfect observer, over all and by kind, on those test triplets that have a
    consensus of two thirds and all three photographs (null if there is none); `absent_urls`; and `partitions`:
    the faces (URL, box, identity, true class) and the true odd one of each triplet, in the order of the list.

    Args:
        out: A folder that is new or empty.
        config: Size and noise.
        seed: The same seed gives the same files.

    Raises:
        DataError: If the folder holds anything, or if there are too few faces to find clear triplets among.
    """
    new_folder(out)
    truth: dict[str, Any] = {"corpus": "fec", "seed": seed, "config": asdict(config)}
    absent_urls: list[str] = []
    partitions = {}
    for code, partition in enumerate(_PARTITIONS):
        rng = np.random.default_rng([seed, code])
        photographs, faces, points = _plan_photographs(partition, config, seed, rng)
        count = config.train_triplets if partition == "train" else config.test_triplets
        triplets = list(_plan_triplets(faces, points, count, config, rng))
        chosen = rng.choice(len(photographs), config.absent_photographs, replace=False)
        absent = {photographs[number].url for number in chosen.tolist()}
        boxes = _write_photographs(out, photographs, absent, config)
        _write_list(out, partition, photographs, faces, triplets, boxes)
        if partition == "test":
            truth["ceiling"] = _ceiling(triplets, faces, photographs, absent)
        absent_urls += sorted(absent)
        partitions[partition] = {
            "faces": {
                "url": [photographs[face.photograph].url for face in faces],
                "box": [boxes[face.photograph][face.place] for face in faces],
                "identity": [face.identity for face in faces],
                "true_class": [face.true_class for face in faces],
            },
            "odd_one": [triplet.odd_one for triplet in triplets],
        }
    write_truth(out, {**truth, "absent_urls": absent_urls, "partitions": partitions})


# --- photographs --------------------------------------------------------------------------------------------


def _plan_photographs(
    partition: str, config: SyntheticFecConfig, seed: int, rng: np.random.Generator
) -> tuple[list[_Photograph], list[_Face], np.ndarray]:
    """Photographs, their faces, and the faces' points (N, 12) in the space of true similarity."""
    train = partition == "train"
    count = config.train_photographs if train else config.test_photographs
    identities = [sample_identity(rng) for _ in range(config.train_identities if train else config.test_identities)]
    first_identity = 0 if train else config.train_identities
    photographs: list[_Photograph] = []
    faces: list[_Face] = []
    vectors: list[np.ndarray] = []
    for number in range(count):
        group_size = 1 + int(rng.choice(len(_FACES_PER_PHOTOGRAPH), p=_FACES_PER_PHOTOGRAPH))
        placements, height, width = _group(group_size, config, rng)
        light = sample_light(rng)
        people = []
        group = rng.choice(len(identities), group_size, replace=False).tolist()
        for place, (person, placement) in enumerate(zip(group, placements, strict=True)):
            true_class = int(rng.integers(len(EXPRESSIONS)))
            expression = expression_of_class(EXPRESSIONS[true_class], rng.uniform(0.3, 1.0), rng)
            people.append((FaceParameters(identities[person], expression, sample_pose(rng), light), placement))
            faces.append(_Face(number, place, first_identity + person, true_class))
            vectors.append(expression.vector())
        name = hashlib.sha256(f"{seed}/{partition}/{number}".encode()).hexdigest()
        url = f"https://farm{1 + number % 9}.photos.example.org/{1000 + number}/{name[:11]}_{name[-10:]}_b.jpg"
        photograph_seed = (seed, _PARTITIONS.index(partition), number)
        photographs.append(_Photograph(url, photograph_seed, height, width, tuple(people)))
    return photographs, faces, similarity_points(np.stack(vectors))


def _group(group_size: int, config: SyntheticFecConfig, rng: np.random.Generator) -> tuple[list[Placement], int, int]:
    """People side by side, and the height and width of a picture that holds them."""
    sizes = rng.uniform(*config.face_size) * rng.uniform(0.92, 1.0, group_size)
    largest = float(sizes.max())
    slot = rng.uniform(2.7, 3.1) * largest
    height = round(rng.uniform(3.7, 4.2) * largest)
    width = round(slot * group_size + 0.8 * largest)
    x = 0.4 * largest + slot * (np.arange(group_size) + 0.5 + rng.uniform(-0.05, 0.05, group_size))
    y = 1.7 * largest + rng.uniform(-0.15, 0.15, group_size) * largest
    return [Placement(*place) for place in np.stack([x, y, sizes], axis=1).tolist()], height, width


def _write_photographs(
    out: Path, photographs: list[_Photograph], absent: set[str], config: SyntheticFecConfig
) -> list[list[list[float]]]:
    """Draws all, writes those that can be had; returns each face's left, right, top, bottom as fractions."""
    jobs = [(out, photograph, photograph.url in absent) for photograph in photographs]
    return list(shared_out(_write_photograph, jobs, len(jobs), config.processes, "synthesize fec"))


def _write_photograph(job: tuple[Path, _Photograph, bool]) -> list[list[float]]:
    out, photograph, is_absent = job
    rng = np.random.default_rng(photograph.seed)
    image, drawn = draw_photograph(photograph.people, photograph.height, photograph.width, rng)
    if not is_absent:
        path = photograph_path(out, photograph.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(image, _JPEG_QUALITY))
    boxes = []
    for face in drawn:
        x, y, width, height = face.box
        across = np.clip([x, x + width], 0, photograph.width) / photograph.width
        down = np.clip([y, y + height], 0, photograph.height) / photograph.height
        boxes.append([round(value, 6) for value in (*across.tolist(), *down.tolist())])
    return boxes


# --- triplets -----------------------------------------------------------------------------------------------


def _plan_triplets(
    faces: list[_Face], points: np.ndarray, count: int, config: SyntheticFecConfig, rng: np.random.Generator
) -> Iterator[_Triplet]:
    """Triplets whose odd one is clear, judged by annotators of different care."""
    of_class = [
        np.array([number for number, face in enumerate(faces) if face.true_class == code])
        for code in range(len(EXPRESSIONS))
    ]
    care = rng.uniform(0.6, 1.4, _ANNOTATORS)
    sizes, shares = zip(*_ANSWERS_PER_TRIPLET, strict=True)
    for number in range(count):
        kind = TRIPLET_KINDS[number % len(TRIPLET_KINDS)]
        chosen, distances = _clear_triplet(kind, of_class, faces, points, config, rng)
        annotators = rng.choice(_ANNOTATORS, int(rng.choice(sizes, p=shares)), replace=False)
        spread = config.answer_noise * care[annotators][:, None]
        seen = np.log(distances) + spread * rng.normal(size=(len(annotators), 3))
        yield _Triplet(
            faces=chosen,
            kind=kind,
            odd_one=1 + int(np.argmin(distances)),
            answers=tuple(zip(annotators.tolist(), (1 + np.argmin(seen, axis=1)).tolist(), strict=True)),
        )


def _clear_triplet(
    kind: str,
    of_class: list[np.ndarray],
    faces: list[_Face],
    points: np.ndarray,
    config: SyntheticFecConfig,
    rng: np.random.Generator,
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Three faces from three photographs, and for each the distance (3,) between the other two.

    In a triplet of one class the difference is one of degree; it must be large enough to be seen.
    """
    for _ in range(_MOST_TRIES):
        classes = rng.choice(len(EXPRESSIONS), 3, replace=False)
        if kind == "ONE_CLASS_TRIPLET":
            classes[:] = classes[0]
        elif kind == "TWO_CLASS_TRIPLET":
            classes[1] = classes[0]
        if any(len(of_class[code]) == 0 for code in classes):
            continue
        first, second, third = rng.permutation([rng.choice(of_class[code]) for code in classes]).tolist()
        if len({faces[number].photograph for number in (first, second, third)}) < 3:
            continue
        triple = points[[first, second, third]]
        distances = np.array([np.linalg.norm(triple[a] - triple[b]) for a, b in _PAIR_OF_ODD])
        closest, second_closest, _ = np.sort(distances)
        if second_closest >= max(config.clarity * closest, _LEAST_DISTANCE):
            return (first, second, third), distances
    raise DataError(f"no clear {kind} among {len(faces)} faces; ask for more photographs or less clarity")


def _write_list(
    out: Path,
    partition: str,
    photographs: list[_Photograph],
    faces: list[_Face],
    triplets: list[_Triplet],
    boxes: list[list[list[float]]],
) -> None:
    """Writes the ragged list without a header; every third row has its URLs in double quotes."""
    lines = []
    for number, triplet in enumerate(triplets):
        cells: list[str] = []
        for face in (faces[index] for index in triplet.faces):
            url = photographs[face.photograph].url
            cells.append(f'"{url}"' if number % 3 == 0 else url)
            cells += [f"{value:.6f}" for value in boxes[face.photograph][face.place]]
        cells.append(triplet.kind)
        cells += [str(value) for pair in triplet.answers for value in pair]
        lines.append(",".join(cells))
    path = out / f"faceexp-comparison-data-{partition}-public.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _ceiling(
    triplets: list[_Triplet], faces: list[_Face], photographs: list[_Photograph], absent: set[str]
) -> dict[str, Any]:
    """How often the true odd one is the annotators' choice, where they agree and no photograph is absent."""
    agreed: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for triplet in triplets:
        choice, votes = Counter(answer for _, answer in triplet.answers).most_common(1)[0]
        if CONSENSUS[1] * votes < CONSENSUS[0] * len(triplet.answers):
            continue
        if any(photographs[faces[number].photograph].url in absent for number in triplet.faces):
            continue
        agreed[triplet.kind] += 1
        right[triplet.kind] += choice == triplet.odd_one
    return {
        "triplet_accuracy": right.total() / agreed.total() if agreed else None,
        "triplet_accuracy_by_kind": {kind: right[kind] / agreed[kind] for kind in TRIPLET_KINDS if agreed[kind]},
        "triplets": agreed.total(),
    }
