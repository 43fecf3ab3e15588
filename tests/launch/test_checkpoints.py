"""Checkpoints that were damaged, cut off, or did not fit on the disk: the one before is used, and it is told."""

import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avemo.training import Optimizer, new_state, update
from launch.checkpoints import DIGESTS_FILE, FOLDER, Checkpoints, file_digests, find_damage
from launch.errors import LaunchError
from launch.mesh import data_mesh

POSITION = {"batches": {"next_index": 7}, "metrics": [{"loss": 0.1}]}


def state(value, size=4):
    """A state with some noise, which can't be compressed."""
    noise = jax.random.normal(jax.random.key(value), (size,))
    return new_state({"params": {"w": noise.at[0].set(value)}}, Optimizer(optax.adam(0.1)))


def save(run, *steps, size=4):
    with Checkpoints(run, training=True) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step, size), POSITION)


def restored(run, size=4):
    """Step, state and position that a training would go on from."""
    with Checkpoints(run, training=True) as checkpoints:
        return checkpoints.latest_step(), *checkpoints.restore(state(0, size), data_mesh())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of the steps 2 and 3; that of step 1 made room for them."""
    run = tmp_path_factory.mktemp("saved") / "run"
    save(run, 1, 2, 3)
    return run


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def folder(run, step):
    return run / FOLDER / str(step)


def assert_goes_on_from_2(run, capsys, reason):
    step, state_2, position = restored(run)
    assert (step, position) == (2, POSITION)
    jax.tree.map(np.testing.assert_array_equal, state_2, state(2))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder(run, 3)} can't be used ({reason}")
    assert line.endswith("renamed to 3.corrupt")
    assert {path.name for path in (run / FOLDER).iterdir()} == {"2", "3.corrupt"}


def test_the_newest_of_two_is_restored_exactly(run, capsys):
    step, state_3, position = restored(run)
    assert (step, position) == (3, POSITION)
    jax.tree.map(np.testing.assert_array_equal, state_3, state(3))
    assert {path.name for path in (run / FOLDER).iterdir()} == {"2", "3"}
    assert capsys.readouterr().out == ""


def test_averages_come_back_beside_what_was_trained(tmp_path):
    optimizer = Optimizer(optax.adam(0.1), averaging=0.5)
    before = new_state({"params": {"w": jnp.zeros(3)}, "batch_stats": {"mean": jnp.ones(2)}}, optimizer)
    before = update(before, {"w": jnp.arange(3.0)}, {"mean": jnp.zeros(2)}, optimizer)
    with Checkpoints(tmp_path, training=True) as checkpoints:
        checkpoints.save(1, before, {})
    with Checkpoints(tmp_path) as checkpoints:
        after, _ = checkpoints.restore(before, data_mesh())
        jax.tree.map(np.testing.assert_array_equal, after, before)
        used = checkpoints.restore_variables(before.variables, data_mesh())
    jax.tree.map(np.testing.assert_array_equal, used, before.averages)
    assert not np.array_equal(used["params"]["w"], before.params["w"])


def test_sha256sum_agrees(run):
    """The digests are in that command's form, so that anybody can check them."""
    sha256sum = shutil.which("sha256sum")
    if sha256sum is None:
        pytest.skip("no sha256sum here")
    subprocess.run([sha256sum, "--check", "--strict", DIGESTS_FILE], cwd=folder(run, 3), check=True)


def flip(content, rng):
    place = rng.integers(len(content))
    return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]


