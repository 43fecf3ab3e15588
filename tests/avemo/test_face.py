import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.face import (
    DEMO_STUDENT,
    DEMO_TEACHER,
    DENSENET_STUDENT,
    MOBILE_STUDENT,
    PAPER_TEACHER,
    SMALL_STUDENT,
    SMALL_TEACHER,
    TINY_STUDENT,
    FaceConfig,
    FaceNetwork,
    init_variables,
    normalise,
)
from avemo.models.inception_resnet import InceptionResNetConfig
from avemo.models.resnet import ResNetConfig

TINY = FaceConfig(
    image_size=16,
    trunk=ResNetConfig(widths=(8, 8), blocks=(1,)),
    reduced_channels=8,
    dense_layers=2,
    growth=4,
    embedding_size=16,
)


def images(config: FaceConfig, batch: int = 3) -> jax.Array:
    shape = (batch, config.image_size, config.image_size, 3)
    return jax.random.randint(jax.random.key(7), shape, 0, 256).astype(jnp.uint8)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda key: init_variables(FaceNetwork(TINY), key))(jax.random.key(0))


@partial(jax.jit, static_argnames="config")
def infer(variables, batch, config: FaceConfig = TINY):
    return FaceNetwork(config).apply(variables, batch, train=False)


def outputs_of(config: FaceConfig):
    network, batch = FaceNetwork(config), images(config)
    return jax.eval_shape(lambda key: network.init_with_output(key, batch, train=False)[0], jax.random.key(0))


def test_paper_teacher_has_the_papers_shapes():
    shapes = {name: value.shape for name, value in outputs_of(PAPER_TEACHER).items()}
    assert shapes == {
        "trunk_map": (3, 3, 3, 1792),
        "reduced_map": (3, 3, 3, 512),
        "dense_map": (3, 3, 3, 832),
        "embedding_map": (3, 3, 3, 128),
        "embedding": (3, 128),
        "triplet": (3, 32),
        "expression": (3, 8),
        "valence_arousal": (3, 2),
    }


