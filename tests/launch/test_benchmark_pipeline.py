import json
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from data_pipelines.faces import decode_image, encode_jpeg, read_picture
from data_pipelines.processes import worker_pool
from data_pipelines.records import open_split, prepared_folder
from data_pipelines.releases import affectnet
from data_pipelines.releases.items import Face
from launch.benchmarks import pipeline, pipeline_limits, pipeline_peers
from launch.benchmarks.pipeline import LIMITS, LOADER, OPENCV, PREPARE, BenchmarkPipeline, excerpt, ratios, shared_out
from launch.benchmarks.results import installed
from launch.benchmarks.stopwatch import seconds
from launch.errors import LaunchError


def test_an_excerpt_holds_the_first_usable_faces_as_they_were(tiny, tmp_path):
    source = tiny.corpora / "affectnet"
    pictures = excerpt(source, tmp_path, 20)
    originals = [face for face in affectnet.read_split(source, "2017", "train") if isinstance(face, Face)]
    copies = [face for split in affectnet.SPLITS for face in affectnet.read_split(tmp_path, "2017", split)]
    assert len(pictures) == len(copies) == 20
    for (path, box), original, copy in zip(pictures, originals, copies, strict=False):
        assert path.read_bytes() == original.image.read_bytes()
        assert copy.image == path
        assert copy.box == box == original.box
        assert (copy.expression, copy.valence_arousal) == (original.expression, original.valence_arousal)


def test_boxes_of_an_excerpt_lie_inside_their_pictures(tiny, tmp_path):
    for path, (left, top, right, bottom) in excerpt(tiny.corpora / "affectnet", tmp_path, 64):
        height, width = read_picture(path).shape[:2]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_a_release_with_too_few_faces_is_refused(tiny, tmp_path):
    with pytest.raises(LaunchError, match="usable training faces; ask for fewer with --images"):
        excerpt(tiny.corpora / "affectnet", tmp_path, 1000)


def test_every_item_is_in_one_share():
    assert shared_out(list("abcde"), 2) == [["a", "c", "e"], ["b", "d"]]


def test_ratios_are_taken_round_by_round():
    rates = dict(zip(LIMITS, ([100, 200], [180, 400], [1000, 1000], [1800, 1600]), strict=True))
    rates |= {PREPARE: [90, 300], LOADER: [900, 800], OPENCV: [1200, 800], "tf.data": [450, 1600]}
    assert ratios(rates, workers=2) == {
        f"{PREPARE} / {LIMITS[0]} × 2": [0.45, 0.75],
        f"{PREPARE} / {LIMITS[1]}": [0.5, 0.75],
        f"{LOADER} / {LIMITS[2]} × 2": [0.45, 0.4],
        f"tf.data / {LIMITS[2]} × 2": [0.225, 0.8],
        f"{LOADER} / {LIMITS[3]}": [0.5, 0.5],
        f"tf.data / {LIMITS[3]}": [0.25, 1.0],
        f"{LOADER} / {OPENCV}": [0.75, 1.0],
        f"{LOADER} / tf.data": [2.0, 0.5],
    }


def test_a_process_that_fails_ends_the_measurement(capfd):
    good, bad = ([encode_jpeg(np.zeros((8, 8, 3), np.uint8), 95)], 1), ([None], 1)
    with pytest.raises(LaunchError, match="a measured process failed"):
        seconds(pipeline_limits.decoding, [good, bad])
    assert "TypeError" in capfd.readouterr().err


def test_a_process_that_is_killed_ends_the_measurement():
    with pytest.raises(LaunchError, match="a measured process failed"):
        seconds(_killed, [()])


@contextmanager
def _killed():
    yield lambda: os.kill(os.getpid(), signal.SIGKILL)


def test_the_whole_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "installed", lambda package: False)
    out = tmp_path / "results" / "benchmark.json"
    BenchmarkPipeline(out, images=24, picture_size=64, size=16, batch_size=4, workers=2, rounds=1, passes=1)()
    results = json.loads(out.read_text())
    assert set(results["images_per_s"]) == {*LIMITS, OPENCV, PREPARE, LOADER}
    assert all(rate > 0 for rates in results["images_per_s"].values() for rate in rates)
    assert results["settings"]["images"] == 24
    assert results["machine"]["numpy"] == np.__version__


@pytest.mark.parametrize("peer", ["torch", "torch, tuned", "tensorflow"])
def test_peers_give_the_same_pixels(tiny, tmp_path, peer):
    if not installed(package := peer.split(",")[0]):
        pytest.skip(f"{package} is not installed")
    files = sorted(map(str, prepared_folder(tiny.data, "affectnet").glob("*-train.array_record-*")))
    with worker_pool(1) as pool:  # This process stays free of either.
        images = pool.submit(_first_images, peer, files, tmp_path).result()
    records = open_split(tiny.data, "affectnet", "train")
    known = {decode_image(records[i]["image"][0]).tobytes() for i in range(len(records))}
    assert images.shape == (8, 46, 46, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images} & known) == 8


def _first_images(peer, files, folder):
    if peer != "tensorflow":
        return next(pipeline_peers.torch_batches(files, peer != "torch", 8, 1))["image"].numpy()
    pipeline_peers.write_tfrecord(files, folder / "train.tfrecord")
    return next(pipeline_peers.tf_data_batches(folder / "train.tfrecord", "INTEGER_ACCURATE", 8, 1))["image"]


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images must be more than a batch"):
        BenchmarkPipeline(tmp_path, images=100, batch_size=128)
    with pytest.raises(ValueError, match="at least 1"):
        BenchmarkPipeline(tmp_path, rounds=0)
