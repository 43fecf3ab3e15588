"""The card of a prepared dataset: what it holds, how it was made, and what was left out.

`card_of` gathers everything from the records and the files beside them, as plain tables, counts and pictures.
`inspect` shows them in the terminal and on a page.
"""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from avemo.labels import DIMENSIONS, EXPRESSIONS, TRIPLET_KINDS
from data_pipelines.builders.account import NEAR_DUPLICATES_FILE, SKIPPED_FILE
from data_pipelines.faces import decode_image, encode_jpeg
from data_pipelines.records import fingerprint_of, read_metadata
from launch.survey import (
    NO_LABEL,
    Faces,
    Recording,
    Triplets,
    open_splits,
    survey_faces,
    survey_recordings,
    survey_triplets,
)
from launch.tables import PERCENT, Table, show

PLANE_BINS = 40
CLOSEST_PAIRS = 10
CLASSES = {NO_LABEL: "no label", **dict(enumerate(EXPRESSIONS))}
KINDS = {kind: name.replace("_TRIPLET", "").replace("_", "-").lower() for kind, name in enumerate(TRIPLET_KINDS)}

_QUANTILES = {
    "smallest": 0.0,
    **{show(share, "{:.0%}"): share for share in (0.05, 0.25, 0.5, 0.75, 0.95)},
    "largest": 1.0,
}
_BITS_PER_BIN = 8
_TILE_SIDE_LIMIT = 96
_TILE_GAP = 3
_SHEET_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many of something fall into each class, by split.

    Attributes:
        title: what is counted.
        labels: of the K classes.
        counts: int, K, for each split.
    """

    title: str
    labels: tuple[str, ...]
    counts: dict[str, np.ndarray]

    def table(self) -> Table:
        """The counts and their sum."""
        counts = {label: [f"{split[i]:,}" for split in self.counts.values()] for i, label in enumerate(self.labels)}
        return Table.of(
            self.title, list(self.counts), counts | {"sum": [f"{split.sum():,}" for split in self.counts.values()]}
        )


@dataclass(frozen=True, eq=False)
class Sizes(Histogram):
    """How many faces are how large.

    Attributes:
        edges_px: K+1: where the bins begin and end.
        crop_px: size of a face that was neither enlarged nor shrunk, where the preparation tells it.
    """

    edges_px: np.ndarray
    crop_px: float | None


@dataclass(frozen=True, eq=False)
class Sheet:
    """Small pictures in rows, as one JPEG; all rows are equally high."""

    title: str
    rows: tuple[str, ...]
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a card.

    Attributes:
        title: what it tells of.
        note: a remark below.
        tables: shown as they are.
        histograms: shown as bars and as tables.
        sizes: shown as steps and as a table.
        planes: number of faces over valence and arousal by split, int, N×N: equal bins over [-1, 1], valence first.
        recordings: whose gold standards are shown.
        sheets: contact sheets.
    """

    title: str
    note: str = ""
    tables: tuple[Table, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    sizes: Sizes | None = None
    planes: Mapping[str, np.ndarray] | None = None
    recordings: tuple[Recording, ...] = ()
    sheets: tuple[Sheet, ...] = ()


@dataclass(frozen=True, eq=False)
class Card:
    """What is told of a dataset.

    Attributes:
        name: such as "fec/faces".
        version: of the prepared form.
        headlines: the few figures to remember: value, what it is, details.
        facts: where it lies and comes from, and its fingerprint.
        preparation: every setting that it was prepared with.
        sections: the rest.
        intact: whether the records have the fingerprint of the metadata; None if that wasn't looked at.
    """

    name: str
    version: str
    headlines: tuple[tuple[str, str, tuple[str, ...]], ...]
    facts: dict[str, str]
    preparation: dict[str, str]
    sections: tuple[Section, ...]
    intact: bool | None


def card_of(folder: Path, samples: int, verify: bool) -> Card:
    """Reads a prepared dataset and gathers its card.

    Args:
        folder: the dataset's own folder, with metadata.json.
        samples: how many faces of each class, triplets of each kind or frames of each recording are shown.
        verify: also read all records for their fingerprint.

    Raises:
        DataError: the folder holds no prepared dataset.
    """
    metadata = read_metadata(folder)
    info = tfds.builder_from_directory(folder).info
    files = [path for path in folder.iterdir() if path.is_file()]
    shards = sum(len(split.filepaths) for split in info.splits.values())
    written = [split for split, entry in metadata["splits"].items() if entry["records"]]
    intact = fingerprint_of(folder, written) == metadata["fingerprint"] if verify else None
    unit, sections = _sections(folder, metadata, set(info.features), samples)
    dropped = sum(sum(entry["skipped"].values()) for entry in metadata["splits"].values())
    records = sum(entry["records"] for entry in metadata["splits"].values())
    preparation = metadata["preparation"]
    headlines = [
        (
            f"{records:,}",
            unit,
            tuple(f"{split} {metadata['splits'][split]['records']:,}" for split in written),
        ),
        (f"{dropped:,}", "left out", (f"{show(dropped / (dropped + records), PERCENT)} of all",) if dropped else ()),
        (in_bytes(sum(path.stat().st_size for path in files)), "on disk", (plural(shards, "shard"),)),
    ]
    if size := preparation.get("size"):
        headlines.append((f"{size}\N{MULTIPLICATION SIGN}{size}", "pixels of a face", ()))
    told = {None: "", True: " (verified: the records have it)", False: " (the records don't have it)"}[intact]
    facts = {
        "folder": str(folder),
        "source": str(metadata["source"]),
        "fingerprint": f"{metadata['fingerprint']}{told}",
    }
    if (shared := metadata.get("shared_photographs")) is not None:
        facts["train and test"] = f"share {plural(shared, 'photograph')}" if shared else "share no photograph"
    return Card(
        name=info.name if info.config_name in (None, "") else f"{info.name}/{info.config_name}",
        version=str(info.version),
        headlines=tuple(headlines),
        facts=facts,
        preparation={name.replace("_", " "): in_words(value) for name, value in preparation.items()},
        sections=(*sections, *_left_out(folder, metadata)),
        intact=intact,
    )


def _sections(folder: Path, metadata: Mapping[str, Any], features: set[str], samples: int) -> tuple[str, list[Section]]:
    """What a record is called, and what its kind of dataset has to tell."""
    if "frames" in features:
        return "recordings", _of_recordings(metadata, survey_recordings(folder, samples))
    if "faces" in features:
        return "triplets", _of_triplets(folder, metadata, survey_triplets(folder, samples))
    pairs = near_duplicates(folder)
    wanted = _keys(pairs[:CLOSEST_PAIRS] if samples else [], list(metadata["splits"]))
    surveys = survey_faces(folder, samples, wanted)
    return "faces", [*_of_faces(metadata, surveys), *_of_near_duplicates(pairs, surveys)]


# ---------------------------------------------- faces ----------------------------------------------


def _of_faces(metadata: Mapping[str, Any], surveys: Mapping[str, Faces]) -> list[Section]:
    sections = [_splits(metadata, _soft_labels(surveys))]
    labelled = {split: survey for split, survey in surveys.items() if set(survey.classes) - {NO_LABEL}}
    if labelled:
        sections.append(Section("Expressions", histograms=(_classes(labelled),)))
    planes = {split: plane(survey.valence, survey.arousal) for split, survey in surveys.items() if survey.valence}
    if planes:
        sections.append(Section("Valence and arousal", planes=planes))
    sizes_px = {split: np.asarray(survey.sizes_px) for split, survey in surveys.items() if survey.sizes_px}
    sections += _face_sizes(sizes_px, metadata["preparation"])
    if any(survey.sampled for survey in surveys.values()):
        sections.append(_sample_faces(surveys))
    return sections


def _soft_labels(surveys: Mapping[str, Faces]) -> dict[str, dict[str, str]]:
    """In how many faces the most probable expression is the expression."""
    agreeing = {
        split: show(survey.soft_labels_agreeing / survey.soft_labels, PERCENT)
        for split, survey in surveys.items()
        if survey.soft_labels
    }
    return {"soft label agrees with label": agreeing} if agreeing else {}


def _classes(surveys: Mapping[str, Faces]) -> Histogram:
    seen = {label for survey in surveys.values() for label in survey.classes}
    labels = [label for label in (*range(len(EXPRESSIONS)), NO_LABEL) if label != NO_LABEL or label in seen]
    counts = {split: np.array([survey.classes[label] for label in labels]) for split, survey in surveys.items()}
    return Histogram("Faces by expression", tuple(CLASSES[label] for label in labels), counts)


def plane(valence: Sequence[float], arousal: Sequence[float]) -> np.ndarray:
    """Numbers of faces, int, N×N: equal bins over [-1, 1], valence first."""
    counts = np.histogram2d(valence, arousal, bins=PLANE_BINS, range=((-1, 1), (-1, 1)))[0]
    return counts.astype(np.int64)


def _face_sizes(sizes_px: Mapping[str, np.ndarray], preparation: Mapping[str, Any]) -> list[Section]:
    """How large the faces were, before they were cut, in bins of half an octave."""
    sizes_px = {split: sizes[sizes > 0] for split, sizes in sizes_px.items()}
    sizes_px = {split: sizes for split, sizes in sizes_px.items() if len(sizes)}
    if not sizes_px:
        return []
    size = preparation.get("size")
    crop_px = size / (1 + 2 * preparation.get("margin", 0)) if size else None
    log_sizes = {split: np.log2(sizes) for split, sizes in sizes_px.items()}
    first = min(float(sizes.min()) for sizes in log_sizes.values())
    last = max(float(sizes.max()) for sizes in log_sizes.values())
    log_edges = np.arange(np.floor(2 * first), np.floor(2 * last) + 2) / 2
    counts = {split: np.histogram(sizes, log_edges)[0] for split, sizes in log_sizes.items()}
    edges = 2**log_edges
    labels = tuple(f"{low:.0f}\N{EN DASH}{high:.0f}" for low, high in itertools.pairwise(edges))
    rows = {
        split: [f"{np.quantile(sizes, share):,.0f}" for share in _QUANTILES.values()]
        + [show(float((sizes < crop_px).mean()), PERCENT) if crop_px else ""]
        for split, sizes in sizes_px.items()
    }
    note = "The longer side of a face's box in the source picture, in pixels, without margin."
    return [
        Section(
            "Face sizes",
            f"{note} Smaller ones than the crop were enlarged." if crop_px else note,
            tables=(Table.of("Face sizes", [*_QUANTILES, "enlarged"], rows),),
            sizes=Sizes("Faces by size in pixels", labels, counts, edges, crop_px),
        )
    ]


def _sample_faces(surveys: Mapping[str, Faces]) -> Section:
    sheets = []
    for split, survey in surveys.items():
        rows = {CLASSES[label]: survey.samples[label].items for label in CLASSES if label in survey.samples}
        if not survey.classes:
            rows = {"faces": survey.samples[NO_LABEL].items}
        sheets.append(sheet(split, rows))
    return Section("Samples", "Chosen at random within each class, always the same ones.", sheets=tuple(sheets))


# ----------------------------------------- near-duplicates -----------------------------------------


def near_duplicates(folder: Path) -> list[tuple[str, str, str, int]]:
    """The rows of near_duplicates.csv: split, key, key of the face it resembles, distance; the closest first."""
    path = folder / NEAR_DUPLICATES_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [(split, key, other, int(distance)) for split, key, other, distance in csv.reader(handle)]
    return sorted(rows, key=lambda row: row[3])


def _keys(pairs: Iterable[tuple[str, str, str, int]], splits: Sequence[str]) -> dict[str, frozenset[str]]:
    """Which keys' pictures are wanted, by split: a face, and in the other splits the one it resembles."""
    wanted: dict[str, set[str]] = {split: set() for split in splits}
    for split, key, other, _ in pairs:
        wanted[split].add(key)
        for another in splits:
            if another != split:
                wanted[another].add(other)
    return {split: frozenset(keys) for split, keys in wanted.items()}


def _of_near_duplicates(pairs: Sequence[tuple[str, str, str, int]], surveys: Mapping[str, Faces]) -> list[Section]:
    if not pairs:
        return []
    bins = Counter(-(-distance // _BITS_PER_BIN) for *_, distance in pairs)
    columns = [_bits(number) for number in sorted(bins)]
    closest = pairs[:CLOSEST_PAIRS]
    listed = Table(
        "The closest",
        ("bits", "split", "face", "resembles"),
        tuple((str(distance), split, key, other) for split, key, other, distance in closest),
        words=("split", "face", "resembles"),
    )
    shown = [
        (surveys[split].found[key], picture)
        for split, key, other, _ in closest
        if split in surveys and key in surveys[split].found
        for another, survey in surveys.items()
        if another != split and (picture := survey.found.get(other))
    ]
    sheets = []
    if shown:
        first, second = zip(*shown, strict=True)
        sheets.append(sheet("The closest pairs, one above the other", {"face": first, "resembles": second}))
    return [
        Section(
            "Near-duplicates across splits",
            f"{plural(len(pairs), 'face')} much like one of another split. The full list is in {NEAR_DUPLICATES_FILE}.",
            tables=(
                Table.of(
                    "By distance of the perceptual hashes in bits",
                    columns,
                    {"faces": [f"{bins[number]:,}" for number in sorted(bins)]},
                ),
                listed,
            ),
            sheets=tuple(sheets),
        )
    ]


def _bits(number: int) -> str:
    """The distances in a bin; the first one holds only equal hashes."""
    last = number * _BITS_PER_BIN
    return f"{last - _BITS_PER_BIN + 1}\N{EN DASH}{last}" if number else "0"


# --------------------------------------------- triplets ---------------------------------------------


def _of_triplets(folder: Path, metadata: Mapping[str, Any], surveys: Mapping[str, Triplets]) -> list[Section]:
    counts = {split: np.array([survey.kinds[kind] for kind in KINDS]) for split, survey in surveys.items()}
    sections = [
        _splits(metadata, {}),
        Section("Kinds of triplets", histograms=(Histogram("Triplets by kind", tuple(KINDS.values()), counts),)),
        _lost_triplets(metadata, counts),
    ]
    if any(survey.sampled for survey in surveys.values()):
        sections.append(_sample_triplets(folder, metadata, surveys))
    return sections


def _lost_triplets(metadata: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> Section:
    """What became of the triplets of each kind; reasons end in the kind, in brackets."""
    tables = []
    for split, counts in kept.items():
        skipped = metadata["splits"][split]["skipped"]
        reasons = sorted({reason.rpartition(" (")[0] for reason in skipped if _kind_in(reason) is not None})
        rows = {}
        for kind, label in KINDS.items():
            lost = [skipped.get(f"{reason} ({TRIPLET_KINDS[kind]})", 0) for reason in reasons]
            share = sum(lost) / max(sum(lost) + counts[kind], 1)
            rows[label] = [f"{counts[kind]:,}", *(f"{number:,}" for number in lost), show(share, PERCENT)]
        tables.append(Table.of(f"Triplets left out, {split}", ["kept", *reasons, "left out"], rows))
    return Section("Triplets left out, by kind", tables=tuple(tables))


def _kind_in(reason: str) -> str | None:
    return next((kind for kind in TRIPLET_KINDS if reason.endswith(f" ({kind})")), None)


def _sample_triplets(folder: Path, metadata: Mapping[str, Any], surveys: Mapping[str, Triplets]) -> Section:
    faces = folder.parents[1] / "faces" / folder.name
    wanted = metadata["preparation"].get("faces_fingerprint")
    if not (faces / "metadata.json").is_file() or read_metadata(faces)["fingerprint"] != wanted:
        return Section("Samples", f"{faces} doesn't hold the faces that these triplets were made for.")
    records = open_splits(faces)
    sheets = []
    for kind, label in KINDS.items():
        for split, survey in surveys.items():
            if kind in survey.samples:
                triplets = [[records[split][face]["image"][0] for face in item] for item in survey.samples[kind].items]
                rows = dict(zip(("alike", "and alike", "odd one out"), zip(*triplets, strict=True), strict=True))
                sheets.append(sheet(f"{label}, {split}", rows))
    return Section("Samples", "A triplet is a column. Chosen at random within each kind.", sheets=tuple(sheets))


# -------------------------------------------- recordings --------------------------------------------


def _of_recordings(metadata: Mapping[str, Any], recordings: Sequence[Recording]) -> list[Section]:
    columns = ["split", "duration", "frames", "with a face", "voice", *(f"raters' CCC,\n{name}" for name in DIMENSIONS)]
    rows = {
        recording.name: [
            recording.split,
            f"{recording.seconds:,.0f} s",
            f"{recording.frames:,}",
            show(recording.frames_with_face / recording.frames, PERCENT),
            "yes" if recording.voice_valid else "no",
            *(show(value, "{:.2f}") for value in recording.agreement or (None, None)),
        ]
        for recording in recordings
    }
    agreements = np.array([recording.agreement for recording in recordings if recording.agreement])
    if len(agreements) > 1:
        rows["mean"] = ["", "", "", "", "", *(show(float(value), "{:.2f}") for value in agreements.mean(axis=0))]
    raters = metadata.get("raters") or []
    note = f"Raters: {', '.join(raters)}. " * bool(raters) + (
        "The raters' CCC is the mean over all pairs of raters." if len(agreements) else ""
    )
    sizes_px = {
        split: np.concatenate([recording.sizes_px for recording in recordings if recording.split == split])
        for split in dict.fromkeys(recording.split for recording in recordings)
    }
    sections = [
        _splits(metadata, {}),
        Section("Recordings", note.strip(), tables=(Table.of("Recordings", columns, rows, words=("split",)),)),
        Section(
            "Gold standard",
            "Means over each second, all recordings on one scale.",
            recordings=tuple(recordings),
        ),
        *_face_sizes(sizes_px, metadata["preparation"]),
    ]
    if any(recording.samples for recording in recordings):
        rows_of_frames = {recording.name: recording.samples for recording in recordings}
        note = "Frames at equal distances over each recording; black where no face was found."
        sections.append(Section("Samples", note, sheets=(sheet("", rows_of_frames),)))
    return sections


# ------------------------------------------ all kinds alike ------------------------------------------


def _splits(metadata: Mapping[str, Any], more: Mapping[str, Mapping[str, str]]) -> Section:
    """What the metadata counts in each split, but for classes; `more` has further rows, their cells by split."""
    splits = metadata["splits"]
    counted = dict.fromkeys(
        name for entry in splits.values() for name, value in entry.items() if isinstance(value, int)
    )
    first = {
        "records": [f"{entry['records']:,}" for entry in splits.values()],
        "left out": [f"{sum(entry['skipped'].values()):,}" for entry in splits.values()],
    }
    counts = {
        name.replace("_", " "): [f"{entry[name]:,}" if name in entry else "" for entry in splits.values()]
        for name in counted
        if name not in ("items", *first, *EXPRESSIONS, *TRIPLET_KINDS)
    }
    rest = {label: [cells.get(split, "") for split in splits] for label, cells in more.items()}
    return Section("Splits", tables=(Table.of("Splits", list(splits), first | counts | rest),))


def _left_out(folder: Path, metadata: Mapping[str, Any]) -> list[Section]:
    """How many were left out for each reason, with an example."""
    reasons = sorted({reason for entry in metadata["splits"].values() for reason in entry["skipped"]})
    if not reasons:
        return [Section("What was left out", "Nothing.")]
    examples = _first_of_each_reason(folder / SKIPPED_FILE)
    rows = {
        reason: [
            *(f"{entry['skipped'].get(reason, 0):,}" for entry in metadata["splits"].values()),
            examples.get(reason, ""),
        ]
        for reason in reasons
    }
    table = Table.of("What was left out", [*metadata["splits"], "for example"], rows, words=("for example",))
    return [Section("What was left out", f"The full list is in {SKIPPED_FILE}.", tables=(table,))]


def _first_of_each_reason(path: Path) -> dict[str, str]:
    first: dict[str, str] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as handle:
            for _, key, reason in csv.reader(handle):
                first.setdefault(reason, key)
    return first


def sheet(title: str, rows: Mapping[str, Sequence[bytes]]) -> Sheet:
    """A contact sheet: encoded square pictures in rows, scaled to one size, none larger than they are."""
    pictures = {label: [decode_image(data) for data in row] for label, row in rows.items()}
    sides = [len(picture) for row in pictures.values() for picture in row if picture is not None]
    side = min(_TILE_SIDE_LIMIT, *sides, _TILE_SIDE_LIMIT)
    step = side + _TILE_GAP
    page = np.full((len(rows) * step, max(map(len, rows.values())) * step, 3), 255, np.uint8)
    for i, row in enumerate(pictures.values()):
        for j, picture in enumerate(row):
            if picture is not None:
                tile = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
                page[i * step : i * step + side, j * step : j * step + side] = tile
    return Sheet(title, tuple(rows), encode_jpeg(page, _SHEET_QUALITY))


def in_words(value: Any) -> str:
    """A setting as text."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    if isinstance(value, dict):
        return "; ".join(f"{name}: {in_words(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def in_bytes(count: int) -> str:
    """A number of bytes in a unit that suits it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def plural(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
