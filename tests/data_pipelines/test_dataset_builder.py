"""The builder: nothing depends on who does the work, nothing half-done is accepted, and a killed run goes on."""

import contextlib
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_releases import picture, write_affectnet_2017, write_image

from data_pipelines.builders import labelled_faces
from data_pipelines.builders.affectnet import AffectNetPreparation, AffectNetRecipe, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers, _work_folder, prepare
from data_pipelines.builders.recipe import Outcome
from data_pipelines.errors import DataError
from data_pipelines.records import dataset_folder, open_split
from data_pipelines.releases.items import Face

ALONE = Workers(1)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folders = [
        prepare_affectnet(tmp_path / "in", tmp_path / f"out{count}", AffectNetPreparation(size=40), Workers(count))
        for count in (1, 2)
    ]
    assert digests(folders[0]) == digests(folders[1])
    assert sum(".array_record" in name for name in digests(folders[0])) == 2


def test_shards_continue_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")
    config = AffectNetPreparation(size=40)
    monkeypatch.setattr("tensorflow_datasets.core.utils.shard_utils.ShardConfig.min_shard_size", 10_000)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 0)  # What TFDS holds in memory.
    folder = prepare_affectnet(tmp_path / "in", tmp_path, config, ALONE)
    assert len(list(folder.glob("*train*-of-00004"))) == 4
    records = open_split(tmp_path, "affectnet", "train")
    keys = [records[index]["key"][0].decode() for index in range(len(records))]
    assert [key.split("/")[1].split(".")[0] for key in keys] == [*map(str, range(40)), "partly"]


def test_prepared_once_is_used_again(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), ALONE)
    before = digests(folder)
    (tmp_path / "in/Manually_Annotated_Images/0/0.jpg").unlink()
    assert prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), Workers(2)) == folder
    assert digests(folder) == before
    with pytest.raises(DataError, match=r"size was 40, is now 48\); choose another --out or remove it"):
        prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=48), ALONE)


def test_a_failure_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")
    calls = iter(range(1000))

    def fail_late(*arguments: object) -> str:
        if next(calls) == 85:
            raise MemoryError
        return "undecodable picture"

    config = AffectNetPreparation(size=40)
    with monkeypatch.context() as patch:
        patch.setattr(labelled_faces, "cut", fail_late)
        with pytest.raises(MemoryError):
            prepare_affectnet(tmp_path / "in", tmp_path, config, ALONE)
    with pytest.raises(DataError, match="affectnet is not prepared; make it with: avemo prepare affectnet"):
        open_split(tmp_path, "affectnet", "train")


def test_one_run_at_a_time(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in")
    recipe = AffectNetRecipe(tmp_path / "in", AffectNetPreparation(size=40), "2017")
    with (
        _work_folder(dataset_folder(tmp_path, "affectnet"), recipe),
        pytest.raises(DataError, match="another run is preparing it just now"),
    ):
        prepare(recipe, tmp_path, ALONE)
    prepare(recipe, tmp_path, ALONE)


def unfinished(root: Path) -> Path:
    return root / "affectnet/.2.0.0.unfinished"


def test_what_was_prepared_before_a_crash_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")
    config = AffectNetPreparation(size=40)
    whole = prepare_affectnet(tmp_path / "in", tmp_path / "whole", config, ALONE)

    cooked: list[str] = []

    def counting(recipe: AffectNetRecipe, split: str, item: Face) -> Outcome:
        cooked.append(item.key)
        if len(cooked) == stop_at:
            raise KeyboardInterrupt
        return original(recipe, split, item)

    original = AffectNetRecipe.prepare
    monkeypatch.setattr(AffectNetRecipe, "prepare", counting)
    stop_at = 80
    with pytest.raises(KeyboardInterrupt):
        prepare_affectnet(tmp_path / "in", tmp_path, config, ALONE)
    (tmp_path / "affectnet/incomplete.ABCDEF_2.0.0").mkdir()  # what TFDS leaves where a process is killed
    with next((unfinished(tmp_path)).glob("validation.journal")).open("r+b") as journal:
        journal.truncate(journal.seek(0, 2) - 1)  # an entry cut short
    before = len(cooked)
    stop_at = 0
    assert digests(prepare_affectnet(tmp_path / "in", tmp_path, config, ALONE)) == digests(whole)
    # A split has 43 faces to try. 80 are the first split and a chunk of 32 of the second, which was cut short.
    assert len(cooked) - before == 43
    assert sorted(path.name for path in (tmp_path / "affectnet").iterdir()) == ["2.0.0"]


def test_a_changed_picture_or_setting_is_prepared_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affectnet_2017(tmp_path / "in")

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    for size in (48, 40):
        with monkeypatch.context() as patch:
            patch.setattr("data_pipelines.builders.dataset_builder.Account.add_without_split", crash)
            with pytest.raises(KeyboardInterrupt):
                prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=size), ALONE)
    write_image(tmp_path / "in/Manually_Annotated_Images/0/3.jpg", picture(99))
    folder = prepare_affectnet(tmp_path / "in", tmp_path, AffectNetPreparation(size=40), ALONE)
    fresh = prepare_affectnet(tmp_path / "in", tmp_path / "fresh", AffectNetPreparation(size=40), ALONE)
    assert digests(folder) == digests(fresh)


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_affectnet_2017(tmp_path / "in", count=200)
    program = (
        "import sys; from pathlib import Path; from data_pipelines.builders import affectnet, dataset_builder\n"
        "affectnet.prepare_affectnet(Path(sys.argv[1]), Path(sys.argv[2]), "
        "affectnet.AffectNetPreparation(size=40), dataset_builder.Workers(2))"
    )
    command = [sys.executable, "-c", program, tmp_path / "in"]
    begin = time.monotonic()
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    duration_s = time.monotonic() - begin
    moments = np.random.default_rng(0).uniform(0.3, 1, 10) * duration_s
    for moment_s in moments:
        process = subprocess.Popen(
            [*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        process.kill()
        process.wait()
        with contextlib.suppress(DataError):  # Whatever a loader accepts is whole.
            assert len(open_split(tmp_path / "killed", "affectnet", "train")) == 126
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    assert digests(tmp_path / "killed/affectnet/2.0.0") == digests(tmp_path / "whole/affectnet/2.0.0")
    assert [path.name for path in (tmp_path / "killed/affectnet").iterdir()] == ["2.0.0"]
