"""Checkpoints by Orbax: the model, the optimiser and the position in the data, written while training goes on."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from avemo.training import TrainState
from launch.errors import LaunchError
from launch.mesh import replicated
from launch.runs import first_difference

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run; a folder is renamed into place only when it is whole.

    The model's variables lie apart from the optimiser's state, so that whoever only predicts reads only them. To be
    used with `with`: leaving waits until everything is on disk.
    """

    def __init__(self, run: Path) -> None:
        self.folder = (run / FOLDER).absolute()
        self.manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.manager.wait_until_finished()
        self.manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, data_position: dict[str, Any]) -> None:
        """Start saving; the arrays are copied before this returns, so that the state may be donated."""
        self.manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(state.variables),
                optimizer=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
                data=ocp.args.JsonSave(data_position),
            ),
        )

    def restore(self, like: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, placed on the mesh, and its position in the data.

        Raises:
            LaunchError: its arrays are not those of `like`.
        """
        optimizer_like = {"step": like.step, "opt_state": like.opt_state}
        restored = self._restore(
            mesh,
            variables=like.variables,
            optimizer=optimizer_like,
        )
        data = self.manager.restore(self.latest_step(), args=ocp.args.Composite(data=ocp.args.JsonRestore()))
        state = TrainState(**restored["variables"], **restored["optimizer"])
        return state, data["data"]

    def restore_variables(self, like: Any, mesh: Mesh) -> Any:
        """The variables of the newest checkpoint, placed on the mesh.

        Raises:
            LaunchError: there is no checkpoint, or its arrays are not those of `like`.
        """
        if self.latest_step() is None:
            raise LaunchError(f"{self.folder} holds no checkpoint: train first")
        return self._restore(mesh, variables=like)["variables"]

    def _restore(self, mesh: Mesh, **like: Any) -> Any:
        step, sharding = self.latest_step(), replicated(mesh)
        self._check_shapes(self.folder / str(step) / "variables", like["variables"])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
        args = {name: ocp.args.StandardRestore(item) for name, item in target.items()}
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


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): list(leaf.shape) for path, leaf in leaves}
