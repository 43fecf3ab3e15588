import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from data_pipelines.releases.recola import load_partition
from data_pipelines.synthetic.recola import PRESETS, SyntheticRecolaConfig, _ceilings, _plan, _sample_raters, synthesize

TINY = PRESETS["tiny"]
FRAMES = round(TINY.duration_s * 25)
SEED = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recola")
    synthesize(root, TINY, SEED)
    return root


def truth(root: Path) -> dict:
    return json.loads((root / "truth.json").read_text())


def annotation(root: Path, dimension: str, name: str) -> np.ndarray:
    path = root / "RECOLA-Annotation" / "emotional_behaviour" / dimension / f"{name}.csv"
    return np.loadtxt(path, delimiter=";", skiprows=1)


def lag_frames(late: np.ndarray, early: np.ndarray, most: int) -> int:
    """By how many frames `late` must be moved forward to correlate best with `early`."""
    scores = [np.corrcoef(late[lag : lag + len(early) - most], early[: len(early) - most])[0, 1] for lag in range(most)]
    return int(np.argmax(scores))


@pytest.mark.parametrize("dimension", ["valence", "arousal"])
def test_annotations_have_the_releases_form(corpus: Path, dimension: str) -> None:
    for name in ("P45", "P28", "P16"):
        path = corpus / "RECOLA-Annotation" / "emotional_behaviour" / dimension / f"{name}.csv"
        assert path.read_text().splitlines()[0] == "time;FM1 ;FM2 ;FM3 ;FF1 ;FF2 ;FF3"
        table = annotation(corpus, dimension, name)
        assert table.shape == (FRAMES + 1, 7)
        np.testing.assert_allclose(table[:, 0], 0.04 * np.arange(FRAMES + 1), atol=1e-9)
        assert np.abs(table[:, 1:]).max() <= 1.0


