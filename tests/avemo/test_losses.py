import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo import losses


def test_masked_mean_ignores_masked_values_even_nan():
    values = jnp.array([1.0, jnp.nan, 3.0])
    mask = jnp.array([True, False, True])
    assert losses.masked_mean(values, mask) == 2.0
    gradient = jax.grad(lambda v: losses.masked_mean(v, mask))(values)
    np.testing.assert_allclose(gradient, [0.5, 0.0, 0.5])


def test_masked_mean_of_nothing_is_zero():
    assert losses.masked_mean(jnp.array([jnp.inf]), jnp.array([False])) == 0.0


def test_triplet_loss_by_hand():
    # d12 = 2, d13 = 4, d23 = 2: the first hinge has room (2 − 4 + 0.2 < 0), the second costs 2 − 2 + 0.2.
    embeddings = jnp.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    np.testing.assert_allclose(losses.triplet_distances(embeddings), [[2.0], [4.0], [2.0]], atol=1e-6)
    np.testing.assert_allclose(losses.triplet_loss(embeddings, jnp.array([0.2])), [0.2], atol=1e-6)
    np.testing.assert_allclose(losses.triplet_loss(embeddings, jnp.array([2.5])), [0.5 + 2.5], atol=1e-6)


def test_triplet_loss_is_symmetric_in_the_alike_pair():
    embeddings = jax.random.normal(jax.random.key(0), (5, 3, 4))
    margin = jnp.full(5, 0.1)
    swapped = embeddings[:, jnp.array([1, 0, 2])]
    np.testing.assert_allclose(losses.triplet_loss(embeddings, margin), losses.triplet_loss(swapped, margin))


def test_classification_loss_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
    targets = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    weights = jnp.array([1.0, 3.0, 1.0])
    expected = [np.log(2), 3 * np.log(4), 2 * (0.5 * np.log(2) + 0.5 * np.log(4))]
    np.testing.assert_allclose(losses.classification_loss(logits, targets, weights), expected, rtol=1e-6)


def test_smoothing_spreads_a_share_evenly_and_none_where_it_is_off():
    targets = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(losses.smoothed(targets, 0.2), [[0.85, 0.05, 0.05, 0.05]], rtol=1e-6)
    np.testing.assert_array_equal(losses.smoothed(targets, 0.0), targets)


def test_valence_arousal_loss_by_hand():
    loss = losses.valence_arousal_loss(jnp.array([[0.5, -0.5]]), jnp.array([[0.0, 0.5]]))
    np.testing.assert_allclose(loss, [(0.25 + 1.0) / 2])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_target_loss_is_scaled_kl(temperature):
    student, teacher = np.array([[1.0, 0.0, -1.0]]), np.array([[0.0, 2.0, 0.5]])
    p = np.exp(teacher / temperature) / np.exp(teacher / temperature).sum()
    q = np.exp(student / temperature) / np.exp(student / temperature).sum()
    expected = (p * np.log(p / q)).sum() * temperature**2
    loss = losses.soft_target_loss(jnp.array(student), jnp.array(teacher), temperature)
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)
    same = losses.soft_target_loss(jnp.array(teacher), jnp.array(teacher), temperature)
    np.testing.assert_allclose(same, [0.0], atol=1e-6)


def test_embedding_match_is_one_minus_cosine():
    a, b = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[0.0, 2.0], [3.0, 3.0]])
    np.testing.assert_allclose(losses.embedding_match_loss(a, b), [1.0, 0.0], atol=1e-6)


def test_embedding_match_has_a_gradient_at_zero():
    gradient = jax.grad(lambda a: losses.embedding_match_loss(a, jnp.ones((1, 3))).sum())(jnp.zeros((1, 3)))
    assert jnp.isfinite(gradient).all()


def test_hint_loss_by_hand_and_whatever_the_scale():
    student, teacher = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    # mean square of the teacher 1/2; squared distances, averaged over two features, 2 and 1/2; half of both.
    np.testing.assert_allclose(losses.hint_loss(student, teacher), [2.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.hint_loss(10 * student, 10 * teacher), [2.0, 0.5], rtol=1e-6)


def test_distance_relation_by_hand():
    student, teacher = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0]])
    # distances 1, 3, 2 over their mean 2, against 5, 10, 5 over 20/3: they differ by 1/4, 0 and 1/4.
    huber = 0.5 * 0.25**2
    loss = losses.distance_relation_loss(student, teacher)
    np.testing.assert_allclose(loss, [huber / 2, huber, huber / 2], rtol=1e-5)


def test_angle_relation_by_hand():
    corner, line = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0], [1.0], [2.0]])
    # Cosines between the two others, seen from each: 0, √½, √½ against 1, -1, 1; each pair stands twice among nine.
    huber = lambda d: 0.5 * d**2 if d <= 1 else d - 0.5
    expected = [2 / 9 * huber(1.0), 2 / 9 * huber(1 + 0.5**0.5), 2 / 9 * huber(1 - 0.5**0.5)]
    np.testing.assert_allclose(losses.angle_relation_loss(corner, line), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.distance_relation_loss, losses.angle_relation_loss])
def test_relations_know_neither_scale_nor_rotation_nor_place(loss):
    teacher = jax.random.normal(jax.random.key(0), (6, 3))
    rotation, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (3, 3)))
    np.testing.assert_allclose(loss(3.0 * teacher @ rotation + 1.0, teacher), np.zeros(6), atol=1e-6)
    gradient = jax.grad(lambda student: loss(student, teacher).sum())(jnp.ones((6, 3)))
    assert jnp.isfinite(gradient).all()


def test_ccc_loss_by_hand_and_masked():
    # x = (0, 1, 2), y = (0, 2, 4): cov 4/3, var 2/3 and 8/3, means differ by 1 -> CCC = (8/3) / (10/3 + 1) = 8/13.
    prediction = jnp.array([[0.0, 1.0], [2.0, jnp.nan]])
    label = jnp.array([[0.0, 2.0], [4.0, 7.0]])
    mask = jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(losses.ccc_loss(prediction, label, mask), 1 - 8 / 13, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda p: losses.ccc_loss(p, label, mask))(prediction)).all()


def test_ccc_loss_of_a_constant_is_one_and_differentiable():
    label = jnp.array([[0.1, 0.4, -0.3]])
    mask = jnp.ones((1, 3), bool)
    assert losses.ccc_loss(jnp.zeros((1, 3)), label, mask) == pytest.approx(1.0)
    assert jnp.isfinite(jax.grad(lambda p: losses.ccc_loss(p, label, mask))(jnp.zeros((1, 3)))).all()
