"""`avemo inspect`: the cards of prepared datasets, in the terminal and as one self-contained HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich
import rich.box
import tyro
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from avemo.labels import DIMENSIONS
from launch.card import Card, Histogram, Section, Sizes, card_of
from launch.errors import LaunchError
from launch.figures import LINES, Line, draw_bars, draw_lines, draw_plane, draw_sizes
from launch.page import data_uri, render
from launch.survey import Recording
from launch.tables import PERCENT, print_tables, show

_DEPTH = 3
"""Of a dataset below the folder that avemo prepare writes to, at most: corpus, part, version."""

_SPLITS_IN_A_ROW = 2
_BAR_WIDTH = 12
_EIGHTHS = "▏▎▍▌▋▊▉█"
_SHADES = " ·░▒▓█"
_BINS_PER_SHADE = 4


@dataclass(frozen=True)
class Inspect:
    """Show what prepared datasets hold, how they were made, and what was left out.

    Attributes:
        folder: a prepared dataset, a corpus of several, or the folder that avemo prepare writes to.
        html: a page to write as well, with figures and pictures.
        samples: how many faces of each class, triplets of each kind, or frames of each recording the page shows; with 0
            it holds no pictures of people.
        verify: read all records again and compare them with the fingerprint.
    """

    folder: tyro.conf.Positional[Path]
    html: Path | None = None
    samples: int = 8
    verify: bool = False

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"samples must be at least 0, not {self.samples}")

    def __call__(self) -> None:
        """Print the cards and write the page.

        Raises:
            LaunchError: there is no prepared dataset, no folder for the page, or records that were changed.
        """
        if self.html is not None and not self.html.parent.is_dir():
            raise LaunchError(f"{self.html}: there is no folder {self.html.parent}")
        cards = []
        for folder in datasets_in(self.folder):
            cards.append(card_of(folder, self.samples if self.html else 0, self.verify))
            print_card(cards[-1])
        if self.html is not None:
            self.html.write_text(page_of(cards), encoding="utf-8")
            print(f"page: {self.html}")
        if changed := [card.facts["folder"] for card in cards if card.intact is False]:
            raise LaunchError(
                f"{', '.join(changed)}: the records don't have the fingerprint of metadata.json, so they were changed "
                "after they were prepared; remove the folder and prepare again"
            )


def datasets_in(folder: Path) -> list[Path]:
    """The folders of the prepared datasets in a folder, which may be one itself.

    Raises:
        LaunchError: there is none.
    """
    paths = sorted(path.parent for depth in range(_DEPTH + 1) for path in folder.glob("*/" * depth + "metadata.json"))
    found = [path for path in paths if (path / "dataset_info.json").is_file() and ".incomplete" not in path.name]
    if not found:
        raise LaunchError(
            f"{folder}: no prepared dataset here; expected a folder that avemo prepare wrote, with dataset_info.json "
            "and metadata.json, or one that holds such folders"
        )
    return found


# --------------------------------------------- terminal ---------------------------------------------


def print_card(card: Card) -> None:
    """Print a card in the terminal: no pictures, bars and shades in place of figures."""
    rich.print(Text(f"\n{card.name} {card.version}", "bold"))
    for value, label, details in card.headlines:
        rich.print(Text(f"{value} {label}" + f" ({', '.join(details)})" * bool(details)))
    rich.print()
    for title, facts in (("", card.facts), ("Preparation", card.preparation)):
        _print_facts(title, facts)
    for section in card.sections:
        _print_section(section)


def _print_facts(title: str, facts: dict[str, str]) -> None:
    table = Table(title=title or None, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    rich.print(table)
    rich.print()


def _print_section(section: Section) -> None:
    print_tables(section.tables)
    for histogram in (*section.histograms, *([section.sizes] if section.sizes else [])):
        for counts in _beside_each_other(histogram.counts):
            rich.print(_bars(histogram.title, histogram.labels, counts))
    for planes in _beside_each_other(section.planes or {}):
        rich.print(_shaded(planes))
    if section.note and section.tables:
        rich.print(Text(section.note))
    elif section.note and not section.sheets and not section.recordings:
        rich.print(Text(f"{section.title}: {section.note}"))


def _beside_each_other(by_split: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """As many splits at a time as a terminal has room for."""
    splits = list(by_split)
    for start in range(0, len(splits), _SPLITS_IN_A_ROW):
        yield {split: by_split[split] for split in splits[start : start + _SPLITS_IN_A_ROW]}


def _bars(title: str, labels: Sequence[str], by_split: Mapping[str, np.ndarray]) -> Table:
    """A histogram with a bar beside each count, the longest of each split alike."""
    table = Table(title=Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    for split in by_split:
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(Text(split), width=_BAR_WIDTH, no_wrap=True)
    for i, label in enumerate(labels):
        cells = [Text(label)]
        for counts in by_split.values():
            share = show(counts[i] / max(counts.sum(), 1), PERCENT)
            cells += [Text(f"{counts[i]:,}"), Text(share), Text(_bar(counts[i] / max(counts.max(), 1)))]
        table.add_row(*cells)
    return table


def _bar(share: float) -> str:
    eighths = round(8 * _BAR_WIDTH * share)
    return _EIGHTHS[-1] * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _shaded(planes: Mapping[str, np.ndarray]) -> Table:
    """Planes side by side, a shade for each power of ten; valence to the right, arousal upwards."""
    table = Table(
        title="Faces over valence (right) and arousal (up), each from -1 to 1",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for split in planes:
        table.add_column(Text(split))
    cells = [Text("\n".join(_shades(counts))) for counts in planes.values()]
    table.add_row(*cells)
    legend = ", ".join(f"{shade} {10**i:,} or more" for i, shade in enumerate(_SHADES[1:]))
    table.caption, table.caption_justify = Text(legend), "left"
    return table


def _shades(counts: np.ndarray) -> list[str]:
    side = len(counts) // _BINS_PER_SHADE
    coarse = counts.reshape(side, _BINS_PER_SHADE, side, _BINS_PER_SHADE).sum(axis=(1, 3))
    rows = []
    for arousal in reversed(range(side)):
        digits = (len(str(count)) if count else 0 for count in coarse[:, arousal])
        rows.append("".join(2 * _SHADES[min(number, len(_SHADES) - 1)] for number in digits))
    return rows


# ----------------------------------------------- page -----------------------------------------------


def page_of(cards: Sequence[Card]) -> str:
    """Cards as one HTML page."""
    return render(
        "card.html",
        cards=cards,
        pictures=any(section.sheets for card in cards for section in card.sections),
        lines=LINES,
        bars=_drawn_bars,
        sizes=_drawn_sizes,
        plane=_drawn_plane,
        trace=_drawn_trace,
        jpeg=lambda data: data_uri(data, "jpeg"),
    )


def _drawn_bars(card: Card, histogram: Histogram, split: str) -> Markup:
    counts = dict(zip(histogram.labels, map(int, histogram.counts[split]), strict=True))
    return draw_bars(counts, f"{card.name}: {histogram.title}, {split}")


def _drawn_sizes(card: Card, sizes: Sizes) -> Markup:
    return draw_sizes(sizes.edges_px, sizes.counts, sizes.crop_px, f"{card.name}: {sizes.title}")


def _drawn_plane(card: Card, counts: np.ndarray, split: str) -> Markup:
    return draw_plane(counts, f"{card.name}: faces over valence and arousal, {split}")


def _drawn_trace(card: Card, recording: Recording, recordings: Sequence[Recording]) -> Markup:
    """The gold standard of one recording, on the scale of all."""
    values = np.concatenate([each.gold_standard.ravel() for each in recordings])
    limit = max(1.05 * float(np.abs(values[np.isfinite(values)]).max(initial=0)), 0.1)
    seconds = np.arange(len(recording.gold_standard)) + 0.5
    lines = [
        Line(name, seconds, recording.gold_standard[:, i], style)
        for i, (name, style) in enumerate(zip(DIMENSIONS, LINES, strict=False))
    ]
    return draw_lines([("", lines)], f"{card.name}: gold standard of {recording.name}", "time (s)", (2.8, 1.6), limit)
