"""The ways of training over recordings, by the commands that users type, and what is fitted afterwards."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import avemo

from avemo.post_processing import PostProcessing
from launch import embeddings
from launch.checkpoints import Checkpoints
from launch.train_fusion import fit_on_dev, load_fitted

FUSION = ["--preset", "demo", "--steps", "4", "--batch-size", "2", "--window-s", "1", "--stride-s", "1"]
FUSION += ["--annotation-delay-s", "1", "1", "--network.audio.features", "8", "--network.recurrent.features", "8"]


def train(tiny, face, out, *settings):
    avemo("train", "fusion", "--data", tiny.data, "--face", face, "--out", out, *FUSION, *settings)


def results(tiny, run, out):
    avemo("evaluate", "--data", tiny.data, "--out", out, "--fusion", run)
    return json.loads((out / "results.json").read_text())["recola"]


def state(run):
    with Checkpoints(run) as checkpoints:
        whole = checkpoints.manager.restore(checkpoints.latest_step())
    return {name: whole[name] for name in ("variables", "optimizer")}


def test_a_searched_delay_is_kept_with_all_that_was_tried_and_used(tiny, face, tmp_path):
    run = tmp_path / "run"
    train(tiny, face, run, "--delay", "searched", "--longest-delay-s", "2")
    found = json.loads((run / "delays.json").read_text())
    assert len(found["tried_s"]) == len(found["correlation"]["valence"]) == 51
    assert max(found["correlation"]["arousal"]) <= 1
    protocol = results(tiny, run, tmp_path)["protocol"]
    assert protocol["delay"] == "searched"
    expected = {name: found[f"{name}_s"] for name in ("valence", "arousal")}
    assert protocol["annotation_delay_s"] == pytest.approx(expected)


def test_a_search_that_recordings_are_too_short_for_is_refused(tiny, face, tmp_path):
    with pytest.raises(SystemExit, match="too few for a delay of 240 frames: lower --longest-delay-s"):
        train(tiny, face, tmp_path / "run", "--delay", "searched")


@pytest.mark.parametrize("delay", ["fixed", "learned"])
def test_recordings_that_end_before_the_delay_has_passed_are_refused(tiny, face, tmp_path, delay):
    with pytest.raises(SystemExit, match=r"too short for a delay of 9.00 s: lower --annotation-delay-s"):
        train(tiny, face, tmp_path / "run", "--delay", delay, "--annotation-delay-s", "1", "9")


def test_a_face_network_that_learns_is_kept_in_the_run_and_scored(tiny, face, tmp_path):
    train(tiny, face, tmp_path / "run", "--face-learns", "--delay", "learned")
    before, after = state(face)["variables"]["params"], state(tmp_path / "run")["variables"]["params"]["face_network"]
    assert not np.allclose(before["embed"]["conv"]["kernel"], after["embed"]["conv"]["kernel"])
    assert set(results(tiny, tmp_path / "run", tmp_path)) >= {"fused", "face", "voice", "post_processed", "spread"}


def test_a_carried_state_survives_an_interruption_to_the_bit(tiny, face, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(tiny, face, whole, "--stateful", "--checkpoint-every", "2")
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    train(tiny, face, resumed, "--stateful", "--checkpoint-every", "2", "--resume")
    one, other = state(whole), state(resumed)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(one["optimizer"]["carry"]))
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("modality", "other"), [("face", "voice"), ("voice", "face")])
def test_a_network_for_one_modality_is_scored_and_reported(tiny, face, tmp_path, modality, other):
    train(tiny, face, tmp_path / "run", "--modalities", modality)
    scored = results(tiny, tmp_path / "run", tmp_path)
    assert modality in scored
    assert not {"fused", other} & set(scored)
    assert scored["spread"]["valence"]["factor"] == load_fitted(tmp_path / "run").spread_factor["valence"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"CCC of valence, {modality} only" in page
    assert "The band around the prediction is to hold" in page
    assert "A network for one modality on 1 recording of RECOLA (test)" in page


def test_embeddings_are_made_once_for_a_face_network(tiny, face, tmp_path, monkeypatch):
    train(tiny, face, tmp_path / "first")
    monkeypatch.setattr(embeddings, "face_embedder", None)  # would be called again
    train(tiny, face, tmp_path / "second", "--modalities", "face")


def test_what_is_fitted_is_made_up_for_where_a_run_was_cut_short(tiny, face, tmp_path):
    run = tmp_path / "run"
    train(tiny, face, run)
    fitted = load_fitted(run)
    (run / "fitted_on_dev.json").unlink()
    with pytest.raises(SystemExit, match="finish the run with --resume"):
        avemo("evaluate", "--data", tiny.data, "--out", tmp_path, "--fusion", run)
    train(tiny, face, run, "--resume")
    assert load_fitted(run) == fitted


def test_the_band_holds_the_nominal_share_of_the_raters_it_was_fitted_on():
    rng = np.random.default_rng(0)
    trained = SimpleNamespace(delay=np.array([0.0, 3.0]), config=SimpleNamespace(modalities="fused"))
    recordings, predictions = [], []
    for _ in range(3):
        gold = np.cumsum(rng.normal(size=(400, 2)), axis=0).astype(np.float32) / 30
        late = np.stack([gold[:, 0], np.roll(gold[:, 1], 3)], axis=1)
        ratings = late[:, None] + 0.1 * rng.normal(size=(400, 6, 2)).astype(np.float32)
        recordings.append({"gold_standard": late, "ratings": ratings})
        predictions.append({"fused": {"valence_arousal": gold, "spread": np.full((400, 2), 0.05, np.float32)}})
    fitted = fit_on_dev(trained, predictions, recordings)
    # 90 % of a normal distribution lie within 1.645 standard deviations.
    assert fitted.spread_factor == pytest.approx({"valence": 3.29, "arousal": 3.29}, rel=0.03)
    assert fitted.post_processing == {"valence": PostProcessing(), "arousal": PostProcessing()}
