from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.models.audio import AudioConfig
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.face import init_variables as init_face
from avemo.models.fusion import FusionConfig, FusionNetwork, init_variables
from avemo.models.recurrent import RecurrentConfig
from avemo.models.resnet import ResNetConfig
from avemo.stages.fusion import FusionTraining
from data_pipelines.faces import FACE_TEMPLATE, CropConfig, align_by_landmarks
from data_pipelines.sound import VOICE_FRAMES
from launch.mesh import data_mesh, replicated
from launch.streaming import LONGEST_WAIT_FRAMES, FramePairs, StreamingPredictor, StreamModel, look_at
from launch.train_fusion import Fusion

FACE = FaceConfig(
    image_size=16,
    trunk=ResNetConfig(widths=(8, 16), blocks=(1,)),
    reduced_channels=16,
    dense_layers=0,
    embedding_size=8,
    triplet_size=4,
)
FUSION = FusionConfig(
    face_size=8,
    audio=AudioConfig(features=8, dilations=(1, 2)),
    projection=8,
    recurrent=RecurrentConfig("lstm", 8, 2),
)
T = 90


@pytest.fixture(scope="module")
def trained():
    return Fusion(
        config=replace(FusionTraining(), network=FUSION),
        variables=jax.jit(lambda: init_variables(FusionNetwork(FUSION), jax.random.key(0)))(),
        face_config=FACE,
        face_variables=jax.jit(lambda: init_face(FaceNetwork(FACE), jax.random.key(1)))(),
    )


@pytest.fixture(scope="module")
def model(trained):
    return StreamModel.of_fusion(trained, CropConfig(size=16), (1.0, 2.0))


@pytest.fixture(scope="module")
def stream():
    """Faces that come and go, and sound with a pause longer than the predictor waits."""
    rng = np.random.default_rng(0)
    faces = list(rng.integers(0, 256, (T, 16, 16, 3), np.uint8))
    for missing in (0, 1, 20, 21, 22, 60):
        faces[missing] = None
    sound = 0.1 * rng.standard_normal(640 * T).astype(np.float32)
    sound[640 * 10 : 640 * 70] = 0
    return faces, sound


def offline(trained, faces, sound):
    """One pass over the whole; nothing of the streaming code."""
    face_valid = np.array([face is not None for face in faces])
    pictures = np.stack([np.zeros((16, 16, 3), np.uint8) if face is None else face for face in faces])
    seen = FaceNetwork(FACE).apply(trained.face_variables, jnp.asarray(pictures), train=False)
    voice_valid = np.ones(T, bool)
    voice_valid[10 + VOICE_FRAMES : 70] = False
    outputs = FusionNetwork(FUSION).apply(
        trained.variables,
        *(seen["embedding"][None], *(jnp.asarray(part)[None] for part in (face_valid, sound, voice_valid))),
        train=False,
    )
    expression = np.where(face_valid[:, None], jax.nn.softmax(seen["expression"]), np.nan)
    return face_valid, voice_valid, expression, outputs["valence_arousal"][0], outputs["spread"][0] * jnp.array([1, 2])


