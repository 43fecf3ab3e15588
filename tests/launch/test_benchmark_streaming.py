"""`avemo benchmark streaming`, small: all figures are there, and what is compared with is equal."""

import json

import numpy as np
import pytest
from conftest import avemo

from launch.benchmarks import streaming
from launch.benchmarks.streaming import NETWORKS, OurRecordings, OurStreamStep, picture, untrained
from launch.prediction import predict_picture


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(streaming, "RECORDING_FRAMES", 20)
    monkeypatch.setattr(streaming, "MEMORY_EVERY_S", 2)


def test_every_figure_is_measured(small, tmp_path):
    out = tmp_path / "streaming.json"
    avemo(
        *("benchmark", "streaming", "--out", out, "--video-s", "1", "--rounds", "1", "--round-s", "0.01"),
        *("--memory-hours", "0.0015"),
    )
    found = json.loads(out.read_text())
    assert found["frames"] == [25]
    assert len(found["real_time_factor"]) == 1
    assert {streaming.STEP, streaming.WHOLE} <= found["ms"].keys()
    assert len(found["memory"]["resident_mb"]) == 3
    assert found["memory"]["resident_mb"][0] > 50


def test_the_drawn_person_is_found():
    (trace,) = predict_picture(untrained(*NETWORKS["small"]), picture(640, 360))
    left, _, right, _ = trace.box[0]
    assert abs((left + right) / 2 - 320) < 20
    assert np.isfinite(trace.valence_arousal).all()


@pytest.mark.parity
def test_the_twins_predict_streams_and_recordings_alike(small):
    pytest.importorskip("torch", reason="torch is not installed")
    from launch.benchmarks.torch_peer import TorchStreamStep, prove_stream

    model = untrained(*NETWORKS["small"])
    found = prove_stream(OurStreamStep(model), OurRecordings(model))
    assert max(each["largest_difference"] for each in found.values()) < 1e-4
    assert TorchStreamStep(OurStreamStep(model))(1) > 0
