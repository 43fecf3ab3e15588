"""Where the time of a frame goes: medians of parts, also of those that do something every few frames only."""

import pytest

from launch import latency


def test_what_is_done_every_few_frames_counts_as_its_mean(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.006] * 2)  # three calls, of which the last takes 6 ms
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    times = latency.Latency()
    for _ in range(6):
        with times.part("networks", frames=3):
            pass
    assert times.median_ms("networks") == pytest.approx(2.0)
