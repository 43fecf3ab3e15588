"""Checkpoints by Orbax: the model, the optimiser and the position in the data, written while training goes on.

Orbax renames a checkpoint's folder into place when all of it is written. Then `SHA256SUMS` is added, the digests of its
files in the form of the command sha256sum: only now does the checkpoint count. Whatever differs from its digests is
damaged, and the checkpoint before it is used.
"""

import hashlib
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from avemo.training import TrainState
from launch.errors import LaunchError
from launch.hosts import is_first_host
from launch.mesh import replicated
from launch.runs import first_difference

FOLDER = "checkpoints"
DIGESTS_FILE = "SHA256SUMS"


class Checkpoints:
    """The checkpoints of one run, of which the newest two are kept.

    The model's variables lie apart from the optimiser's state, so that whoever only predicts reads only them. To be
    used with `with`: leaving waits until everything is on disk.

    Args:
        run: The run's folder.
        training: Whether the run is to be gone on with. Then what a killed process left half-written is removed, and
            damaged checkpoints newer than the newest whole one are renamed to `<step>.corrupt`.

    Raises:
        LaunchError: the run is to be gone on with, but all its checkpoints are damaged.
    """

    def __init__(self, run: Path, training: bool = False) -> None:
        self.folder = (run / FOLDER).absolute()
        self._latest = newest_whole(self.folder, set_aside=training)
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=True, cleanup_tmp_directories=training
            ),
        )
        self._background = ThreadPoolExecutor(1, thread_name_prefix="digests")
        self._saving: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._without_orphaned_writes
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self.manager.close()
            self._background.shutdown()
            sys.unraisablehook = self._hook_before

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._latest

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Start saving; the arrays are copied before this returns, so that the state may be donated.

        Args:
            step: Updates done.
            state: After them.
            position: What else is needed to go on exactly, as JSON can hold it.

        Raises:
            LaunchError: this checkpoint, or the one before, can't be written.
        """
        self.wait()
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(state.variables),
            optimizer=ocp.args.StandardSave(_beside_variables(state)),
            position=ocp.args.JsonSave(position),
        )
        try:
            self.manager.save(step, args=items)
        except Exception as error:
            raise self._not_written(step, error) from error
        self._saving = step, self._background.submit(self._complete, step)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            LaunchError: it can't be written.
        """
        if self._saving is None:
            return
        (step, completion), self._saving = self._saving, None
        try:
            self.manager.wait_until_finished()
            completion.result()
        except Exception as error:
            raise self._not_written(step, error) from error
        self._latest = step

    def restore(self, like: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The newest whole checkpoint, each array where that of `like` lies, and the position saved with it.

        Raises:
            LaunchError: its arrays are not those of `like`.
        """
        restored = self._restore(mesh, variables=like.variables, optimizer=_beside_variables(like))
        items = ocp.args.Composite(position=ocp.args.JsonRestore())
        position = self.manager.restore(self.latest_step(), args=items)["position"]
        variables, beside = restored["variables"], restored["optimizer"]
        return TrainState(**({"averages": variables} if like.averages else variables), **beside), position

    def restore_variables(self, like: Any, mesh: Mesh) -> Any:
        """The variables of the newest whole checkpoint, placed on the mesh.

        Raises:
            LaunchError: there is no checkpoint, or its arrays are not those of `like`.
        """
        if self.latest_step() is None:
            raise LaunchError(f"{self.folder} holds no whole checkpoint: train first")
        return self._restore(mesh, variables=like)["variables"]

    def _complete(self, step: int) -> None:
        """Wait for Orbax, then write the digests."""
        self.manager.wait_until_finished()
        if is_first_host():
            folder = self.folder / str(step)
            unfinished = folder / f"{DIGESTS_FILE}.tmp"
            unfinished.write_text(_as_text(file_digests(folder)))
            unfinished.replace(folder / DIGESTS_FILE)

    def _without_orphaned_writes(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Print what nobody can catch, as before, but for one thing.

        Where one array can't be written, Orbax stops waiting for the others, and each of these then fails to say that
        it ended. Their hundreds of tracebacks would bury the message.
        """
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook_before(unraisable)

    def _not_written(self, step: int, error: Exception) -> LaunchError:
        free_mb = shutil.disk_usage(self.folder).free / 1e6
        intact = "there is none before it" if self._latest is None else f"that of step {self._latest} is intact"
        reason = " ".join(str(error).split()).split('": ')[-1][:200]  # TensorStore names its files first
        return LaunchError(
            f"the checkpoint of step {step} can't be written to {self.folder} ({free_mb:,.1f} MB free): {reason}; "
            f"{intact}. Mend this, such as by making room, and go on with --resume"
        )

    def _restore(self, mesh: Mesh, **like: Any) -> Any:
        step, everywhere = self.latest_step(), replicated(mesh)
        self._check_shapes(self.folder / str(step) / "variables", like["variables"])
        place = lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or everywhere
        )
        args = {name: ocp.args.StandardRestore(jax.tree.map(place, item)) for name, item in like.items()}
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise LaunchError(f"{self.folder / str(step)} can't be read: {reason}") from error

    def _check_shapes(self, path: Path, like: Any) -> None:
        """Compare before reading: a restore that fails half-way leaves Orbax's readers behind."""
        stored = ocp.StandardCheckpointHandler().metadata(path).tree
        if (name := first_difference(_shapes(like), _shapes(stored))) is not None:
            raise LaunchError(
                f"{path.parent} does not hold the network of its run.json (a checkpoint of another preset?): "
                f"they differ in {name}"
            )


