import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.metrics import Confusion, Regression, expression_confusions
from launch.evaluation import Evaluator, ccc_results, fusion_arrays, fusion_batches, label_results, swap_voices
from launch.mesh import data_mesh


def recording(frames, seed):
    rng = np.random.default_rng(seed)
    return {
        "name": f"P{seed}",
        "face": rng.normal(size=(frames, 4)).astype(np.float32),
        "face_valid": np.ones(frames, bool),
        "waveform": rng.normal(size=640 * frames).astype(np.float32),
        "voice_valid": np.ones(frames, bool),
        "ratings": rng.uniform(-1, 1, (frames, 6, 2)).astype(np.float32),
        "gold_standard": rng.uniform(-1, 1, (frames, 2)).astype(np.float32),
    }


def test_every_row_counts_once_whatever_the_batch_size():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(23, 8)).astype(np.float32), rng.integers(0, 8, 23).astype(np.int32)

    def batches(size):
        for start in range(0, 23, size):
            rows = np.minimum(np.arange(start, start + size), 22)
            yield {"logits": logits[rows], "label": labels[rows], "valid": np.arange(start, start + size) < 23}

    def eval_step(variables, batch):
        return {"confusion": Confusion.of(batch["logits"], batch["label"], batch["valid"])}

    counts = [Evaluator(eval_step, data_mesh())({}, batches(size))["confusion"].counts_KxK for size in (5, 8, 23)]
    assert counts[0].sum() == 23
    np.testing.assert_array_equal(counts[0], counts[1])
    np.testing.assert_array_equal(counts[0], counts[2])


def test_the_evaluation_step_is_traced_once():
    traces = []

    def eval_step(variables, batch):
        traces.append(1)
        return {"confusion": Confusion.of(batch["logits"], batch["label"], batch["valid"])}

    batch = {"logits": np.eye(8, dtype=np.float32), "label": np.arange(8, dtype=np.int32), "valid": np.ones(8, bool)}
    Evaluator(eval_step, data_mesh())({}, [batch] * 4)
    assert len(traces) == 1


def test_it_can_be_stopped_after_each_batch():
    class Stop(Exception):
        pass

    def check(number):
        if number == 2:
            raise Stop

    def batches():
        for number in range(1, 5):
            given.append(number)
            yield {"values": np.ones((2, 2), np.float32), "valid": np.ones(2, bool)}

    def eval_step(variables, batch):
        return {"regression": Regression.of(batch["values"], batch["values"], batch["valid"])}

    given = []
    with pytest.raises(Stop):
        Evaluator(eval_step, data_mesh())({}, batches(), check)
    assert given == [1, 2]


def test_recordings_of_unequal_length_are_padded_without_labels():
    batches = fusion_batches([recording(10, 0), recording(7, 1)], data_mesh())
    lengths = [int(row.sum()) for batch in batches for row in batch["labels_valid"]]
    assert lengths == [10, 7]
    assert {batch["waveform"].shape[1] for batch in batches} == {6400}
    assert not batches[-1]["face_valid"][-1, 7:].any()


def test_raters_are_summed_up_and_the_gold_standard_stands_in_for_them():
    whole = recording(10, 0)
    arrays = fusion_arrays(whole)
    np.testing.assert_allclose(arrays["rating_mean"], whole["ratings"].mean(1))
    np.testing.assert_allclose(arrays["rating_square"], (whole["ratings"] ** 2).mean(1), rtol=1e-6)
    alone = fusion_arrays(whole | {"ratings": np.zeros((10, 0, 2), np.float32)})
    np.testing.assert_array_equal(alone["rating_mean"], whole["gold_standard"])
    np.testing.assert_array_equal(alone["rating_square"], whole["gold_standard"] ** 2)


def test_swapped_voices_fit_their_new_recording():
    first, second = recording(10, 0), recording(7, 1)
    second["voice_valid"][2] = False
    swapped = swap_voices([first, second])
    np.testing.assert_array_equal(swapped[0]["voice_valid"], np.arange(10) % 7 != 2)
    assert swapped[1]["voice_valid"].all()
    np.testing.assert_array_equal(swapped[0]["waveform"][: 7 * 640], second["waveform"])
    np.testing.assert_array_equal(swapped[1]["waveform"], first["waveform"][: 7 * 640])
    assert [len(part["waveform"]) for part in swapped] == [6400, 4480]
    assert swapped[0]["gold_standard"] is first["gold_standard"]


