"""The page of `avemo predict --html`: a video, and what was predicted from it, moment by moment.

The page is one file that needs no network: its script, uPlot, the numbers and the encoded media lie within. Its policy
lets no other script run, whatever a file may be called.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ
from launch.media import FRAME_LIMIT, encode
from launch.page import data_uri, render
from launch.prediction import FaceTrace

_TRAIL_S = 2
_ZOOM_S = 60
"""Traces that last longer can be looked at a minute at a time."""

_MOST_FACES = 9
"""As many faces as there are number keys to choose one by."""

_COLOURS = ("var(--blue)", "var(--vermilion)", "var(--green)", "var(--purple)")


def write_page(path: Path, title: str, source: Path, traces: Sequence[FaceTrace], notes: Sequence[str]) -> None:
    """Write the page; it shows the first 20 minutes and the nine faces that are there longest, and says so.

    Args:
        path: the page.
        title: its heading, such as the name of the source.
        source: the video, sound or picture that was looked at.
        traces: of each face.
        notes: sentences that the reader must know.

    Raises:
        DataError: the source can't be read.
    """
    media = encode(source)
    frame_count = media.frame_count
    traces = [trace for trace in traces if trace.first_frame < frame_count]
    longest = sorted(traces, key=lambda trace: -int(trace.face_valid.sum()))[:_MOST_FACES]
    left_out = []
    if not media.complete:
        left_out.append(f"Only the first {FRAME_LIMIT // FRAME_RATE_HZ // 60} minutes are shown.")
    if len(longest) < len(traces):
        left_out.append(f"Only the {_MOST_FACES} faces that are there longest are shown, of {len(traces)}.")
    traces = [trace for trace in traces if trace in longest]
    script = _script()
    page = render(
        "viewer.html",
        policy=_policy(script),
        title=title,
        notes=[*notes, *left_out],
        media=media,
        picture=data_uri(media.data, "jpeg") if media.kind == "picture" else None,
        recording=_base64(media.data) if media.kind != "picture" else None,
        expressions=EXPRESSIONS if any(np.isfinite(trace.expression).any() for trace in traces) else (),
        dimensions=DIMENSIONS,
        has_affect=any(np.isfinite(trace.valence_arousal).any() for trace in traces),
        has_spread=any(np.isfinite(trace.spread).any() for trace in traces),
        has_time=frame_count > 1,
        has_zoom=frame_count > _ZOOM_S * FRAME_RATE_HZ,
        trail_s=_TRAIL_S,
        trail_frames=_TRAIL_S * FRAME_RATE_HZ,
        data={
            "frame_rate_hz": FRAME_RATE_HZ,
            "frame_count": frame_count,
            "zoom_s": _ZOOM_S,
            "has_face": any(bool(trace.face_valid.any()) for trace in traces),
            "size": media.size,
            "media_type": "audio/mp4" if media.kind == "sound" else "video/mp4",
            "faces": [_numbers(trace, frame_count) for trace in traces],
        },
        script=Markup(script),  # noqa: S704  # Our own files, no data.
        plot_style=Markup(_read("vendored/uplot/uPlot.min.css")),  # noqa: S704
    )
    path.write_text(page, encoding="utf-8", errors="replace")  # the names of files may be no UTF-8


def _numbers(trace: FaceTrace, frame_count: int) -> dict[str, Any]:
    """A trace as the page's script reads it: arrays as bytes, little-endian, in base 64."""
    rows = slice(frame_count - trace.first_frame)
    floats = {name: getattr(trace, name) for name in ("box", "expression", "valence_arousal", "spread")}
    flags = {name: getattr(trace, name) for name in ("face_valid", "voice_valid")}
    return {
        "name": f"face {trace.face + 1}",
        "colour": _COLOURS[trace.face % len(_COLOURS)],
        "first_frame": trace.first_frame,
        **{name: _base64(array[rows].astype("<f4").tobytes()) for name, array in floats.items()},
        **{name: _base64(array[rows].astype(np.uint8).tobytes()) for name, array in flags.items()},
    }


def _script() -> str:
    """uPlot, under its licence, and our own script."""
    parts = ("vendored/uplot/uPlot.iife.min.js", "viewer.js")
    return "\n".join((f"/*\n{_read('vendored/uplot/LICENSE')}\n*/", *map(_read, parts)))


def _policy(script: str) -> str:
    """What the page may do: run this one script and show what lies within; no network."""
    digest = _base64(hashlib.sha256(script.encode()).digest())
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; media-src blob:"
    )


def _read(name: str) -> str:
    return (files("launch") / name).read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