def test_video_has_25_frames_a_second_and_the_sound(corpus: Path) -> None:
    with av.open(str(corpus / "RECOLA-Video-recordings" / "P16.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.codec_context.name == "h264"
        assert video.codec_context.pix_fmt == "yuv420p"
        assert (video.width, video.height) == (TINY.frame_size, TINY.frame_size)
        assert video.average_rate == 25
        assert audio.codec_context.name == "aac"
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    with av.open(str(corpus / "RECOLA-Video-recordings" / "P16.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(TINY.duration_s * 44_100, abs=3 * 1024)


def test_sound_is_44100_hz_16_bit_mono(corpus: Path) -> None:
    for name in ("P45", "P28", "P16"):
        info = soundfile.info(corpus / "RECOLA-Audio-recordings" / f"{name}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (44_100, 1, "PCM_16")
        assert info.frames == TINY.duration_s * 44_100


def test_shown_and_true_correlate_exactly_as_stated() -> None:
    config = SyntheticRecolaConfig(duration_s=20.0)
    raters = _sample_raters(config, np.random.default_rng(0))
    recording = _plan("P16", 0, config, raters, SEED)
    felt = recording.affect.T
    assert np.corrcoef(felt)[0, 1] == pytest.approx(0.0, abs=1e-6)
    for modality, stated in ((0, (0.95, 0.4)), (1, (0.4, 0.95))):
        for dimension in (0, 1):
            shown = recording.shown[modality, :, dimension]
            assert np.corrcoef(shown, felt[dimension])[0, 1] == pytest.approx(stated[dimension], abs=1e-6)


def test_raters_lag_by_the_stated_delay() -> None:
    config = SyntheticRecolaConfig(duration_s=60.0)
    raters = _sample_raters(config, np.random.default_rng(0))
    recording = _plan("P16", 0, config, raters, SEED)
    for index, dimension in enumerate(("valence", "arousal")):
        ratings, felt = recording.ratings[index], recording.affect[:, index]
        for rater, rating in zip(raters[dimension], ratings, strict=True):
            assert lag_frames(rating[:-1], felt, 100) == pytest.approx(25 * rater.delay_s, abs=3)
        assert lag_frames(ratings.mean(axis=0)[:-1], felt, 100) == pytest.approx(50, abs=2)
        assert np.mean([rater.delay_s for rater in raters[dimension]]) == pytest.approx(config.delay_s)


def test_truth_states_the_delay_and_keeps_people_apart(corpus: Path) -> None:
    known = truth(corpus)
    assert known["annotation_delay_s"] == TINY.delay_s
    assert known["annotation_delay_frames"] == round(25 * TINY.delay_s)
    people = [recording["identity"] for recording in known["recordings"].values()]
    assert len(set(people)) == len(people)
    assert {recording["partition"] for recording in known["recordings"].values()} == {"train", "dev", "test"}


@pytest.mark.parametrize("preset", ["tiny", "demo", "large"])
def test_people_stand_in_partition_a(preset: str) -> None:
    for split, members in load_partition("A").members.items():
        assert set(PRESETS[preset].partition[split]) <= set(members)


def test_crowd_is_no_partition_of_recolas() -> None:
    crowd = [name for members in PRESETS["crowd"].partition.values() for name in members]
    people = [name for members in load_partition("A").members.values() for name in members]
    assert set(crowd).isdisjoint(people), "A has everybody: B divides the same people otherwise"


def test_partition_is_written_as_it_is_read(corpus: Path) -> None:
    assert load_partition(str(corpus / "partition.json")).members == TINY.partition


def test_ratings_on_disk_follow_the_truth(corpus: Path) -> None:
    known, shift = truth(corpus), truth(corpus)["annotation_delay_frames"]
    for name in ("P45", "P28", "P16"):
        for dimension in ("valence", "arousal"):
            gold = annotation(corpus, dimension, name)[:, 1:].mean(axis=1)
            felt = np.array(known["recordings"][name][dimension])
            assert np.corrcoef(gold[shift:-1], felt[: FRAMES - shift])[0, 1] > 0.8


def test_ceiling_needs_both_modalities() -> None:
    config = PRESETS["demo"]
    raters = _sample_raters(config, np.random.default_rng(0))
    recordings = [_plan(f"P{number}", number, config, raters, SEED) for number in range(9)]
    scores = _ceilings(recordings[:6], recordings[6:], round(25 * config.delay_s))
    mean = {
        modality: np.mean([scores[modality][dimension]["ccc_concatenated"] for dimension in ("valence", "arousal")])
        for modality in scores
    }
    assert mean["fused"] > 0.85
    assert mean["fused"] > mean["face"] + 0.15
    assert mean["fused"] > mean["voice"] + 0.15
    assert scores["face"]["valence"]["ccc_per_file"] > scores["voice"]["valence"]["ccc_per_file"] + 0.3
    assert scores["voice"]["arousal"]["ccc_per_file"] > scores["face"]["arousal"]["ccc_per_file"] + 0.3


def test_ceiling_of_a_clear_corpus_is_one() -> None:
    clear = replace(
        TINY, own_correlation=1.0, other_correlation=1.0, delay_spread_s=0.0, rater_noise=0.0, rater_bias=0.0
    )
    raters = _sample_raters(clear, np.random.default_rng(0))
    recordings = [_plan(f"P{number}", number, clear, raters, SEED) for number in range(3)]
    scores = _ceilings(recordings[:2], recordings[2:], round(25 * clear.delay_s))
    for modality in ("face", "voice", "fused"):
        for dimension in ("valence", "arousal"):
            assert scores[modality][dimension]["ccc_concatenated"] == pytest.approx(1.0, abs=1e-3)


def test_ceiling_on_disk_is_recomputed_from_the_plan(corpus: Path) -> None:
    raters = _sample_raters(TINY, np.random.default_rng([SEED, 0]))
    names = (*TINY.train, *TINY.dev, *TINY.test)
    plans = [_plan(name, number, TINY, raters, SEED) for number, name in enumerate(names)]
    expected = _ceilings(plans[:1], plans[2:], round(25 * TINY.delay_s))
    assert truth(corpus)["ceiling"] == json.loads(json.dumps(expected))
    for index, dimension in enumerate(("valence", "arousal")):
        np.testing.assert_allclose(annotation(corpus, dimension, "P16")[:, 1:].T, plans[2].ratings[index], atol=1e-9)


def test_the_least_that_is_accepted_can_be_written(tmp_path: Path) -> None:
    least = replace(TINY, duration_s=2.0, timescale_s=0.02, delay_s=1.0, delay_spread_s=1.0, frame_size=96)
    synthesize(tmp_path / "least", least, 0)
    extreme = replace(least, timescale_s=0.2, own_correlation=0.0, other_correlation=0.0, rater_bias=0.5, rater_noise=1)
    synthesize(tmp_path / "extreme", extreme, 0)


def test_a_seed_gives_the_same_files(corpus: Path, tmp_path: Path) -> None:
    synthesize(tmp_path, TINY, SEED)
    names = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in names if (corpus / name).read_bytes() != (tmp_path / name).read_bytes()] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"dev": ("P45",)},
        {"dev": ("",)},
        {"dev": ("../P28",)},
        {"delay_s": 7.0},
        {"delay_s": 5.99},
        {"duration_s": 0.1},
        {"timescale_s": 0.0},
        {"timescale_s": 6.0},
        {"rater_noise": -1.0},
        {"rater_bias": 9.0},
        {"own_correlation": 1.2},
        {"frame_size": 97},
        {"frame_size": 1200},
        {"processes": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(TINY, **wrong)