DAMAGES = {
    "a bit flipped": flip,
    "the last byte cut off": lambda content, rng: content[:-1],
    "emptied": lambda content, rng: b"",
    "deleted": lambda content, rng: None,
    "zeros at its end": lambda content, rng: content + bytes(4096),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found(run, damage):
    rng, checkpoint = np.random.default_rng(0), folder(run, 3)
    names = [*file_digests(checkpoint), DIGESTS_FILE]
    assert len(names) > 10
    for name in names:
        path = checkpoint / name
        content = path.read_bytes()
        if not content or (name, damage) == (DIGESTS_FILE, "deleted"):
            continue
        changed = DAMAGES[damage](content, rng)
        path.write_bytes(changed) if changed is not None else path.unlink()
        assert find_damage(checkpoint) is not None, name
        if name != DIGESTS_FILE:
            assert find_damage(checkpoint) == f"{name} is not as it was written"
        path.write_bytes(content)
    assert find_damage(checkpoint) is None


@pytest.mark.parametrize("which", ["_CHECKPOINT_METADATA", "variables/_METADATA", "an array"])
@pytest.mark.parametrize("damage", ["a bit flipped", "emptied", "deleted"])
def test_the_one_before_a_damaged_one_is_used(run, capsys, which, damage):
    checkpoint = folder(run, 3)
    arrays = (path for path in (checkpoint / "variables" / "d").iterdir() if path.stat().st_size)
    path = next(arrays) if which == "an array" else checkpoint / which
    changed = DAMAGES[damage](path.read_bytes(), np.random.default_rng(0))
    path.write_bytes(changed) if changed is not None else path.unlink()
    assert_goes_on_from_2(run, capsys, f"{path.relative_to(checkpoint)} is not as it was written")


def test_who_only_reads_renames_nothing(run, capsys):
    (folder(run, 3) / "_CHECKPOINT_METADATA").write_text("")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest_step() == 2
        variables = checkpoints.restore_variables(state(0).variables, data_mesh())
    np.testing.assert_array_equal(variables["params"]["w"], state(2).params["w"])
    assert "_CHECKPOINT_METADATA is not as it was written" in capsys.readouterr().out
    assert {path.name for path in (run / FOLDER).iterdir()} == {"2", "3"}


def test_a_checkpoint_cut_off_before_its_digests_does_not_count(run, capsys):
    (folder(run, 3) / DIGESTS_FILE).unlink()
    assert_goes_on_from_2(run, capsys, "it was never completed")


def test_what_orbax_left_half_written_is_removed(run):
    unfinished = folder(run, 3).rename(run / FOLDER / "3.orbax-checkpoint-tmp")
    (unfinished / DIGESTS_FILE).unlink()
    assert restored(run)[0] == 2
    assert not unfinished.exists()


def test_damaged_again(run, capsys):
    """The same step is saved, damaged and set aside twice: nothing is overwritten."""
    for name in ("3.corrupt", "3.corrupt2"):
        (folder(run, 3) / "_CHECKPOINT_METADATA").write_text("")
        assert restored(run)[0] == 2
        assert f"renamed to {name}\n" in capsys.readouterr().out
        save(run, 3)
    assert restored(run)[0] == 3


def test_no_whole_checkpoint_is_left(run):
    for step in (2, 3):
        (folder(run, step) / "_CHECKPOINT_METADATA").write_text("")
    with Checkpoints(run) as checkpoints, pytest.raises(LaunchError, match="holds no whole checkpoint"):
        checkpoints.restore_variables(state(0).variables, data_mesh())
    with pytest.raises(LaunchError, match=r"no checkpoint in .* is whole: start again"):
        Checkpoints(run, training=True)
    assert {path.name for path in (run / FOLDER).iterdir()} == {"2.corrupt", "3.corrupt"}


def test_only_an_uncompleted_one(tmp_path):
    """Killed while it saved for the first time: the run starts from the beginning."""
    save(tmp_path, 1)
    (folder(tmp_path, 1) / DIGESTS_FILE).unlink()
    with Checkpoints(tmp_path, training=True) as checkpoints:
        assert checkpoints.latest_step() is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint of `LARGE`, and not for two."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk]).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield disk
    subprocess.run([umount, disk], check=True)


LARGE = 200_000
"""A parameter of 0.8 MB; Adam's moments are zeros, which need no room."""


def test_a_full_disk_leaves_the_one_before(small_disk):
    save(small_disk, 1, size=LARGE)
    with pytest.raises(LaunchError) as full:
        save(small_disk, 2, size=LARGE)
    message = str(full.value)
    assert message.startswith(f"the checkpoint of step 2 can't be written to {small_disk / FOLDER} (0.")
    assert "No space left on device" in message
    assert "; that of step 1 is intact. " in message

    step, state_1, _ = restored(small_disk, LARGE)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, state_1, state(1, LARGE))
    assert [path.name for path in (small_disk / FOLDER).iterdir()] == ["1"], "the failed one still takes room"


def test_digests_that_cannot_be_written(tmp_path, monkeypatch):
    """The same without root; a failure in the background is told at the next save."""

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(LaunchError, match=r"step 1 can't be written .*No space left on device; there is none before"):
        save(tmp_path, 1, 2)
    with Checkpoints(tmp_path, training=True) as checkpoints:
        assert checkpoints.latest_step() is None


def test_another_network_is_no_damage(run):
    other = new_state({"params": {"w": jnp.zeros(5)}}, Optimizer(optax.adam(0.1)))
    with Checkpoints(run, training=True) as checkpoints, pytest.raises(LaunchError, match="does not hold the network"):
        checkpoints.restore(other, data_mesh())
    assert (run / FOLDER / "3").exists()
