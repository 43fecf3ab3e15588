import numpy as np
import pytest

from avemo.post_processing import PostProcessing, concatenated_ccc, fit


def curve(seed: int, frames: int = 400) -> np.ndarray:
    times = np.arange(frames) / 25
    return 0.4 * np.sin(times * (1 + seed / 7) + seed)


def test_each_part_by_hand():
    trace = np.array([0.0, 0.1, 0.9, 0.2, 0.3])
    np.testing.assert_allclose(PostProcessing()(trace), trace)
    np.testing.assert_allclose(PostProcessing(median_frames=3)(trace), [0, 0.1, 0.2, 0.3, 0.3])
    np.testing.assert_allclose(
        PostProcessing(scale=2.0, mean=0.3, bias=0.1)(trace), 2 * (trace - 0.3) + 0.4, atol=1e-12
    )
    np.testing.assert_allclose(PostProcessing(shift_frames=2)(trace), [0, 0, 0, 0.1, 0.9])
    np.testing.assert_allclose(PostProcessing(shift_frames=-1)(trace), [0.1, 0.9, 0.2, 0.3, 0.3])


def test_nothing_is_done_to_what_is_perfect():
    assert fit([(curve(seed), curve(seed)) for seed in range(3)]) == PostProcessing()


def test_what_was_done_to_the_gold_standard_is_undone():
    noise = np.random.default_rng(0)
    gold = [curve(seed) for seed in range(3)]
    # Too small, too high, six frames late, and with spikes.
    predictions = [0.5 * np.roll(each, 6) + 0.2 + (noise.random(400) < 0.05) for each in gold]
    fitted = fit(list(zip(predictions, gold, strict=True)))
    assert fitted.median_frames > 1
    assert fitted.shift_frames == -6
    assert fitted.scale == pytest.approx(2, rel=0.1)
    assert fitted.bias == pytest.approx(-0.2, abs=0.05)
    after = concatenated_ccc([(fitted(each), truth) for each, truth in zip(predictions, gold, strict=True)])
    assert after > 0.98 > 0.7 > concatenated_ccc(list(zip(predictions, gold, strict=True)))


def test_it_never_lowers_the_score_it_is_fitted_on():
    noise = np.random.default_rng(1)
    traces = [(noise.normal(size=300), noise.normal(size=300)) for _ in range(3)]
    fitted = fit(traces)
    assert concatenated_ccc([(fitted(each), gold) for each, gold in traces]) >= concatenated_ccc(traces)


def test_the_score_by_hand():
    prediction, gold = np.array([0.0, 1.0]), np.array([1.0, 3.0])
    assert concatenated_ccc([(prediction[:1], gold[:1]), (prediction[1:], gold[1:])]) == pytest.approx(1 / 3.5)
    assert concatenated_ccc([(np.ones(3), np.ones(3))]) == 0.0
