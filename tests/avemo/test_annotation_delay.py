import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from avemo.annotation_delay import at_delay, search, valid_at_delay

LABELS = np.arange(10, dtype=np.float32).reshape(1, 5, 2) ** 2


def test_whole_delays_take_later_labels_each_dimension_its_own():
    noted = at_delay(jnp.asarray(LABELS), jnp.array([2.0, 0.0]), 3)
    np.testing.assert_array_equal(noted[0, :, 0], LABELS[0, 2:, 0])
    np.testing.assert_array_equal(noted[0, :, 1], LABELS[0, :3, 1])


def test_between_two_frames_labels_are_interpolated_and_the_slope_is_the_gradient():
    delay = jnp.array([1.25, 0.5])
    noted = at_delay(jnp.asarray(LABELS), delay, 2)
    np.testing.assert_allclose(noted[0, 0], [0.75 * 4 + 0.25 * 16, 0.5 * 1 + 0.5 * 9])
    slope = jax.jacobian(lambda delay: at_delay(jnp.asarray(LABELS), delay, 1)[0, 0])(delay)
    np.testing.assert_allclose(slope, [[16 - 4, 0], [0, 9 - 1]])


def test_there_is_no_label_beyond_the_last_and_next_to_an_invalid_one():
    valid = jnp.array([[True, True, False, True, True]])
    whole = valid_at_delay(valid, jnp.array([1.0, 3.0]), 5)
    np.testing.assert_array_equal(whole[0, :, 0], [True, False, True, True, False])
    np.testing.assert_array_equal(whole[0, :, 1], [True, True, False, False, False])
    between = valid_at_delay(valid, jnp.array([0.5, 20.0]), 5)
    np.testing.assert_array_equal(between[0, :, 0], [True, False, False, True, False])
    assert not between[..., 1].any()


def recordings(count: int, frames: int, delays: tuple[int, int], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs that show two curves and noise, and labels that follow late, with an offset of each recording's own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        curves = gaussian_filter1d(rng.normal(size=(frames + 50, 2)), 15, axis=0) * 8
        inputs = np.concatenate([curves[50:], rng.normal(size=(frames, 3))], axis=1) + rng.normal(size=5)
        inputs[rng.random(frames) < 0.1] = np.nan
        labels = np.stack([curves[50 - delay : frames + 50 - delay, i] for i, delay in enumerate(delays)], axis=1)
        made.append((inputs, labels + 0.3 * rng.normal(size=labels.shape) + rng.normal(size=2)))
    return made


def test_the_search_finds_the_delay_of_each_dimension():
    correlation = search(recordings(4, 700, (31, 12), 0), recordings(3, 700, (31, 12), 1), 60)
    assert correlation.shape == (61, 2)
    np.testing.assert_allclose(correlation.argmax(0), [31, 12], atol=1)
    assert (correlation.max(0) > 0.8).all()


def test_recordings_shorter_than_the_longest_delay_are_refused():
    with pytest.raises(ValueError, match="too few for a delay of 60 frames"):
        search(recordings(2, 61, (3, 3), 0), recordings(1, 700, (3, 3), 1), 60)
