"""What a compiled program sends between devices, read from its text (HLO)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
        kind: One of `KINDS`.
        shapes: Of each array that comes out, on one device.
        bytes: Of all of them.
        in_loop: Whether it stands in the body of a loop.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    in_loop: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each array."""
        return tuple(map(prod, self.shapes))


def collectives(hlo: str) -> list[Collective]:
    """All operations between devices in the text of a compiled program (`compiled.as_text()`)."""
    hlo, found, computation = re.sub(r"/\*.*?\*/", "", hlo), [], ""
    bodies = set(re.findall(r"body=%([\w.-]+)", hlo))
    for line in hlo.splitlines():
        if line.endswith("{") and line.startswith(("%", "ENTRY")):
            computation = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
        if match := re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line):
            results, kind, started = match.groups()
            arrays = re.findall(r"([a-z]\w*)\[([\d,]*)\]", results)
            if started and kind != "all-reduce":  # what goes in stands before what comes out
                arrays = arrays[len(arrays) // 2 :]
            shapes = tuple(tuple(int(size) for size in shape.split(",") if size) for _, shape in arrays)
            total = sum(prod(shape) * _bits(dtype) for shape, (dtype, _) in zip(shapes, arrays, strict=True)) // 8
            found.append(Collective(kind, shapes, total, computation in bodies))
    return found


def by_kind(found: Iterable[Collective]) -> dict[str, dict[str, int]]:
    """How many there are of each kind, and their bytes; an operation in a loop counts once."""
    totals: dict[str, dict[str, int]] = {}
    for operation in found:
        total = totals.setdefault(operation.kind, {"count": 0, "bytes": 0, "in_loops": 0})
        total["count"] += 1
        total["bytes"] += operation.bytes
        total["in_loops"] += operation.in_loop
    return totals


def gradient_reductions(found: Iterable[Collective], shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Which all-reduces carry gradients.

    An array that is reduced is known by its shape alone, whatever the order of its axes and however many of length 1.
    So only kernels are looked for: BatchNorm's statistics have the shapes of its vectors.

    Args:
        found: Of the program of a training step.
        shapes: Of all parameters.

    Returns:
        "all_reduces", how many carry gradients of kernels; "kernels", how many kernels were looked for; "each_once",
        whether there is one sum for each of them, and none in a loop.
    """
    kernels = sorted(lengths for shape in shapes if len(lengths := _lengths(shape)) > 1)
    sums = [each for each in found if each.kind == "all-reduce"]
    carrying = [each for each in sums if any(_lengths(shape) in kernels for shape in each.shapes)]
    reduced = sorted(lengths for each in carrying for shape in each.shapes if (lengths := _lengths(shape)) in kernels)
    once = reduced == kernels and not any(each.in_loop for each in carrying)
    return {"all_reduces": len(carrying), "kernels": len(kernels), "each_once": once}


def _lengths(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(length for length in shape if length > 1))


def _bits(dtype: str) -> int:
    """Bits of an element: 8 of "pred", the number in the name of any other ("bf16", "f8e4m3")."""
    return 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
