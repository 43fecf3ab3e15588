"""Loading: every record exactly once, an order that depends on the seed alone, and exact resuming."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import loaders
from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.fec import FecPreparation, prepare_fec
from data_pipelines.errors import DataError
from data_pipelines.records import Records
from data_pipelines.releases.affectnet import COLUMNS
from data_pipelines.releases.fec import photograph_path

FACES = 23


def flat(level: int) -> bytes:
    return cv2.imencode(".png", np.full((32, 32, 3), level, np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AffectNet: face n is grey of level 10 · n. FEC: faces and triplets of consecutive levels."""
    root = tmp_path_factory.mktemp("prepared")
    images = root / "affectnet_source/Manually_Annotated_Images/1"
    images.mkdir(parents=True)
    rows = [",".join(COLUMNS)]
    for number in range(FACES):
        (images / f"{number}.jpg").write_bytes(flat(10 * number))
        affect = "-2,-2" if number % 2 else f"{number / 100},{-number / 100}"
        rows.append(f"1/{number}.jpg,0,0,32,32,,{number % 8},{affect}")
    lists = root / "affectnet_source/Manually_Annotated_file_lists"
    lists.mkdir()
    for name in ("training.csv", "validation.csv"):
        (lists / name).write_text("\n".join(rows))
    prepare_affectnet(root / "affectnet_source", root, AffectNetPreparation(size=32), Workers(1))

    source = root / "fec_source"
    for number in range(13):
        path = photograph_path(source, f"http://u/{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flat(10 * number))
    kinds = ("ONE", "TWO", "THREE")
    triplets = [
        ",".join(f"http://u/{face},0,1,0,1" for face in (number, number + 1, number + 2))
        + f",{kinds[number % 3]}_CLASS_TRIPLET,a,1"
        for number in range(11)
    ]
    for split in ("train", "test"):
        (source / f"faceexp-comparison-data-{split}-public.csv").write_text("\n".join(triplets))
    prepare_fec(source, root, FecPreparation(size=32), Workers(1))
    return root


def assert_equal(batch: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert batch.keys() == other.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name])


def test_a_face_batch(prepared: Path) -> None:
    batch = next(loaders.face_batches(prepared, batch_size=8, seed=0))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((8, 32, 32, 3), "uint8"),
        "expression": ((8,), "int32"),
        "expression_valid": ((8,), "bool"),
        "valence_arousal": ((8, 2), "float32"),
        "valence_arousal_valid": ((8,), "bool"),
        "index": ((8,), "int64"),
        "epoch": ((8,), "int32"),
    }
    number = batch["index"]
    np.testing.assert_allclose(batch["image"].mean(axis=(1, 2, 3)), 10 * number, atol=1)
    np.testing.assert_array_equal(batch["expression"], number % 8)
    assert batch["expression_valid"].all()
    np.testing.assert_array_equal(batch["valence_arousal_valid"], number % 2 == 0)
    expected = np.where(number[:, None] % 2 == 0, number[:, None] / 100 * [1, -1], 0)
    np.testing.assert_allclose(batch["valence_arousal"], expected, atol=1e-6)


def test_a_triplet_batch_ends_with_the_odd_face(prepared: Path) -> None:
    batch = next(loaders.triplet_batches(prepared, batch_size=4, seed=0))
    assert batch["image"].shape == (4, 3, 32, 32, 3)
    assert (batch["kind"].dtype, batch["index"].dtype) == (np.int32, np.int64)
    levels = batch["image"].mean(axis=(2, 3, 4))
    # Face 1 of 1, 2, 3 was named the odd one.
    np.testing.assert_allclose(levels, 10 * (batch["index"][:, None] + [1, 2, 0]), atol=1)
    np.testing.assert_array_equal(batch["kind"], batch["index"] % 3)
    seen = {(face, round(level)) for face, level in zip(batch["faces"].flat, levels.flat, strict=True)}
    assert len(seen) == len({face for face, _ in seen}) == len({level for _, level in seen})


@pytest.mark.parametrize(("share", "left"), [(0.001, "none to evaluate on"), (0.999, "none to learn from")])
def test_holding_out_none_or_all_is_told(prepared: Path, share: float, left: str) -> None:
    with pytest.raises(DataError, match=left):
        loaders.face_batches(prepared, batch_size=1, seed=0, hold_out=share)


