"""`avemo export`: what runs elsewhere gives what JAX gives, and its card says what it is."""

import json
import shutil
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import avemo
from test_train_fusion import train

from avemo.models import face as face_models
from avemo.models import fusion as fusion_models
from avemo.models.audio import AudioConfig
from avemo.models.densenet import DenseNetConfig
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.fusion import FusionConfig, FusionNetwork
from avemo.models.inception_resnet import InceptionResNetConfig
from avemo.models.mobilenet import MobileNetConfig
from avemo.models.recurrent import RecurrentConfig
from avemo.models.resnet import ResNetConfig
from avemo.post_processing import PostProcessing
from avemo.stages.fusion import FusionTraining
from launch import export
from launch.export import BOUND, PLATFORMS, onnx_maker, to_stablehlo
from launch.exported_parts import NEXT, STATE, audio_part, face_part, fusion_part
from launch.onnx_graph import to_onnx
from launch.parity import difference, largest_error, signals
from launch.train_fusion import FittedOnDev, Fusion

TRUNKS = {
    "residual": ResNetConfig(widths=(8, 8, 16), blocks=(1, 2)),
    "mobile": MobileNetConfig("small", width=0.25),
    "densenet": DenseNetConfig(growth=4, blocks=(2, 2), stem_channels=8),
    "inception": InceptionResNetConfig(width=0.125, blocks=(1, 1)),
}
TINY_FACE = FaceConfig(image_size=75, reduced_channels=16, dense_layers=1, growth=8, embedding_size=16)
NETWORKS = {
    "lstm": FusionConfig(face_size=16, projection=8, recurrent=RecurrentConfig("lstm", 8, layers=2)),
    "gru": FusionConfig(face_size=16, audio=AudioConfig(8, (1, 3)), recurrent=RecurrentConfig("gru", 8)),
}
FITTED = FittedOnDev({name: PostProcessing() for name in ("valence", "arousal")}, {"valence": 2.0, "arousal": 3.0}, 0.9)


