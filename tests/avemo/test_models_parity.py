"""The networks against their twins in torch: same weights in, same numbers out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.augment import AugmentConfig
from avemo.models.densenet import DenseLayer
from avemo.models.face import DEMO_STUDENT, DEMO_TEACHER, PAPER_TEACHER, FaceNetwork, init_variables
from avemo.models.fusion import DEMO_FUSION, FusionNetwork
from avemo.models.fusion import init_variables as init_fusion
from avemo.models.inception_resnet import Block17, Block35, InceptionResNetConfig
from avemo.models.layers import ConvNorm
from avemo.models.recurrent import Recurrent, RecurrentConfig, initial_carry
from avemo.stages import fusion, student, teacher

torch = pytest.importorskip("torch", reason="torch isn't installed (make torch)")
from launch.benchmarks import torch_training, torch_twins  # noqa: E402

pytestmark = pytest.mark.parity


def perturbed(variables):
    """Running variances and scales away from one, means and biases away from zero."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), variables)


def initialised(module, *inputs):
    return perturbed(jax.jit(lambda key: module.init(key, *inputs))(jax.random.key(1)))


def tensor(array):
    return torch.from_numpy(np.array(array))


def nchw(array):
    return tensor(array).permute(0, 3, 1, 2)


def loaded(twin, variables):
    torch_twins.load(twin, variables)
    return twin.eval()


def assert_same_maps(ours, theirs, atol=1e-5):
    np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1).numpy(), atol=atol)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [
        ((1, 1), 1, "VALID", 9),
        ((1, 1), 2, "SAME", 8),
        ((3, 3), 1, "VALID", 9),
        ((3, 3), 2, "VALID", 9),
        ((3, 3), 1, "SAME", 9),
        ((3, 3), 2, "SAME", 9),
        ((3, 3), 2, "SAME", 8),
    ],
)
def test_conv_norm(train, kernel, stride, padding, side):
    layer = ConvNorm(6, kernel, stride, padding)
    maps = jax.random.normal(jax.random.key(0), (4, side, side, 5))
    variables = initialised(layer, maps, False)
    twin = loaded(torch_twins.ConvNorm(5, 6, kernel, stride, padding), variables).train(train)
    ours, updated = jax.jit(lambda v, x: layer.apply(v, x, train=train, mutable=["batch_stats"]))(variables, maps)
    assert_same_maps(ours, twin(nchw(maps)))
    running = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], twin.bn.running_mean, atol=1e-6)
    # torch keeps the unbiased variance: n / (n - 1) of ours.
    count = ours.size // ours.shape[-1]
    np.testing.assert_allclose(running["var"], twin.bn.running_var, rtol=0.2 / count)


@pytest.mark.parametrize(
    ("block", "channels", "twin"),
    [
        (Block35, 256, torch_twins.block35(InceptionResNetConfig())),
        (Block17, 896, torch_twins.block17(InceptionResNetConfig(), 896)),
    ],
)
def test_residual_block(block, channels, twin):
    module = block(InceptionResNetConfig())
    maps = jax.random.normal(jax.random.key(0), (2, 7, 7, channels))
    variables = initialised(module, maps, False)
    ours = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, maps)
    assert_same_maps(ours, loaded(twin, variables)(nchw(maps)), atol=1e-4)


def test_dense_layer():
    layer = DenseLayer(4)
    maps = jax.random.normal(jax.random.key(0), (2, 3, 3, 10))
    variables = initialised(layer, maps, False)
    ours = jax.jit(lambda v, x: layer.apply(v, x, train=False))(variables, maps)
    assert_same_maps(ours, loaded(torch_twins.DenseLayer(10, 4), variables)(nchw(maps)))


def random_faces(count, size, key=0):
    return jax.random.randint(jax.random.key(key), (count, size, size, 3), 0, 256).astype(jnp.uint8)


@pytest.mark.parametrize(
    "config",
    [
        DEMO_TEACHER,
        DEMO_STUDENT,
        pytest.param(PAPER_TEACHER, marks=pytest.mark.slow),
    ],
    ids=["demo teacher", "demo student", "paper teacher"],
)
def test_face_network(config):
    network = FaceNetwork(config)
    images = random_faces(3, config.image_size)
    variables = perturbed(jax.jit(lambda: init_variables(network, jax.random.key(1)))())
    ours = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images)
    with torch.no_grad():
        theirs = loaded(torch_twins.FaceNetwork(config), variables)(tensor(images))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        expected = theirs[name].permute(0, 2, 3, 1) if value.ndim == 4 else theirs[name]
        np.testing.assert_allclose(value, expected, atol=1e-4 * float(jnp.abs(value).max()), err_msg=name)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent(kind):
    config = RecurrentConfig(kind, features=6, layers=2)
    inputs = jax.random.normal(jax.random.key(0), (3, 11, 5))
    carry = jax.tree.map(lambda leaf: leaf + 0.3, initial_carry(config, 3))
    variables = initialised(Recurrent(config), inputs, carry)
    ours, ours_carry = jax.jit(Recurrent(config).apply)(variables, inputs, carry)

    states = [torch.full((2, 3, 6), 0.3) for _ in carry[0]]
    twin = loaded(torch_twins.recurrent(5, config), variables)
    theirs, theirs_carry = twin(tensor(inputs), tuple(states) if kind == "lstm" else states[0])
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
    theirs_carry = theirs_carry if kind == "lstm" else (theirs_carry,)
    for i, layer in enumerate(ours_carry):
        for state, reference_state in zip(layer, theirs_carry, strict=True):
            np.testing.assert_allclose(state, reference_state[i].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_of_the_recurrent_network(kind):
    config = RecurrentConfig(kind, features=6, layers=2)
    inputs = jax.random.normal(jax.random.key(0), (3, 11, 5))
    variables = initialised(Recurrent(config), inputs, initial_carry(config, 3))

    def loss(params):
        return (Recurrent(config).apply({"params": params}, inputs, initial_carry(config, 3))[0] ** 2).sum()

    gradients = torch_twins.torch_state(jax.jit(jax.grad(loss))(variables["params"]))
    twin = loaded(torch_twins.recurrent(5, config), variables)
    twin(tensor(inputs))[0].square().sum().backward()
    for name, parameter in twin.named_parameters():
        if "bias_hh" not in name:  # its share is in the other bias
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-5)


