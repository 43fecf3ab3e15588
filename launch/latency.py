"""Where the time of a frame goes while a stream is predicted."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from avemo.labels import FRAME_RATE_HZ
from launch.tables import Table

BUDGET_MS = 1000 / FRAME_RATE_HZ
"""What there is for a frame before the next one comes."""

_KEPT = 60 * FRAME_RATE_HZ
"""Of how many frames, the last ones, each part's time is kept: a minute."""


class Latency:
    """Times the parts of what is done for each frame; memory stays constant."""

    def __init__(self) -> None:
        """Begin without any."""
        self._ms: dict[str, deque[float]] = {}
        self._waiting_s: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str, frames: int = 1) -> Iterator[None]:
        """Times what is inside. Where it does something every so many frames only, their mean counts for each."""
        start = time.perf_counter()
        try:
            yield
        finally:
            waiting_s = self._waiting_s.setdefault(name, [])
            waiting_s.append(time.perf_counter() - start)
            if len(waiting_s) >= frames:
                self.add(name, sum(waiting_s) / len(waiting_s))
                waiting_s.clear()

    def add(self, name: str, seconds: float) -> None:
        """Take a time that was measured elsewhere."""
        self._ms.setdefault(name, deque(maxlen=_KEPT)).append(1000 * seconds)

    def median_ms(self, name: str) -> float:
        """The median of a part's times; NaN where it never ran."""
        return float(np.median(self._ms[name])) if name in self._ms else float("nan")

    def table(self) -> Table:
        """Median and 95 % of each part over the last minute, and the median's share of a frame's time."""
        rows = {}
        for name, times_ms in self._ms.items():
            median, most = np.quantile(times_ms, [0.5, 0.95])
            rows[name] = [f"{median:.2f}", f"{most:.2f}", f"{median / BUDGET_MS:.0%}"]
        return Table.of("Time for a frame", ["median, ms", "95 %, ms", f"of {BUDGET_MS:.0f} ms"], rows)
