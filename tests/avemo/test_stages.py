"""The pure steps, on networks small enough to overfit a handful of examples."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo.augment import AugmentConfig
from avemo.models.audio import AudioConfig
from avemo.models.face import FaceConfig, FaceNetwork, check_trunk, init_variables
from avemo.models.fusion import FusionConfig, FusionNetwork
from avemo.models.recurrent import RecurrentConfig
from avemo.models.resnet import ResNetConfig
from avemo.stages import fusion, student, supervision, teacher
from avemo.stages.supervision import FaceTraining, SupervisionConfig, class_weights, label_losses
from avemo.training import OptimizerConfig, stream_key

NETWORK = FaceConfig(
    image_size=16,
    trunk=ResNetConfig(widths=(8, 16), blocks=(1,)),
    reduced_channels=16,
    dense_layers=1,
    growth=8,
    embedding_size=16,
    triplet_size=4,
)
EVEN = np.ones(8, np.float32)
TRAINING = FaceTraining(
    network=NETWORK,
    supervision=SupervisionConfig(alpha=1.0),
    augment=AugmentConfig(brightness=0.0, contrast=0.0, grey=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0, warmup_steps=5),
    steps=100,
    batch_size=8,
    triplet_batch_size=4,
)


def faces(count=8, triplets=4):
    rng = np.random.default_rng(0)
    return {
        "affectnet": {
            "image": jnp.asarray(rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)),
            "expression": jnp.arange(count, dtype=jnp.int32) % 8,
            "expression_valid": jnp.ones(count, bool),
            "valence_arousal": jnp.asarray(rng.uniform(-1, 1, (count, 2)).astype(np.float32)),
            "valence_arousal_valid": jnp.ones(count, bool),
            "index": jnp.arange(count),
            "epoch": jnp.zeros(count, jnp.int32),
        },
        "fec": {
            "image": jnp.asarray(rng.integers(0, 256, (triplets, 3, 16, 16, 3), dtype=np.uint8)),
            "kind": jnp.arange(triplets, dtype=jnp.int32) % 3,
            "faces": jnp.arange(3 * triplets).reshape(triplets, 3),
            "epoch": jnp.zeros(triplets, jnp.int32),
        },
    }


def fit(stage, batch, steps):
    state = jax.jit(stage.init)(stream_key(0, "init"))
    step = jax.jit(stage.train_step)
    history = []
    for _ in range(steps):
        state, terms = step(state, batch, *stage.frozen)
        history.append({name: float(value) for name, value in terms.items()})
    return state, history


@pytest.fixture(scope="module")
def taught():
    return fit(teacher.build(TRAINING, EVEN, seed=0), faces(), 100)


def test_the_teacher_overfits_a_tiny_batch(taught):
    _, history = taught
    assert history[-1]["expression"] < 0.2 < 1.5 < history[0]["expression"]
    assert history[-1]["valence_arousal"] < 0.1 * history[0]["valence_arousal"]
    assert history[-1]["triplet"] < 0.05


@pytest.mark.parametrize("match", ["cosine", "hint"])
def test_the_student_comes_to_imitate_its_teacher(taught, match):
    """In every way there is, and though its embedding has another size."""
    config = student.Distillation(
        **{**vars(TRAINING), "network": replace(NETWORK, reduced_channels=8, embedding_size=12)},
        labels_weight=0.0,
        embedding_match=match,
        angle_weight=1.0,
    )
    stage = student.build(config, EVEN, 0, [(NETWORK, taught[0].variables)])
    _, history = fit(stage, faces(), 60)
    for term in config.imitation_weights():
        assert history[-1][term] < 0.3 * history[0][term], term


def test_distillation_leaves_the_teacher_alone(taught):
    before = jax.tree.map(np.array, taught[0].variables)
    config = student.Distillation(**vars(TRAINING))
    fit(student.build(config, EVEN, 0, [(NETWORK, taught[0].variables)]), faces(), 2)
    jax.tree.map(np.testing.assert_array_equal, taught[0].variables, before)


def test_a_student_of_another_size_is_refused(taught):
    config = student.Distillation(**{**vars(TRAINING), "network": replace(NETWORK, image_size=14)})
    with pytest.raises(ValueError, match="student's image_size is 14, its teacher's 16"):
        student.build(config, EVEN, 0, [(NETWORK, taught[0].variables)])


def test_a_trunk_that_was_given_is_where_teacher_and_student_begin(taught):
    trunk = {name: taught[0].variables[name]["trunk"] for name in ("params", "batch_stats")}
    check_trunk(FaceNetwork(NETWORK), trunk)
    distillation = student.Distillation(**vars(TRAINING))
    for stage in (
        teacher.build(TRAINING, EVEN, 5, trunk),
        student.build(distillation, EVEN, 5, [(NETWORK, taught[0].variables)], trunk),
    ):
        state = jax.jit(stage.init)(stream_key(5, "init"))
        jax.tree.map(np.testing.assert_array_equal, {name: state.variables[name]["trunk"] for name in trunk}, trunk)
    with pytest.raises(ValueError, match="is none of ResNetConfig"):
        check_trunk(FaceNetwork(replace(NETWORK, trunk=ResNetConfig((8, 8), (1,)))), trunk)


def distilled_by(*teachers, steps=1, **settings):
    config = student.Distillation(**vars(TRAINING), **settings)
    return fit(student.build(config, EVEN, 0, [(NETWORK, each) for each in teachers]), faces(), steps)


def test_two_teachers_that_agree_teach_as_one(taught):
    variables = taught[0].variables
    (_, one), (_, two) = distilled_by(variables), distilled_by(variables, variables)
    for term in ("soft_targets", "taught_valence_arousal", "distances"):
        assert one[0][term] == pytest.approx(two[0][term], rel=1e-4)


def test_several_teachers_say_the_mean_of_their_probabilities():
    said = [{"expression": jnp.log(jnp.array([p]))} for p in ([0.8, 0.2], [0.4, 0.6])]
    others = {"embedding": jnp.ones((1, 2)), "valence_arousal": jnp.zeros((1, 2))}
    config = student.Distillation(temperature=1.0, distance_weight=0.0)
    projections = [{"kernel": jnp.eye(2), "bias": jnp.zeros(2)}] * 2
    mine = {"expression": jnp.log(jnp.array([[0.6, 0.4]]))} | others
    terms = student.imitation_losses(mine, [each | others for each in said], projections, {}, config)
    assert float(terms["soft_targets"]) == pytest.approx(0.0, abs=1e-6)


def test_what_only_training_needs_is_no_part_of_the_student(taught):
    state, _ = distilled_by(taught[0].variables)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(state.variables) == shapes(taught[0].variables)
    assert shapes(state.aids) == ({"kernel": (16, 16), "bias": (16,)},)


def test_faces_are_varied_by_their_place_and_epoch_and_with_views_by_nothing_else():
    config = replace(TRAINING, augment=AugmentConfig())
    batch = faces()
    at_epoch = lambda epoch: {name: part | {"epoch": part["epoch"] + epoch} for name, part in batch.items()}
    varied = lambda epoch, seed=0, views=0: supervision.training_faces(at_epoch(epoch), config, seed, views)
    assert jnp.array_equal(varied(1), varied(1))
    assert not jnp.array_equal(varied(1), varied(2))
    assert not jnp.array_equal(varied(1), varied(1, seed=1))
    assert jnp.array_equal(varied(1, views=3), varied(4, seed=1, views=3))
    assert not jnp.array_equal(varied(1, views=3), varied(2, views=3))


def test_for_a_grey_network_grey_faces_are_varied_as_for_one_that_sees_colours():
    batch = faces()
    batch = {name: part | {"image": jnp.repeat(part["image"][..., :1], 3, axis=-1)} for name, part in batch.items()}
    augment = AugmentConfig(zoom=0.2, rotation=10.0, shift=0.1, erase=0.3)
    in_colours = replace(TRAINING, augment=augment)
    in_grey = replace(in_colours, network=replace(NETWORK, colours="grey"))
    found, expected = (supervision.training_faces(batch, config, 0) for config in (in_grey, in_colours))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_view_is_shown_either_way_round_anew_in_every_epoch():
    batch = faces()
    at_epoch = lambda epoch: {name: part | {"epoch": part["epoch"] + epoch} for name, part in batch.items()}
    shown = lambda epoch, either_way: supervision.training_faces(
        at_epoch(epoch), TRAINING, 0, views=1, either_way=either_way
    )
    view, drawn = shown(0, False), []
    for epoch in range(4):
        found = shown(epoch, True)
        as_it_is = (found == view).all(axis=(1, 2, 3))
        assert (as_it_is | (found == view[:, :, ::-1]).all(axis=(1, 2, 3))).all()
        drawn.append(as_it_is)
    assert 0 < jnp.stack(drawn).mean() < 1
    assert not jnp.array_equal(drawn[0], drawn[1])


def test_a_teacher_that_looks_both_ways_says_the_mean_and_the_same_of_the_mirror_image(taught):
    images = supervision.training_faces(faces(), TRAINING, 0)
    says = lambda images, both_ways: student.teach(FaceNetwork(NETWORK), taught[0].variables, both_ways, images)[0]
    one, other, both = says(images, False), says(images[:, :, ::-1], False), says(images, True)
    for name, value in both.items():
        np.testing.assert_allclose(value, (one[name] + other[name]) / 2, atol=1e-6)
        np.testing.assert_allclose(value, says(images[:, :, ::-1], True)[name], atol=1e-6)


def test_faces_without_labels_teach_by_imitation_alone(taught):
    """They come last, change no loss against labels, and are imitated as all others are."""
    batch = faces()
    more = batch | {"unlabelled": {name: batch["affectnet"][name][:2] for name in ("image", "index", "epoch")}}
    plain = replace(TRAINING, augment=AugmentConfig())
    few, all_ = (supervision.training_faces(each, plain, 0) for each in (batch, more))
    np.testing.assert_array_equal(all_[: len(few)], few)
    assert len(all_) == len(few) + 2

    variables = taught[0].variables
    network = FaceNetwork(NETWORK)
    outputs, of_others = (network.apply(each, all_, train=False) for each in (variables, untrained(network)))
    first = lambda said: {name: value[: len(few)] for name, value in said.items()}
    labels = label_losses(outputs, more, EVEN, SupervisionConfig())
    assert labels == label_losses(first(outputs), batch, EVEN, SupervisionConfig())
    same = [{"kernel": jnp.eye(16), "bias": jnp.zeros(16)}]
    imitate = lambda mine, theirs, of: student.imitation_losses(
        mine, [theirs], same, of, student.Distillation(**vars(TRAINING))
    )
    whole = imitate(outputs, of_others, more)
    part = imitate(first(outputs), first(of_others), batch)
    rest = {name: value[len(few) :] for name, value in outputs.items()}
    of_rest = {name: value[len(few) :] for name, value in of_others.items()}
    of_unlabelled = imitate(rest, of_rest, {})["soft_targets"]
    mean = (len(few) * part["soft_targets"] + 2 * of_unlabelled) / (len(few) + 2)
    assert float(whole["soft_targets"]) == pytest.approx(float(mean), rel=1e-5)
    assert float(whole["distances"]) == pytest.approx(float(part["distances"]), rel=1e-6)  # FEC's alone


def untrained(network):
    return jax.jit(lambda: init_variables(network, jax.random.key(0)))()


def outputs_of(batch):
    network = FaceNetwork(NETWORK)
    images = jnp.concatenate([batch["affectnet"]["image"], batch["fec"]["image"].reshape(-1, 16, 16, 3)])
    return jax.jit(lambda v, x: network.apply(v, x, train=False))(untrained(network), images)


def test_the_loss_is_that_of_the_paper():
    batch = faces()
    terms = label_losses(outputs_of(batch), batch, EVEN, SupervisionConfig(alpha=0.1, valence_arousal_weight=2.0))
    expected = terms["triplet"] + 0.1 * (terms["expression"] + 2.0 * terms["valence_arousal"])
    assert float(terms["labels"]) == pytest.approx(float(expected))


def test_without_fec_alpha_plays_no_part():
    batch = faces()
    outputs, alone = outputs_of(batch), {"affectnet": batch["affectnet"]}
    terms = label_losses(outputs, alone, EVEN, SupervisionConfig(alpha=0.1))
    assert "triplet" not in terms
    assert float(terms["labels"]) == pytest.approx(float(terms["expression"] + terms["valence_arousal"]))


@pytest.mark.parametrize(("label", "other"), [("expression", 0), ("valence_arousal", -2.0)])
def test_a_missing_label_is_masked_whatever_it_holds(label, other):
    batch = faces()
    outputs = outputs_of(batch)
    labels = batch["affectnet"] | {f"{label}_valid": batch["affectnet"][f"{label}_valid"].at[3].set(False)}
    terms = [
        label_losses(outputs, {**batch, "affectnet": labels | {label: values}}, EVEN, SupervisionConfig())
        for values in (labels[label], labels[label].at[3].set(other))
    ]
    assert terms[0][label] == terms[1][label]
    assert terms[0][label] != label_losses(outputs, batch, EVEN, SupervisionConfig())[label]


def test_shares_of_raters_are_learnt_where_there_are_any():
    labels = faces(3)["affectnet"] | {
        "expression_valid": jnp.array([True, False, False]),
        "soft_label": jnp.zeros((3, 8)).at[1, :2].set(0.5),
        "soft_label_valid": jnp.array([False, True, False]),
    }
    target, has_target = supervision.expression_targets(labels, SupervisionConfig(soft_labels=True))
    np.testing.assert_array_equal(target[:2], [[1, 0, 0, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(has_target, [True, True, False])
    unrated = {name: value for name, value in labels.items() if not name.startswith("soft_label")}
    target, has_target = supervision.expression_targets(unrated, SupervisionConfig(soft_labels=True))
    np.testing.assert_array_equal(target, jax.nn.one_hot(labels["expression"], 8))
    np.testing.assert_array_equal(has_target, [True, False, False])
    target, has_target = supervision.expression_targets(labels, SupervisionConfig(label_smoothing=0.8))
    np.testing.assert_allclose(target[0], [0.3, *[0.1] * 7], rtol=1e-6)
    np.testing.assert_array_equal(has_target, [True, False, False])


def test_faces_without_any_expression_teach_none():
    batch = faces()
    batch["affectnet"]["expression_valid"] = jnp.zeros(8, bool)
    weights = class_weights((0,) * 8, "inverse_square_root")
    terms = label_losses(outputs_of(batch), batch, weights, SupervisionConfig())
    assert terms["expression"] == 0
    assert float(terms["labels"]) > 0


def test_class_weights_average_one_over_the_examples():
    counts = (100, 300, 0)
    np.testing.assert_array_equal(class_weights(counts, "none"), [1, 1, 0])
    for weighting, ratio in (("inverse_frequency", 3.0), ("inverse_square_root", np.sqrt(3.0))):
        weights = class_weights(counts, weighting)
        assert weights[0] / weights[1] == pytest.approx(ratio)
        assert (weights * counts).sum() / 400 == pytest.approx(1.0)
        assert weights[2] == 0


def test_evaluation_ignores_padding():
    network = FaceNetwork(NETWORK)
    variables = untrained(network)
    evaluate = jax.jit(lambda v, b: supervision.evaluate_faces(network, v, b))
    batch = {**faces()["affectnet"], "valid": jnp.ones(8, bool)}
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:3]]), batch)
    padded["valid"] = jnp.arange(11) < 8
    one, other = (evaluate(variables, {"affectnet": part}) for part in (batch, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_evaluation_counts_each_face_by_the_labels_it_has():
    network = FaceNetwork(NETWORK)
    batch = faces()["affectnet"] | {
        "valid": jnp.arange(8) != 7,
        "expression_valid": jnp.arange(8) < 2,
        "valence_arousal_valid": jnp.arange(8) > 2,
    }
    found = jax.jit(lambda v, b: supervision.evaluate_faces(network, v, {"affectnet": b}))(untrained(network), batch)
    np.testing.assert_array_equal(found["confusion_8"].counts_KxK.sum(axis=1), [1, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["valence_arousal"].count, [4, 4])


# --- fusion -------------------------------------------------------------------------------------------------

FUSION = fusion.FusionTraining(
    network=FusionConfig(
        face_size=4,
        audio=AudioConfig(features=8, dilations=(1,)),
        projection=8,
        recurrent=RecurrentConfig(features=16),
        dropout=0.0,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0, warmup_steps=5),
    steps=120,
    batch_size=4,
    window_s=0.8,
    annotation_delay_s=(0.2, 0.2),
    longest_delay_s=0.4,
    modality_dropout=0.0,
)


LABELS = ("labels", "labels_valid", "rating_mean", "rating_square")


def windows(batch=4, frames=20):
    rng = np.random.default_rng(1)
    labelled = frames + FUSION.reach_frames
    labels = np.sin(np.linspace(0, 6, batch * labelled * 2)).reshape(batch, labelled, 2).astype(np.float32)
    return {
        "face": jnp.asarray(rng.normal(size=(batch, frames, 4)).astype(np.float32)),
        "face_valid": jnp.ones((batch, frames), bool),
        "waveform": jnp.asarray(0.1 * rng.normal(size=(batch, frames * 640)).astype(np.float32)),
        "voice_valid": jnp.ones((batch, frames), bool),
        "labels": jnp.asarray(labels),
        "labels_valid": jnp.ones((batch, labelled), bool),
        "rating_mean": jnp.asarray(labels),
        "rating_square": jnp.asarray(labels**2 + 0.04),
    }


FUSION_NETWORK = FusionNetwork(FUSION.network)


def test_fusion_overfits_a_tiny_batch():
    _, history = fit(fusion.build(FUSION, seed=0), windows(), 120)
    assert history[-1]["loss"] < 0.15 < 0.7 < history[0]["loss"]


def test_modality_dropout_never_takes_both():
    kept = fusion.keep_modalities(jax.random.key(0), 1000, 0.3)
    assert kept.any(axis=1).all()
    np.testing.assert_allclose(1.0 - kept.mean(axis=0), [0.3, 0.3], atol=0.05)


def test_face_alone_hears_nothing_and_voice_alone_sees_nothing():
    stage = fusion.build(FUSION, seed=0)
    network = stage.eval_step.args[0]
    variables = jax.jit(stage.init)(jax.random.key(0)).variables
    predictions = jax.jit(lambda b: fusion.predict(network, None, variables, b))
    predict = lambda b: {name: found["valence_arousal"] for name, found in predictions(b).items()}
    batch, deaf, blind = windows(), windows(), windows()
    deaf["waveform"] = -deaf["waveform"] + 0.5
    blind["face"] = -3 * blind["face"]
    plain, other_voice, other_face = (predict(b) for b in (batch, deaf, blind))
    np.testing.assert_allclose(plain["face"], other_voice["face"], atol=1e-6)
    np.testing.assert_allclose(plain["voice"], other_face["voice"], atol=1e-6)
    assert not np.allclose(plain["fused"], other_voice["fused"])
    assert not np.allclose(plain["fused"], other_face["fused"])


def test_a_network_that_learned_from_one_modality_is_never_given_the_other():
    stage = fusion.build(FUSION, seed=0)
    variables = jax.jit(stage.init)(jax.random.key(0)).variables
    predict = lambda learned_from: fusion.predict(stage.eval_step.args[0], None, variables, windows(), learned_from)
    both = predict("fused")
    for name in ("face", "voice"):
        alone = predict(name)
        assert set(alone) == {name}
        np.testing.assert_allclose(alone[name]["valence_arousal"], both[name]["valence_arousal"], atol=1e-6)
    voices = fusion.build(replace(FUSION, modalities="voice"), seed=0)
    assert set(jax.jit(voices.eval_step)(variables, windows())) == {"voice"}


def test_scores_ignore_padded_frames():
    stage = fusion.build(FUSION, seed=0)
    variables = jax.jit(stage.init)(jax.random.key(0)).variables
    evaluate = jax.jit(stage.eval_step)
    batch = {name: value[:, :20] if name in LABELS else value for name, value in windows().items()}
    padded = {
        name: jnp.pad(value, [(0, 0), (0, value.shape[1] // 2)] + [(0, 0)] * (value.ndim - 2))
        for name, value in batch.items()
    }
    one, other = (evaluate(variables, part) for part in (batch, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def stateful_state(batch, config):
    stage = fusion.build(config, seed=0)
    return jax.jit(stage.init)(stream_key(0, "init")), jax.jit(stage.train_step)


def test_a_carried_state_begins_anew_only_where_it_is_told_to():
    config = replace(FUSION, stateful=True, stride_s=FUSION.window_s)
    batch = windows()
    state, step = stateful_state(batch, config)
    everywhere = {**batch, "begins": jnp.ones(4, bool)}
    after, _ = step(state, everywhere)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(after.carry))
    rows = jnp.array([True, False, True, False])
    frozen = after.replace(params=state.params)
    mixed, fresh = step(frozen, {**batch, "begins": rows})[0], step(frozen, everywhere)[0]
    for one, other in zip(jax.tree.leaves(mixed.carry.recurrent), jax.tree.leaves(fresh.carry.recurrent), strict=True):
        np.testing.assert_allclose(one[::2], other[::2], atol=1e-6)
        assert not np.allclose(one[1::2], other[1::2], atol=1e-6)


def test_a_learned_delay_finds_the_true_one():
    frames, true_s = 200, 0.36
    rng = np.random.default_rng(0)
    felt = np.cumsum(rng.normal(size=(4, frames + 40, 2)), axis=1)
    felt = (felt - felt.mean(1, keepdims=True)) / felt.std(1, keepdims=True) / 3
    noted = np.pad(felt, ((0, 0), (9, 0), (0, 0)), mode="edge")[:, : frames + 40].astype(np.float32)
    labels = jnp.asarray(noted)
    # A face that shows what is felt; the network needs no memory, and a delay is the only thing to learn.
    batch = windows(4, frames) | {
        "face": jnp.asarray(np.concatenate([felt, -felt], axis=-1)[:, :frames], jnp.float32),
        "labels": labels,
        "labels_valid": jnp.ones(labels.shape[:2], bool),
        "rating_mean": labels,
        "rating_square": labels**2,
    }
    config = replace(
        FUSION,
        window_s=frames / 25,
        delay="learned",
        annotation_delay_s=(0.6, 0.8),
        longest_delay_s=1.5,
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0, warmup_steps=5),
        steps=300,
    )
    state, _ = fit(fusion.build(config, seed=0), batch, 300)
    # Within two frames: the rest the network's memory makes up for.
    np.testing.assert_allclose(state.params[fusion.DELAY], true_s, atol=0.08)


def test_a_given_delay_stays():
    state, _ = fit(fusion.build(FUSION, seed=0, delay_s=(0.12, 0.2)), windows(), 3)
    np.testing.assert_allclose(state.params[fusion.DELAY], [0.12, 0.2], rtol=1e-6)


def test_the_spread_learns_how_far_raters_lie_from_the_prediction_and_changes_nothing_else():
    state, history = fit(fusion.build(FUSION, seed=0), windows(), 120)
    without, _ = fit(fusion.build(replace(FUSION, spread_weight=0.0), seed=0), windows(), 120)
    predict = jax.jit(lambda params: fusion.predict(FUSION_NETWORK, None, {"params": params}, windows())["fused"])
    found = predict(state.params)
    assert history[-1]["spread"] < history[0]["spread"]
    # Only through the clipping of the gradient as a whole.
    np.testing.assert_allclose(found["valence_arousal"], predict(without.params)["valence_arousal"], atol=5e-3)
    # The raters differ by 0.2, and the prediction errs a little on top.
    assert 0.15 < float(jnp.median(found["spread"])) < 0.3


def test_a_network_for_the_voice_alone_never_sees_a_face():
    config = replace(FUSION, modalities="voice")
    one, _ = fit(fusion.build(config, seed=0), windows(), 3)
    other, _ = fit(fusion.build(config, seed=0), windows() | {"face": jnp.zeros((4, 20, 4))}, 3)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_a_face_network_that_learns_is_changed_and_scored():
    config = replace(FUSION, face_learns=True, network=replace(FUSION.network, face_size=16))
    network = FaceNetwork(NETWORK)
    variables = init_variables(network, jax.random.key(3))
    stage = fusion.build(config, seed=0, face=(network, variables))
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 16, 16, 3), np.uint8)
    batch = {name: value for name, value in windows().items() if name != "face"} | {"frames": jnp.asarray(frames)}
    state, history = fit(stage, batch, 12)
    assert history[-1]["loss"] < history[0]["loss"]
    before, after = variables["params"], state.params[fusion.FACE_NETWORK]
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], state.batch_stats)
    assert jax.jit(stage.eval_step)(state.variables, batch)["face"].count.min() > 0