@pytest.mark.parametrize(
    ("config", "parameters", "mflops"),
    [
        (PAPER_TEACHER, 15_555_626, 2020),
        (MOBILE_STUDENT, 3_117_146, 202),
        (DENSENET_STUDENT, 7_107_242, 2040),
        (SMALL_TEACHER, 1_686_378, 78.4),
        (SMALL_STUDENT, 230_182, 7.76),
        (TINY_STUDENT, 64_986, 2.5),
        (DEMO_TEACHER, 329_946, 8.3),
        (DEMO_STUDENT, 64_986, 1.85),
    ],
)
def test_presets_cost_what_their_docstrings_say(config, parameters, mflops):
    network = FaceNetwork(config)
    shapes = jax.eval_shape(lambda key: init_variables(network, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters
    lowered = jax.jit(lambda v, x: network.apply(v, x, train=False)).lower(shapes, images(config, batch=1))
    assert lowered.cost_analysis()["flops"] == pytest.approx(mflops * 1e6, rel=0.01)


def test_a_student_may_look_at_less_of_the_same_face():
    config = dataclasses.replace(TINY, resolution=TINY.image_size // 2)
    network = FaceNetwork(config)
    faces = images(config)
    variables = jax.jit(lambda: init_variables(network, jax.random.key(0)))()
    halved = jax.image.resize(faces.astype(jnp.float32), (len(faces), *(config.input_size,) * 2, 3), "linear")
    expected = FaceNetwork(dataclasses.replace(config, image_size=config.input_size, resolution=None)).apply(
        variables, halved, train=False
    )
    found = network.apply(variables, faces, train=False)
    np.testing.assert_allclose(found["expression"], expected["expression"], atol=1e-4)


@pytest.mark.parametrize("resolution", [0, 10_000])
def test_a_resolution_it_does_not_have_is_refused(resolution):
    with pytest.raises(ValueError, match="resolution is"):
        dataclasses.replace(TINY, resolution=resolution)


def test_images_are_standardised_as_facenet_does():
    np.testing.assert_array_equal(
        normalise(jnp.array([0, 127, 255], jnp.uint8).reshape(1, 1, 1, 3)).ravel(),
        np.array([-127.5, -0.5, 127.5]) / 128,
    )


def test_uint8_and_float_images_are_the_same(variables):
    from_uint8 = infer(variables, images(TINY))
    from_float = infer(variables, images(TINY).astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, from_uint8, from_float)


def test_heads(variables):
    out = infer(variables, images(TINY))
    np.testing.assert_allclose(jnp.linalg.norm(out["triplet"], axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(out["embedding"], out["embedding_map"].mean((1, 2)), atol=1e-6)
    head = variables["params"]["expression"]
    np.testing.assert_allclose(out["expression"], out["embedding"] @ head["kernel"] + head["bias"], atol=1e-5)
    assert jnp.abs(out["valence_arousal"]).max() <= 1


def test_dense_layers_keep_what_came_before(variables):
    out = infer(variables, images(TINY))
    assert out["dense_map"].shape[-1] == 8 + 2 * 4
    np.testing.assert_array_equal(out["dense_map"][..., :8], out["reduced_map"])


def test_inference_treats_every_image_by_itself(variables):
    whole = infer(variables, images(TINY))
    reversed_order = infer(variables, images(TINY)[::-1])
    np.testing.assert_allclose(whole["embedding"], reversed_order["embedding"][::-1], atol=1e-5)


def test_training_updates_statistics_and_reaches_every_parameter(variables):
    network, batch = FaceNetwork(TINY), images(TINY, batch=8)

    def loss(params):
        out, updated = network.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, batch, train=True, mutable=["batch_stats"]
        )
        heads = [out["triplet"][:, :4], out["expression"], out["valence_arousal"]]
        return sum(jnp.sum(head**2 * jnp.arange(head.shape[-1])) for head in heads), updated["batch_stats"]

    gradients, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(jnp.isfinite(leaf).all() and jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), updated, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_gradient_of_a_vanishing_triplet_embedding_is_finite(variables):
    network, params = FaceNetwork(TINY), variables["params"]
    zero_head = jax.tree.map(jnp.zeros_like, params["triplet"])

    def loss(head):
        changed = {**variables, "params": {**params, "triplet": head}}
        return network.apply(changed, images(TINY), train=False)["triplet"].sum()

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(zero_head)))


def test_bfloat16_leaves_parameters_statistics_and_heads_in_float32(variables):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    out, fresh = jax.jit(lambda key: FaceNetwork(config).init_with_output(key, images(config), train=False))(
        jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    assert {name for name, value in out.items() if value.dtype == jnp.float32} == {
        "embedding",
        "triplet",
        "expression",
        "valence_arousal",
    }
    full = infer(variables, images(TINY))
    half = infer(variables, images(TINY), config=config)
    np.testing.assert_allclose(half["expression"], full["expression"], atol=0.05)


def test_images_of_another_size_are_refused(variables):
    with pytest.raises(ValueError, match=r"expected \(batch, 16, 16, 3\)"):
        FaceNetwork(TINY).apply(variables, jnp.zeros((1, 17, 16, 3)), train=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"growth": 0}, "growth"),
        ({"dense_layers": -1}, "dense_layers"),
        ({"image_size": 48}, "too few"),
        ({"image_size": 30, "trunk": InceptionResNetConfig(stem_pool=False)}, "too few"),
    ],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FaceConfig(**wrong)


def test_a_grey_network_sees_coloured_and_grey_faces_alike(variables):
    batch = images(TINY)
    brightness = (batch * jnp.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)
    config = dataclasses.replace(TINY, colours="grey")
    coloured = infer(variables, batch, config)["embedding"]
    np.testing.assert_allclose(coloured, infer(variables, jnp.repeat(brightness, 3, -1))["embedding"], atol=1e-4)
    assert not np.allclose(coloured, infer(variables, batch)["embedding"], atol=1e-2)