def drawn(shapes):
    """Variables with something in all of them, statistics of batch normalisation too."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, np.prod(leaf.shape[:-1], initial=4.0) ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def over_time(network, modalities="fused"):
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: fusion_models.init_variables(FusionNetwork(network), key))
    return Fusion(FusionTraining(network=network, modalities=modalities), drawn(shapes), TINY_FACE, None)


def parts(network, dtype):
    return audio_part(over_time(network), dtype), fusion_part(over_time(network), FITTED, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_family_of_face_networks_gives_in_onnx_what_it_gives_in_jax(trunk, dtype):
    config = replace(TINY_FACE, trunk=TRUNKS[trunk], resolution=70 if trunk == "residual" else None)
    variables = drawn(face_models.variable_shapes(FaceNetwork(config)))
    _, run = onnx_maker()(face_part(config, variables, dtype))
    assert largest_error(run, face_part(config, variables, "float32")) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("make", [onnx_maker(), to_stablehlo], ids=["onnx", "stablehlo"])
@pytest.mark.parametrize("network", NETWORKS)
def test_audio_and_fusion_give_what_they_give_in_jax(network, make, dtype):
    for part, in_jax in zip(parts(NETWORKS[network], dtype), parts(NETWORKS[network], "float32"), strict=True):
        assert largest_error(make(part)[1], in_jax) <= BOUND[dtype], part.name


def test_the_bounds_are_those_that_are_stated():
    assert BOUND == {"float32": 1e-4, "float16": 1e-2}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_stream_in_random_chunks_from_a_state_of_zeros_gives_what_one_pass_gives(dtype):
    network, frames, rng = NETWORKS["lstm"], 120, np.random.default_rng(3)
    part = fusion_part(over_time(network), FITTED, dtype)
    _, run = onnx_maker()(part)
    whole = signals(part, 2, frames, rng)
    state = {name: np.zeros((2, *port.shape[1:]), np.float32) for name, port in part.inputs.items() if STATE in name}
    ends, chunks = sorted({*rng.choice(range(1, frames), 9, replace=False).tolist(), frames}), []
    for start, end in zip([0, *ends], ends, strict=False):
        outputs = run({name: value[:, start:end] for name, value in whole.items()} | state)
        state = {name: outputs[NEXT + name] for name in state}
        chunks.append(outputs)
    seen = (whole["face"], whole["face_valid"], whole["waveform"].reshape(2, -1), whole["voice_valid"])
    params = jax.tree.map(jnp.asarray, over_time(network).variables["params"])
    in_one_pass = FusionNetwork(network).apply({"params": params}, *map(jnp.asarray, seen), train=False)
    expected = {
        "valence_arousal": in_one_pass["valence_arousal"],
        "band": in_one_pass["spread"] * np.array([2.0, 3.0], np.float32),
    }
    for name, value in expected.items():
        assert difference(np.concatenate([each[name] for each in chunks], axis=1), np.asarray(value)) <= BOUND[dtype]


def test_a_network_for_one_modality_does_not_hear_the_other():
    part = fusion_part(over_time(NETWORKS["gru"], "face"), FITTED, "float32")
    _, run = onnx_maker()(part)
    inputs = signals(part, 1, 5, np.random.default_rng(0))
    state = {name: np.zeros((1, *port.shape[1:]), np.float32) for name, port in part.inputs.items() if STATE in name}
    loud, silent = (run(inputs | state | {"voice_valid": np.full((1, 5), valid)}) for valid in (True, False))
    np.testing.assert_array_equal(loud["valence_arousal"], silent["valence_arousal"])


def test_a_stablehlo_file_is_for_cpu_cuda_and_tpu_and_any_batch():
    config = replace(TINY_FACE, trunk=TRUNKS["residual"])
    part = face_part(config, drawn(face_models.variable_shapes(FaceNetwork(config))), "float32")
    exported = jax.export.deserialize(bytearray(to_stablehlo(part)[0]))
    assert exported.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    for batch in (1, 3):
        assert exported.call({"images": np.zeros((batch, 75, 75, 3), np.uint8)})["expression"].shape == (batch, 8)


def test_what_is_not_finite_is_infinitely_wrong():
    assert difference(np.array([1.0, np.nan]), np.array([1.0, 1.0])) == np.inf
    assert difference(np.array([np.inf]), np.array([np.inf])) == np.inf
    assert difference(np.zeros((2, 1)), np.zeros(2)) == np.inf
    assert difference(np.array([1.5, 101.0]), np.array([1.0, 100.0])) == 0.5


def test_what_there_is_no_rule_for_is_named():
    shapes = {"x": jax.ShapeDtypeStruct((3,), np.float32)}
    with pytest.raises(NotImplementedError, match="JAX's primitive sort"):
        to_onnx(lambda inputs: {"y": jnp.sort(inputs["x"])}, shapes, "sorted")


@pytest.fixture(scope="module")
def fused(tiny, face, tmp_path_factory):
    run = tmp_path_factory.mktemp("fused") / "fusion"
    train(tiny, face, run)
    return run


@pytest.mark.parametrize("file_format", ["onnx", "stablehlo"])
def test_a_fusion_becomes_three_files_and_a_card(fused, face, file_format, tmp_path):
    out = tmp_path / "exported"
    avemo("export", "--run", fused, "--out", out, "--format", file_format, "--dtype", "float16")
    names = [f"{part}.{file_format}" for part in ("face", "audio", "fusion")]
    assert {path.name for path in out.iterdir()} == {*names, "card.json", "README.md"}
    text, readme = (out / "card.json").read_text(), (out / "README.md").read_text()
    for path in (fused.parent, face.parent, out):
        assert str(path) not in text + readme
    card = json.loads(text)
    record = json.loads((fused / "run.json").read_text())
    assert card["run"]["trained_on"]["recola"] == record["inputs"]["recola"]
    assert card["run"]["face_network"]["trained_on"]["affectnet"]
    corpora = card["run"]["corpora"]
    assert {name: told["synthetic"] for name, told in corpora.items()} == {
        "affectnet": True,
        "fec": True,
        "recola": True,
    }
    assert (corpora["recola"]["partition"], corpora["recola"]["gold_standard"]) == ("A", "mean")
    assert "**Synthetic data.**" in readme
    assert card["expressions"][:2] == ["neutral", "happiness"]
    assert card["dimensions"] == ["valence", "arousal"]
    assert card["images"]["colour_order"] == "RGB"
    assert (card["images"]["mean"], card["images"]["std"]) == (127.5, 128.0)
    assert (card["sound"]["sample_rate_hz"], card["sound"]["hop_s"], card["frame_rate_hz"]) == (16_000, 0.01, 25)
    assert card["annotation_delay_s"] == {"valence": 1.0, "arousal": 1.0}
    assert card["band"]["factor_of_spread"].keys() == {"valence", "arousal"}
    assert card["files"].keys() == set(names)
    for name, file in card["files"].items():
        assert file["bytes"] == (out / name).stat().st_size
        assert file["largest_error_found"] <= card["parity"]["bound"] == 1e-2
    waveform = card["files"][names[2]]["inputs"]["waveform"]
    assert waveform["shape"] == ["batch", "frames", 640]
    for said in (
        "What it must not be used for",
        "RGB",
        "25 per second",
        "state_recurrent_0_0",
        card["run"]["fingerprint"][:12],
    ):
        assert said in readme


def test_a_face_network_becomes_one_file(face, tmp_path):
    avemo("export", "--run", face, "--out", tmp_path / "out", "--format", "onnx")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert list(card["files"]) == ["face.onnx"]
    assert card["parity"]["bound"] == 1e-4
    assert "sound" not in card


def test_what_can_not_be_exported_is_refused(face, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["export", "--out", out, "--format", "onnx", "--run"]
    with pytest.raises(SystemExit, match=r"is no training run: it has no run\.json"):
        avemo(*arguments, tmp_path)

    unfinished = shutil.copytree(face, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "checkpoints" / "2")
    with pytest.raises(SystemExit, match="of 2 steps: finish it with --resume"):
        avemo(*arguments, unfinished)

    monkeypatch.setitem(export.BOUND, "float32", -1.0)
    with pytest.raises(SystemExit, match=r"face\.onnx would be .* from what .* gives in JAX.*nothing was written"):
        avemo(*arguments, face)
    assert not out.exists()

    with monkeypatch.context() as context:
        context.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(SystemExit, match=r'pip install -e "\.\[export\]"'):
            avemo(*arguments, face)

    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="is not empty: give a new folder with --out"):
        avemo(*arguments, face)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