def newest_whole(folder: Path, set_aside: bool) -> int | None:
    """The step of the newest checkpoint that is as it was written; each newer one is told in a line.

    The first host looks, and tells the others.

    Args:
        folder: Holds the checkpoints.
        set_aside: Whether to rename the newer ones, which are of no use, to `<step>.corrupt`.

    Raises:
        LaunchError: some were to be set aside, and none is left.
    """
    step, damaged = multihost_utils.broadcast_one_to_all(
        np.array(_look_for_whole(folder, set_aside) if is_first_host() else (0, 0), np.int32)
    )
    if step < 0 and damaged and set_aside:
        raise LaunchError(f"no checkpoint in {folder} is whole: start again with another --out")
    return int(step) if step >= 0 else None


def is_whole(run: Path, step: int) -> bool:
    """Whether the checkpoint of a step is there, as it was written."""
    return _fault(run / FOLDER / str(step)) is None


def variables_bytes(run: Path) -> int:
    """Bytes on disk of the newest checkpoint's variables, of which others have no use for the rest."""
    step = newest_whole(run / FOLDER, set_aside=False)
    folder = run / FOLDER / str(step) / "variables"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint does not count, or None."""
    complete = (checkpoint / DIGESTS_FILE).exists()
    return find_damage(checkpoint) if complete else f"it was never completed, {DIGESTS_FILE} is missing"


def _look_for_whole(folder: Path, set_aside: bool) -> tuple[int, int]:
    """The newest step without a fault, or -1, and how many damaged ones are newer."""
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
    damaged = 0
    for step in sorted(steps, reverse=True):
        path = folder / str(step)
        if (fault := _fault(path)) is None:
            return step, damaged
        damaged += (path / DIGESTS_FILE).exists()
        print(f"{path} can't be used ({fault})" + (f": renamed to {_set_aside(path).name}" if set_aside else ""))
    return -1, damaged


def find_damage(checkpoint: Path) -> str | None:
    """What differs from the digests of a checkpoint, or None."""
    written, actual = (checkpoint / DIGESTS_FILE).read_bytes(), file_digests(checkpoint)
    if written == _as_text(actual).encode():
        return None
    lines = [line.partition("  ") for line in written.decode(errors="replace").splitlines()]
    expected = {name: digest for digest, _, name in lines}
    names = sorted(expected.keys() | actual.keys())
    different = next((name for name in names if expected.get(name) != actual.get(name)), DIGESTS_FILE)
    return f"{different} is not as it was written"


def file_digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 (hexadecimal) of each file of a checkpoint but the digests themselves, by its path in there."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / DIGESTS_FILE:
            with path.open("rb") as file:
                digests[path.relative_to(checkpoint).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _set_aside(path: Path) -> Path:
    """Rename a checkpoint to <step>.corrupt, or to <step>.corrupt2 and so on where there is such a one."""
    names = (f"{path.name}.corrupt{n}" if n > 1 else f"{path.name}.corrupt" for n in count(1))
    return path.rename(next(path.with_name(name) for name in names if not path.with_name(name).exists()))


def _as_text(digests: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): list(leaf.shape) for path, leaf in leaves}


def _beside_variables(state: TrainState) -> dict[str, Any]:
    """What a training needs to go on, and nobody else."""
    beside = {"step": state.step, "opt_state": state.opt_state, "aids": state.aids, "carry": state.carry}
    return beside | (state.trained if state.averages else {})
