"""Charts for the pages: SVG elements that take font and colours from the page they stand on."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from launch.tables import PERCENT, show


@dataclass(frozen=True)
class Style:
    """How a line looks: colour as drawn, what the page puts in its place, dashes, width in points, layer."""

    colour: str
    css: str
    dashes: tuple[float, ...] = ()
    width: float = 1.3
    layer: int = 3


TEXT = Style("#010203", "currentColor")
RULE = Style("#040506", "var(--rule)", width=0.7)
GOLD_STANDARD = Style("#070809", "var(--gold-standard)", width=2.8, layer=2)
LINES = (
    Style("#0072b2", "var(--blue)", width=1.5, layer=4),
    Style("#d55e00", "var(--vermilion)", (4.0, 2.0)),
    Style("#009e73", "var(--green)", (1.2, 1.4)),
    Style("#cc79a7", "var(--purple)", (6.0, 1.5, 1.2, 1.5)),
)
"""Hues of Okabe & Ito that all readers tell apart; the dashes tell them apart in grey as well."""


@dataclass(frozen=True)
class Line:
    """One line of a chart, with a band of some half width around it, where there is one."""

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    style: Style
    band: np.ndarray | None = None


def draw_lines(
    panels: Sequence[tuple[str, Sequence[Line]]],
    description: str,
    x_label: str,
    inches: tuple[float, float],
    limit: float | None = None,
) -> Markup:
    """Charts above each other over one x axis.

    Args:
        panels: label of the y axis, and lines, of each chart.
        description: for readers who don't see it; no two drawings of a page have the same.
        x_label: what x is, with its unit.
        inches: width and height.
        limit: y goes from -limit to limit; None fits the lines.
    """
    with _page_settings(description):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for ax, (label, lines) in zip(axes, panels, strict=True):
            for line in lines:
                s = line.style
                dashes = (0, s.dashes) if s.dashes else "solid"
                marker = "o" if len(line.x) <= 20 else None
                if line.band is not None:
                    low, high = np.asarray(line.y) - line.band, np.asarray(line.y) + line.band
                    ax.fill_between(line.x, low, high, color=s.colour, alpha=0.18, lw=0, zorder=s.layer - 1)
                ax.plot(line.x, line.y, color=s.colour, ls=dashes, lw=s.width, marker=marker, ms=3, zorder=s.layer)
            ax.set_ylabel(label)
            _bare(ax)
            ax.grid(color=RULE.colour, linewidth=RULE.width)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.margins(x=0.01)
            if limit:
                ax.set_ylim(-limit, limit)
        axes[-1].set_xlabel(x_label)
        figure.align_ylabels()
        return _svg(figure, description)


@dataclass(frozen=True)
class Mark:
    """One mark of a chart, with its name beside it."""

    label: str
    x: float
    y: float
    y_interval: tuple[float, float]
    style: Style


def draw_marks(marks: Sequence[Mark], description: str, x_label: str, y_label: str) -> Markup:
    """Shares (y) against times (x, logarithmic), each with its interval.

    Names stand to the right of their marks, one below the other where they would meet.
    """
    with _page_settings(description):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        ax = figure.subplots()
        for mark in marks:
            below, above = mark.y - mark.y_interval[0], mark.y_interval[1] - mark.y
            colour = mark.style.colour
            ax.errorbar(
                mark.x, mark.y, [[below], [above]], fmt="o", color=colour, ms=5, lw=1.2, zorder=mark.style.layer
            )
        ax.set_xscale("log")
        ax.set(xlabel=x_label, ylabel=y_label)
        _bare(ax)
        ax.grid(color=RULE.colour, linewidth=RULE.width)
        ax.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low, high = min(mark.x for mark in marks), max(mark.x for mark in marks)
        ax.set_xlim(low / 1.25, high * max(2.2, (high / low) ** 0.45))
        _name_marks(ax, marks)
        return _svg(figure, description)


def _name_marks(ax: Axes, marks: Sequence[Mark]) -> None:
    """Write names from top to bottom, each lower than the one before by a line at least where both are near in x."""
    bottom, top = ax.get_ylim()
    line = (top - bottom) / 18
    written: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda mark: -mark.y):
        y = mark.y
        for x, other in sorted(written, key=lambda place: -place[1]):
            if max(x, mark.x) < 1.6 * min(x, mark.x) and y > other - line:
                y = other - line
        written.append((mark.x, y))
        place: Any = {"textcoords": "offset points", "va": "center", "color": mark.style.colour}
        ax.annotate(mark.label, (mark.x, y), (7, 0), **place)


def draw_bars(counts: Mapping[str, int], description: str) -> Markup:
    """A horizontal bar for each count, from zero, with count and share written beside it."""
    with _page_settings(description):
        figure = Figure(figsize=(3.6, 0.45 + 0.21 * len(counts)), layout="constrained")
        ax = figure.subplots()
        total = max(sum(counts.values()), 1)
        bars = ax.barh(list(counts), list(counts.values()), color=LINES[0].colour, height=0.72)
        ax.bar_label(bars, [f"{count:,} ({show(count / total, PERCENT)})" for count in counts.values()], padding=3)
        ax.invert_yaxis()
        _bare(ax)
        ax.xaxis.set_major_locator(NullLocator())
        ax.set_xlim(0, 1.62 * max(*counts.values(), 1))
        return _svg(figure, description)


def draw_plane(counts: np.ndarray, description: str) -> Markup:
    """Numbers of faces over the plane of valence (x) and arousal (y), on a logarithmic scale, with the unit circle.

    Args:
        counts: int, N×N: bins of equal size over [-1, 1], valence first.
        description: for readers who don't see it; no two drawings of a page have the same.
    """
    with _page_settings(description):
        figure = Figure(figsize=(3.6, 3.0), layout="constrained")
        ax = figure.subplots()
        picture = ax.imshow(
            np.ma.masked_equal(counts.T, 0),
            norm=LogNorm(1, max(10, counts.max(initial=0))),
            cmap="viridis_r",
            extent=(-1, 1, -1, 1),
            origin="lower",
            interpolation="none",
            zorder=2,
        )
        ax.add_patch(Circle((0, 0), 1, fill=False, color=TEXT.colour, lw=0.8, zorder=3))
        _bare(ax)
        ax.grid(color=RULE.colour, linewidth=RULE.width)
        ax.set(xlabel="valence", ylabel="arousal", xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator([-1, -0.5, 0, 0.5, 1]))
        bar = figure.colorbar(picture, shrink=0.75, pad=0.03, label="faces in a bin")
        bar.ax.yaxis.set_major_locator(LogLocator(10))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        bar.outline.set_visible(False)  # type: ignore[operator]
        return _svg(figure, description)


def draw_sizes(edges: np.ndarray, counts: Mapping[str, np.ndarray], crop_px: float | None, description: str) -> Markup:
    """Histograms of face sizes over a logarithmic axis, each as shares of its own sum.

    Args:
        edges: pixels, N+1: where the bins begin and end.
        counts: for each line, int, N; styled by `LINES` in turn.
        crop_px: size of a face that was neither enlarged nor shrunk, to be marked; None marks nothing.
        description: for readers who don't see it; no two drawings of a page have the same.
    """
    with _page_settings(description):
        figure = Figure(figsize=(4.4, 2.1), layout="constrained")
        ax = figure.subplots()
        for series, style in zip(counts.values(), LINES, strict=False):
            dashes = (0, style.dashes) if style.dashes else "solid"
            shares = series / max(series.sum(), 1)
            ax.stairs(shares, edges, color=style.colour, lw=style.width, ls=dashes, zorder=style.layer)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="longer side of the face box (pixels)", ylabel="share of faces")
        ax.set_ylim(0)
        _bare(ax)
        ax.grid(color=RULE.colour, linewidth=RULE.width)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if crop_px:
            ax.axvline(crop_px, color=TEXT.colour, lw=0.8, zorder=5)
            place: Any = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "va": "top"}
            ax.annotate("size of the crop", (crop_px, 1), (3, -1), **place)
        return _svg(figure, description)


@contextmanager
def _page_settings(description: str) -> Iterator[None]:
    colours: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), TEXT.colour)
    svg = {"svg.fonttype": "none", "svg.hashsalt": description, "path.simplify_threshold": 0.3}
    with matplotlib.rc_context(colours | svg | {"font.size": 8.5}):
        yield


def _bare(ax: Axes) -> None:
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _svg(figure: Figure, description: str) -> Markup:
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(_for_the_page(file.getvalue(), description))  # noqa: S704 - what is not ours in it is escaped


def _for_the_page(svg: str, description: str) -> str:
    """The SVG element alone, scalable, to a tenth of a point, in the page's colours and font.

    Ids of groups are taken out, for they would repeat on the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for style in (TEXT, RULE, GOLD_STANDARD, *LINES):
        svg = svg.replace(style.colour, style.css)
    return svg