def windows(batch=2, frames=12):
    labelled = frames + fusion.DEMO.reach_frames
    labels = jax.random.uniform(jax.random.key(5), (batch, labelled, 2), minval=-1)
    keys = jax.random.split(jax.random.key(0), 5)
    return {
        "face": jax.random.normal(keys[0], (batch, frames, DEMO_FUSION.face_size)),
        "face_valid": jax.random.bernoulli(keys[1], 0.7, (batch, frames)),
        "waveform": 0.1 * jax.random.normal(keys[2], (batch, 640 * frames)),
        "voice_valid": jax.random.bernoulli(keys[3], 0.7, (batch, frames)),
        "labels": labels,
        "labels_valid": jnp.arange(labelled)[None] < jnp.array([[frames + 40], [labelled]]),
        "rating_mean": labels,
        "rating_square": labels**2 + 0.1,
    }


FUSION_INPUTS = ("face", "face_valid", "waveform", "voice_valid")


def test_fusion_network():
    network, batch = FusionNetwork(DEMO_FUSION), windows()
    variables = perturbed(jax.jit(lambda: init_fusion(network, jax.random.key(1)))())
    inputs = [batch[name] for name in FUSION_INPUTS]
    ours = jax.jit(lambda v, *x: network.apply(v, *x, train=False))(variables, *inputs)
    theirs = loaded(torch_twins.FusionNetwork(DEMO_FUSION), variables)(*map(tensor, inputs))
    for name in ("valence_arousal", "spread"):
        np.testing.assert_allclose(ours[name], theirs[name].detach().numpy(), atol=1e-5)


def labelled_faces(size, faces=6, triplets=2):
    triplet_faces = random_faces(3 * triplets, size, key=2).reshape(triplets, 3, size, size, 3)
    return {
        "affectnet": {
            "image": random_faces(faces, size),
            "expression": jnp.arange(faces, dtype=jnp.int32),
            "expression_valid": jnp.arange(faces) != 1,
            "valence_arousal": jax.random.uniform(jax.random.key(3), (faces, 2), minval=-1),
            "valence_arousal_valid": jnp.arange(faces) != 2,
            "index": jnp.arange(faces),
            "epoch": jnp.zeros(faces, jnp.int32),
        },
        "fec": {
            "image": triplet_faces,
            "kind": jnp.array([0, 2], jnp.int32),
            "faces": jnp.arange(3 * triplets).reshape(triplets, 3),
            "epoch": jnp.zeros(triplets, jnp.int32),
        },
    }


def linear(params):
    return torch.nn.Linear(*params["kernel"].shape)


def assert_same_losses(stage, step_of, network, batch, atol):
    """The losses of three steps: the first is that of the networks, those after it of the optimisers too."""
    state = jax.jit(stage.init)(jax.random.key(4))
    torch_twins.load(network, state.variables)
    theirs = step_of(network.train(), *(loaded(linear(each), {"params": each}) for each in state.aids))
    ours = jax.jit(stage.train_step)
    for _ in range(3):
        state, metrics = ours(state, batch, *stage.frozen)
        expected = float(theirs(torch_training.to_tensors(batch, "cpu")))
        assert float(metrics["loss"]) == pytest.approx(expected, abs=atol)


def symmetric(batch):
    """Faces that are their own mirror images, so that nothing is left to chance without crops and changes of light."""
    mirrored = lambda leaf: jnp.maximum(leaf, leaf[..., ::-1, :]) if leaf.dtype == jnp.uint8 else leaf
    return jax.tree.map(mirrored, batch)


FIXED = AugmentConfig(brightness=0.0, contrast=0.0, grey=0.0)
EVEN = np.ones(8, np.float32)


def test_the_teachers_losses():
    config = replace(teacher.DEMO, augment=FIXED, batch_size=6, triplet_batch_size=2)
    assert_same_losses(
        teacher.build(config, EVEN, seed=0),
        lambda network: torch_training.teacher_step(network, config, torch.ones(8)),
        torch_twins.FaceNetwork(config.network),
        symmetric(labelled_faces(config.network.image_size)),
        atol=1e-3,
    )


def test_the_students_losses():
    config = replace(student.DEMO, augment=FIXED, batch_size=6, triplet_batch_size=2)
    variables = perturbed(jax.jit(lambda: init_variables(FaceNetwork(DEMO_TEACHER), jax.random.key(1)))())
    taught_by = loaded(torch_twins.FaceNetwork(DEMO_TEACHER), variables)
    assert_same_losses(
        student.build(config, EVEN, 0, [(DEMO_TEACHER, variables)]),
        lambda network, projection: torch_training.student_step(network, taught_by, projection, config, torch.ones(8)),
        torch_twins.FaceNetwork(config.network),
        symmetric(labelled_faces(config.network.image_size)),
        atol=1e-3,
    )


def test_the_fusion_networks_losses():
    config = replace(fusion.DEMO, network=replace(DEMO_FUSION, dropout=0.0), modality_dropout=0.0)
    assert_same_losses(
        fusion.build(config, seed=0),
        lambda network: torch_training.fusion_step(network, config),
        torch_twins.FusionNetwork(config.network),
        windows(),
        atol=1e-4,
    )