def test_what_is_held_out_is_never_learnt_and_is_all_that_is_evaluated(prepared: Path) -> None:
    count = sum(loaders.class_counts(prepared))
    batches = loaders.face_batches(prepared, batch_size=count, seed=0, hold_out=0.25)
    learnt = {int(index) for _ in range(3) for index in next(batches)["index"]}
    evaluated = loaders.face_eval_batches(prepared, batch_size=4, split="train", held_out=0.25)
    held_out = [int(index) for batch in evaluated for index in batch["index"][batch["valid"]]]
    assert len(held_out) == round(count / 4)
    assert held_out == sorted({*range(count)} - learnt)
    # Nor are they learnt without their labels.
    pictures = loaders.picture_batches(prepared, "affectnet", "train", batch_size=count, seed=1, hold_out=0.25)
    assert {int(index) for index in next(pictures)["index"]} == learnt


def test_every_example_says_how_often_the_split_was_gone_through(prepared: Path) -> None:
    batches = loaders.face_batches(prepared, batch_size=7, seed=0)
    count = sum(loaders.class_counts(prepared))
    epochs = np.concatenate([next(batches)["epoch"] for _ in range(-(-3 * count // 7))])[: 3 * count]
    np.testing.assert_array_equal(epochs, np.repeat([0, 1, 2], count))


def test_an_epoch_holds_every_face_once_and_the_next_comes_in_another_order(prepared: Path) -> None:
    batches = loaders.face_batches(prepared, batch_size=1, seed=3)
    epochs = [[int(next(batches)["index"][0]) for _ in range(FACES)] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(FACES))
    assert epochs[0] != epochs[1]


def test_the_order_depends_on_the_seed_and_not_on_threads(prepared: Path) -> None:
    def order(seed: int, threads: int) -> list[int]:
        batches = loaders.face_batches(prepared, batch_size=5, seed=seed, threads=threads)
        return [int(index) for _ in range(12) for index in next(batches)["index"]]

    assert order(0, 1) == order(0, 4) == order(0, 0)
    assert order(0, 1) != order(1, 1)


STREAMS = pytest.mark.parametrize("stream", ["faces", "triplets", "windows"])


def start(stream: str, prepared: Path, batch_size: int, host: int = 0, hosts: int = 1) -> Any:
    share: Any = {"batch_size": batch_size, "seed": 0, "shard_index": host, "shard_count": hosts}
    if stream == "faces":
        return loaders.face_batches(prepared, **share)
    if stream == "triplets":
        return loaders.triplet_batches(prepared, **share)
    return loaders.window_batches(recordings(), window_frames=7, **share)


@STREAMS
def test_resuming_is_exact(prepared: Path, stream: str) -> None:
    through = start(stream, prepared, 4)
    for _ in range(5):
        next(through)
    state = through.get_state()
    assert state == {"next_index": 5}
    expected = [next(through) for _ in range(12)]
    resumed = start(stream, prepared, 4)
    resumed.set_state(state)
    for batch in expected:
        assert_equal(next(resumed), batch)


@pytest.mark.parametrize("shard_count", [1, 2, 5, 25])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_evaluation_sees_every_record_exactly_once(prepared: Path, batch_size: int, shard_count: int) -> None:
    seen: Counter[int] = Counter()
    batch_counts = set()
    for shard in range(shard_count):
        batches = list(
            loaders.face_eval_batches(prepared, batch_size=batch_size, shard_index=shard, shard_count=shard_count)
        )
        batch_counts.add(len(batches))
        assert all(len(batch["valid"]) == batch_size for batch in batches)
        order = [int(i) for batch in batches for i in batch["index"][batch["valid"]]]
        assert order == sorted(order)
        seen.update(order)
    assert seen == Counter(range(FACES))
    assert len(batch_counts) == 1


def test_evaluation_of_triplets_fills_up_with_repetitions(prepared: Path) -> None:
    batches = list(loaders.triplet_eval_batches(prepared, batch_size=4))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]
    assert [int(batch["valid"].sum()) for batch in batches] == [4, 4, 3]


@STREAMS
@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_every_batch(prepared: Path, stream: str, hosts: int) -> None:
    whole = start(stream, prepared, 6)
    shares = [start(stream, prepared, 6 // hosts, host, hosts) for host in range(hosts)]
    for _ in range(10):  # several epochs
        together = [next(share) for share in shares]
        assert_equal({name: np.concatenate([batch[name] for batch in together]) for name in together[0]}, next(whole))


@STREAMS
def test_another_number_of_hosts_goes_on_with_the_same_examples(prepared: Path, stream: str) -> None:
    whole = start(stream, prepared, 6)
    expected = [next(whole)["index"] for _ in range(12)]
    seen, position = [], {"next_index": 0}
    for hosts in (1, 3, 2, 6):
        shares = [start(stream, prepared, 6 // hosts, host, hosts) for host in range(hosts)]
        for share in shares:
            share.set_state(position)
        seen += [np.concatenate([next(share)["index"] for share in shares]) for _ in range(3)]
        (position, *others) = [share.get_state() for share in shares]
        assert all(other == position for other in others)
    np.testing.assert_array_equal(seen, expected)


def test_nothing_is_kept_where_memory_is_short(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two_epochs() -> list[dict[str, np.ndarray]]:
        batches = loaders.triplet_batches(prepared, batch_size=4, seed=0)
        return [next(batches) for _ in range(6)]

    kept = two_epochs()
    monkeypatch.setattr(Records, "bytes_on_disk", 1 << 60)
    for with_memory, without in zip(kept, two_epochs(), strict=True):
        for name, values in with_memory.items():
            np.testing.assert_array_equal(without[name], values)


def test_metadata(prepared: Path) -> None:
    assert loaders.class_counts(prepared) == (3, 3, 3, 3, 3, 3, 3, 2)
    prints = {loaders.fingerprint(prepared, name) for name in ("affectnet", "fec")}
    assert len(prints) == 2
    assert all(len(text) == 64 for text in prints)


def test_what_is_not_there_is_named(prepared: Path, tmp_path: Path) -> None:
    for call in (
        lambda: loaders.face_batches(tmp_path, batch_size=1, seed=0),
        lambda: loaders.class_counts(tmp_path),
        lambda: loaders.fingerprint(tmp_path, "affectnet"),
    ):
        with pytest.raises(DataError, match="avemo prepare affectnet"):
            call()
    with pytest.raises(DataError, match="avemo prepare fec"):
        loaders.triplet_batches(tmp_path, batch_size=1, seed=0)
    with pytest.raises(DataError, match="avemo prepare recola"):
        loaders.recordings(tmp_path, "train")
    with pytest.raises(DataError, match="no split test; there are train, validation"):
        loaders.face_batches(prepared, batch_size=1, seed=0, split="test")


def test_tfds_reads_what_we_wrote(prepared: Path) -> None:
    builder = tfds.builder_from_directory(prepared / "affectnet/2.0.0")
    record = builder.as_data_source(split="train")[3]
    assert record["expression"] == 3
    assert record["image"].shape == (32, 32, 3)
    records = loaders.open_split(prepared, "affectnet", "train")
    assert cv2.imdecode(np.frombuffer(records[3]["image"][0], np.uint8), -1).shape == (32, 32, 3)
    assert io.BytesIO(records[3]["image"][0]).read(2) == b"\xff\xd8"


def test_triplets_of_other_faces_are_refused(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "fec", tmp_path / "fec")
    metadata = tmp_path / "fec/faces/2.0.0/metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"fingerprint": "of other faces"}))
    with pytest.raises(DataError, match=r"fec/triplets/2\.0\.0: made for other faces .* avemo prepare fec"):
        loaders.triplet_batches(tmp_path, batch_size=1, seed=0)


def recordings() -> list[dict[str, Any]]:
    """Two recordings whose rows say which frame of which recording they are."""
    return [
        {
            "name": f"P{which}",
            "voice_valid": True,
            "face": np.arange(frames) + 1000 * which,
            "waveform": np.repeat(np.arange(frames, dtype=np.float32) + 1000 * which, 640),
        }
        for which, frames in enumerate((30, 50, 5))
    ]


def test_windows_cut_all_arrays_alike() -> None:
    batches = loaders.window_batches(recordings(), window_frames=7, batch_size=4, seed=0)
    for _ in range(20):
        batch = next(batches)
        assert batch.keys() == {"face", "waveform", "begins", "index", "epoch"}
        assert batch["face"].shape == (4, 7)
        assert batch["waveform"].shape == (4, 7 * 640)
        assert (np.diff(batch["face"], axis=1) == 1).all()
        np.testing.assert_array_equal(batch["waveform"][:, ::640], batch["face"])
        assert batch["index"].dtype == np.int64
        np.testing.assert_array_equal(batch["index"] @ [1000, 1], batch["face"][:, 0])


def test_windows_reach_everywhere_and_differ_between_epochs() -> None:
    batches = loaders.window_batches(recordings(), window_frames=7, batch_size=11, seed=0)  # 4 + 7 per epoch
    epochs = [sorted(next(batches)["face"][:, 0].tolist()) for _ in range(200)]
    assert all(sum(start < 1000 for start in epoch) == 4 for epoch in epochs)
    for epoch in epochs:
        assert all(np.diff([start for start in epoch if start < 1000])[:-1] == 7)
    assert epochs[0] != epochs[1]
    assert {start for epoch in epochs for start in epoch} == {*range(24), *range(1000, 1044)}


def test_a_shorter_stride_gives_windows_that_overlap() -> None:
    batches = loaders.window_batches(recordings(), window_frames=7, stride_frames=3, batch_size=23, seed=0)  # 8 + 15
    starts = sorted(next(batches)["face"][:, 0].tolist())
    assert sum(start < 1000 for start in starts) == 8
    assert all(np.diff(starts[:7]) == 3)


def labelled() -> list[dict[str, Any]]:
    return [recording | {"labels": recording["face"] + 1} for recording in recordings()]


def test_labels_reach_beyond_their_window_and_are_zero_beyond_the_end() -> None:
    reach: Any = {"reaching": ("labels",), "reach_frames": 4}
    batches = loaders.window_batches(labelled(), window_frames=7, batch_size=4, seed=0, **reach)
    ended = 0
    for _ in range(20):
        batch = next(batches)
        assert batch["labels"].shape == (4, 11)
        for face, labels in zip(batch["face"], batch["labels"], strict=True):
            expected = face[0] + 1 + np.arange(11)
            last = 30 if face[0] < 1000 else 1050
            np.testing.assert_array_equal(labels, np.where(expected <= last, expected, 0))
            ended += int(expected[-1] > last)
    assert ended


def test_rows_in_succession_go_on_until_a_recording_ends() -> None:
    batches = loaders.window_batches(recordings(), window_frames=7, batch_size=3, seed=0, in_succession=True)
    before, begun, places = None, 0, set()
    for _ in range(60):
        batch = next(batches)
        first = batch["face"][:, 0]
        if before is not None:
            goes_on = ~batch["begins"]
            np.testing.assert_array_equal(first[goes_on], before[goes_on] + 7)
        before, begun = first, begun + int(batch["begins"].sum())
        places |= {*first.tolist()}
    assert 0 < begun < 180
    assert len(places) > 40  # the first window of a recording begins anywhere


def test_two_hosts_give_the_rows_of_one_in_succession() -> None:
    share: Any = {"window_frames": 7, "seed": 0, "in_succession": True}
    whole = loaders.window_batches(recordings(), batch_size=4, **share)
    parts = [
        loaders.window_batches(recordings(), batch_size=2, shard_index=i, shard_count=2, **share) for i in range(2)
    ]
    for _ in range(9):
        batch, halves = next(whole), [next(part) for part in parts]
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))


def test_too_few_windows_in_succession_are_refused() -> None:
    with pytest.raises(DataError, match="too few for a batch of 12"):
        loaders.window_batches(recordings(), window_frames=7, batch_size=12, seed=0, in_succession=True)


def test_windows_that_fit_nowhere() -> None:
    with pytest.raises(DataError, match="window of 51 frames"):
        loaders.window_batches(recordings(), window_frames=51, batch_size=1, seed=0)
    uneven = [{"face": np.zeros(10), "labels": np.zeros((9, 2))}]
    with pytest.raises(DataError, match="differ in their number of frames"):
        loaders.window_batches(uneven, window_frames=5, batch_size=1, seed=0)
