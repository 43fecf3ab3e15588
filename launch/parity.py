"""How far what was exported is from the network in JAX, on inputs that are easy and on some that aren't."""

from collections.abc import Callable

import jax
import numpy as np

from avemo.labels import SAMPLE_RATE_HZ
from launch.exported_parts import NEXT, STATE, Arrays, Part

SHAPES = ((1, (7,)), (4, (1, 25)))
"""Batch, and the frames of successive calls, of which each takes the state that the one before gave."""

TONE_HZ, SQUARE_HZ = 440, 125


def largest_error(run: Callable[[Arrays], Arrays], part: Part) -> float:
    """The largest difference of any number, divided by its size where that is more than 1.

    Args:
        run: The exported step.
        part: The step in JAX; its state goes into both, so that errors don't add up over calls.

    Returns:
        Infinity where something isn't finite.
    """
    rng, step, largest = np.random.default_rng(0), jax.jit(part.step), 0.0
    for batch, calls in SHAPES:
        state = {
            name: np.zeros((batch, *port.shape[1:]), np.float32)
            for name, port in part.inputs.items()
            if name.startswith(STATE)
        }
        for frames in calls:
            inputs = {name: value for name, value in signals(part, batch, frames, rng).items() if name in part.inputs}
            expected, found = jax.device_get(step(inputs | state)), run(inputs | state)
            largest = max(largest, *(difference(found[name], expected[name]) for name in part.outputs))
            state = {name: expected[NEXT + name] for name in state}
    return largest


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest of two arrays, see `largest_error`."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def signals(part: Part, batch: int, frames: int, rng: np.random.Generator) -> Arrays:
    """Something to see and to hear.

    The first row is noise; of four, the others are a black face, a white one and another noise, a square wave as loud
    as can be, silence, and a quiet tone. Here and there a face is missing (and no number then) or the sound.
    """
    rows = np.arange(batch)[:, None]
    valid = {name: rng.random((batch, frames)) < 0.8 for name in ("face_valid", "voice_valid")}
    arrays: Arrays = dict(valid)
    if "images" in part.inputs:
        side = part.inputs["images"].shape[1]
        images = rng.integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
        arrays["images"] = np.select(
            [rows[..., None, None] == 1, rows[..., None, None] == 2], [0 * images, 0 * images + 255], images
        )
    if "waveform" in part.inputs:
        samples = int(part.inputs["waveform"].shape[2])
        seconds = np.arange(frames * samples) / SAMPLE_RATE_HZ
        kinds = (
            rng.uniform(-1, 1, frames * samples),
            np.where(np.sin(2 * np.pi * SQUARE_HZ * seconds) < 0, -1, 1),
            np.zeros(frames * samples),
            0.01 * np.sin(2 * np.pi * TONE_HZ * seconds),
        )
        sound = np.stack([kinds[row % len(kinds)] for row in range(batch)])
        arrays["waveform"] = sound.reshape(batch, frames, samples).astype(np.float32)
    if "face" in part.inputs:
        embeddings = rng.normal(size=(batch, frames, int(part.inputs["face"].shape[2])))
        arrays["face"] = np.where(valid["face_valid"][..., None], embeddings, np.nan).astype(np.float32)
    return arrays