def together(parts):
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step_frames", [1, 7])
def test_a_stream_in_any_chunks_gives_what_one_pass_over_the_whole_gives(trained, model, stream, seed, step_frames):
    faces, sound = stream
    predictor, rng = StreamingPredictor(model, step_frames), np.random.default_rng(seed)
    parts, shown, heard = [], 0, 0
    while shown < T or heard < len(sound):
        pictures, samples = int(rng.integers(0, 9)), int(rng.integers(0, 5_000))
        parts += predictor.feed(faces[shown : shown + pictures], sound[heard : heard + samples])
        shown, heard = shown + pictures, heard + samples
        predicted = sum(len(part.spread) for part in parts)
        ready = min(shown, T, heard // 640, T) // step_frames * step_frames
        assert predicted == ready
    parts += predictor.finish()
    for found, expected in zip(together(parts), offline(trained, faces, sound), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_is_compiled_after_the_first_step_however_the_variables_were_loaded(trained, stream):
    loaded = jax.device_put((trained.variables, trained.face_variables), replicated(data_mesh()))
    trained = replace(trained, variables=loaded[0], face_variables=loaded[1])
    model = StreamModel.of_fusion(trained, CropConfig(size=16), (1.0, 2.0))
    predictor = StreamingPredictor(model)
    predictor.feed(stream[0][2:7], stream[1][: 5 * 640])
    assert model.step._cache_size() == 1


def test_nothing_is_compiled_after_the_first_step_whatever_streams_there_are(model, stream):
    faces, sound = stream
    StreamingPredictor(model, step_frames=3).feed(faces[:3], sound[: 3 * 640])
    compiled = model.step._cache_size()
    predictor = StreamingPredictor(model, step_frames=3)
    predictor.feed(faces, sound)
    sizes = {leaf.size for leaf in jax.tree.leaves(predictor._carry)}
    predictor.feed(faces, sound)
    assert model.step._cache_size() == compiled
    assert {leaf.size for leaf in jax.tree.leaves(predictor._carry)} == sizes


def test_pictures_alone_and_sound_alone_wait_for_nothing(model, stream):
    faces, sound = stream
    seen = StreamingPredictor(model, has_sound=False).feed(faces)
    heard = StreamingPredictor(model, has_video=False).feed(sound=sound)
    assert len(seen) == len(heard) == T
    assert np.isnan(together(heard)[2]).all()
    silent = StreamingPredictor(model).feed(faces, np.zeros_like(sound))
    np.testing.assert_allclose(together(seen)[3], together(silent)[3], atol=1e-6)


def test_what_is_left_at_the_end_is_predicted_with_silence(model, stream):
    faces, sound = stream
    predictor = StreamingPredictor(model, step_frames=4)
    found = predictor.feed(faces[:10], sound[: 7 * 640 + 100])
    assert sum(len(part.spread) for part in found) == 4
    assert [len(part.spread) for part in predictor.finish()] == [4, 2]
    assert predictor.finish() == []


def test_what_does_not_belong_to_the_stream_is_refused(model):
    with pytest.raises(ValueError, match="expected \\(16, 16, 3\\)"):
        StreamingPredictor(model).feed([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ValueError, match="that has none"):
        StreamingPredictor(model, has_sound=False).feed(sound=np.zeros(10, np.float32))
    with pytest.raises(ValueError, match="pictures or sound"):
        StreamingPredictor(model, has_video=False, has_sound=False)


def test_predictions_lie_where_they_should(model, stream):
    _, _, expression, valence_arousal, spread = together(StreamingPredictor(model).feed(*stream))
    np.testing.assert_allclose(np.nansum(expression, axis=1)[2:20], 1, rtol=1e-5)
    assert np.abs(valence_arousal).max() < 1
    assert spread.min() > 0
    assert np.isnan(expression[0]).all()


@pytest.mark.parametrize("modalities", ["face", "voice"])
def test_a_network_that_learned_from_one_modality_is_never_given_the_other(trained, model, stream, modalities):
    faces, sound = stream
    config = replace(trained.config, modalities=modalities)
    one = StreamModel.of_fusion(replace(trained, config=config), CropConfig(size=16), (1.0, 2.0))
    found = together(StreamingPredictor(one).feed(faces, sound))
    nothing = (faces, 0 * sound) if modalities == "face" else ([None] * T, sound)
    expected = together(StreamingPredictor(model).feed(*nothing))
    np.testing.assert_allclose(found[3], expected[3], atol=1e-6)
    assert one.hears == (modalities == "voice")
    assert not np.isnan(found[2][5]).any()  # the face network tells expressions all the same


@pytest.mark.parametrize("rates", [True, False])
def test_a_face_network_alone_predicts_frame_by_frame(trained, stream, rates):
    faces, sound = stream
    model = StreamModel.of_face(FACE, trained.face_variables, CropConfig(size=16), rates)
    face_valid, _, expression, valence_arousal, spread = together(StreamingPredictor(model, 5).feed(faces, sound))
    said = FaceNetwork(FACE).apply(trained.face_variables, jnp.asarray(np.stack([faces[5], faces[9]])), train=False)
    np.testing.assert_allclose(expression[[5, 9]], jax.nn.softmax(said["expression"]), atol=1e-6)
    assert np.isnan(spread).all()
    assert np.isnan(valence_arousal[~face_valid]).all()
    if rates:
        np.testing.assert_allclose(valence_arousal[[5, 9]], said["valence_arousal"], atol=1e-6)
    else:
        assert np.isnan(valence_arousal).all()


def test_a_crop_is_the_middle_of_what_training_saw(trained):
    model = StreamModel.of_face(FACE, trained.face_variables, CropConfig(size=20), True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    landmarks = FACE_TEMPLATE * 30 + 17
    seen_in_training = align_by_landmarks(image, landmarks, CropConfig(size=20))
    np.testing.assert_array_equal(model.cut(image, landmarks), seen_in_training[2:18, 2:18])


def fed(pairs, pictures, samples):
    pairs.take(pictures, np.full(samples, 0.5, np.float32))
    return pairs.give(pairs.ready())


def test_a_stream_does_not_wait_for_sound_that_has_ended_and_leaves_out_what_comes_late():
    pairs = FramePairs(True, True)
    pictures, sound = fed(pairs, range(LONGEST_WAIT_FRAMES + 5), 2 * 640 + 320)
    assert pictures == [0, 1, 2, 3, 4]
    assert np.flatnonzero(sound).max() == 2 * 640 + 319
    pictures, sound = fed(pairs, [], 320 + 2 * 640 + 640)  # what was missing, and the next frame
    assert pictures == [5]
    assert (sound == 0.5).all()


def test_a_stream_does_not_wait_for_pictures_that_have_ended():
    pairs = FramePairs(True, True)
    pictures, sound = fed(pairs, ["a"], 640 * (LONGEST_WAIT_FRAMES + 3))
    assert pictures == ["a", None, None]
    assert len(sound) == 3 * 640
    assert fed(pairs, ["late", "late", "b"], 0)[0] == ["b"]
    assert pairs.left() == 0


def test_memory_stays_constant_when_sound_or_pictures_end_early():
    pairs = FramePairs(True, True)
    for _ in range(10 * LONGEST_WAIT_FRAMES):
        fed(pairs, [1], 0)
    assert pairs.left() == LONGEST_WAIT_FRAMES


def test_sound_that_goes_on_after_pictures_were_given_up_is_predicted_to_its_end():
    pairs = FramePairs(True, True)
    fed(pairs, ["a"], 640 * (LONGEST_WAIT_FRAMES + 3))
    assert pairs.left() == LONGEST_WAIT_FRAMES


def test_a_picture_gives_what_a_face_that_lasts_gives(model):
    face = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    lasting = StreamingPredictor(model, 25, has_sound=False).feed([face] * 125)[-1]
    once = look_at(model, face)
    assert [len(part) for part in once] == [1] * 5
    for name in ("expression", "valence_arousal", "spread"):
        np.testing.assert_allclose(getattr(once, name)[0], getattr(lasting, name)[-1], atol=1e-5)