def test_both_poolings_by_hand():
    # Two files, each perfectly predicted but for an offset: per file 2·v/(2·v + o²), concatenated by all rows at once.
    label = np.array([[-0.5, 0.0], [0.0, 0.1], [0.5, -0.1]], np.float32)
    predictions = [label + 0.3, label - 0.3]
    parts = [Regression.of(jnp.asarray(p), jnp.asarray(label), jnp.ones(3, bool)) for p in predictions]
    results = ccc_results([jax.device_get(part) for part in parts])
    variance = label[:, 0].var()
    assert results["valence"]["ccc_per_file"] == pytest.approx(2 * variance / (2 * variance + 0.09), rel=1e-5)
    x, y = np.concatenate(predictions)[:, 0], np.concatenate([label, label])[:, 0]
    expected = 2 * np.mean(x * y) / (x.var() + y.var())
    assert results["valence"]["ccc_concatenated"] == pytest.approx(expected, rel=1e-5)


def test_intervals_are_over_files_and_hold_the_score():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(6, 200, 2)).astype(np.float32)
    noise = rng.normal(size=labels.shape).astype(np.float32) * np.linspace(0.2, 1.5, 6)[:, None, None]
    parts = [
        jax.device_get(Regression.of(jnp.asarray(y + e), jnp.asarray(y), jnp.ones(200, bool)))
        for y, e in zip(labels, noise.astype(np.float32), strict=True)
    ]
    for pooling in ("ccc_concatenated", "ccc_per_file"):
        found = ccc_results(parts)["valence"]
        low, high = found[f"{pooling}_interval"]
        assert low < found[pooling] < high
        assert ccc_results(parts[:1])["valence"][f"{pooling}_interval"] == pytest.approx([ccc_of(parts[0])] * 2)


def test_gain_is_drawn_in_pairs():
    # One network is better by about the same on every file: files differ much more than the two do on each.
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(6, 200, 2)).astype(np.float32)
    noise = (rng.normal(size=labels.shape) * np.linspace(0.2, 1.5, 6)[:, None, None]).astype(np.float32)
    better, worse = (
        [
            jax.device_get(Regression.of(jnp.asarray(y + scale * e), jnp.asarray(y), jnp.ones(200, bool)))
            for y, e in zip(labels, noise, strict=True)
        ]
        for scale in (1.0, 1.1)
    )
    first, second, gain = (
        each["arousal"] for each in (ccc_results(better), ccc_results(worse), ccc_results(better, worse))
    )
    for pooling in ("ccc_concatenated", "ccc_per_file"):
        assert gain[pooling] == pytest.approx(first[pooling] - second[pooling])
        low, high = gain[f"{pooling}_interval"]
        assert 0 < low < gain[pooling] < high
        assert second[f"{pooling}_interval"][1] > first[f"{pooling}_interval"][0], "apart, the intervals overlap"
    assert ccc_results(better, better)["arousal"]["ccc_per_file_interval"] == [0.0, 0.0]


def ccc_of(regression):
    return float(regression.ccc()[0])


def test_figures_of_nothing_are_left_out():
    nothing, some = jnp.zeros(2, bool), jnp.ones(2, bool)
    logits, labels, pairs = jnp.eye(2, 8), jnp.zeros(2, jnp.int32), jnp.asarray([[0.1, 0.2], [0.3, 0.5]])

    def figures(has_class, has_pair):
        metrics = expression_confusions(logits, labels, has_class)
        return set(label_results(jax.device_get(metrics | {"valence_arousal": Regression.of(pairs, pairs, has_pair)})))

    assert figures(nothing, nothing) == set()
    assert figures(some, nothing) == {"accuracy_8", "accuracy_7", "macro_f1_8", "macro_f1_7"}
    assert figures(nothing, some) == {
        f"{name}_{dimension}" for name in ("rmse", "pearson", "ccc", "sagr") for dimension in ("valence", "arousal")
    }
