"""Checkpoints of a run: state, data position and resolved config, written in the background. Orbax only here."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from align_jax import paths
from align_jax.state import TrainState
from align_jax.types import AlignError


class Checkpoints:
    """<folder>/<step>/{state,config}. The data position is the step itself (design decision 6).

    What a killed writer left unfinished is never read and never deleted: a reader leaves it alone (the writer may be
    alive), the next writer moves it to <step>.unfinished.
    """

    def __init__(self, folder: Path, *, every: int, keep: int = 2):
        if every < 1 or keep < 1:
            raise AlignError(f"checkpoint: expected every and keep of at least 1, found {every} and {keep}")
        self._folder, self.every, self._keep = folder.absolute(), every, keep
        self._manager: ocp.CheckpointManager | None = None
        for path in self._unfinished():
            logging.warning("checkpoint %s is unfinished and is ignored", path)

    def latest(self) -> int | None:
        """The last finished step, or None."""
        return latest(self._folder)

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied off the devices."""
        step = int(state.step)
        if step != self.latest():
            args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), config=ocp.args.JsonSave(config))
            self._writer().save(step, args=args)

    def restore(self, like: TrainState) -> TrainState:
        """The last finished checkpoint, with the shapes, dtypes and shardings of `like`."""
        path = self._folder / str(self.latest())
        _refuse_other_arrays(path, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_abstract, _tree(like))))
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                return TrainState(**reader.restore(path, args=args)["state"])
        except (ValueError, KeyError) as error:
            raise AlignError(f"{path} does not fit this config: {str(error).splitlines()[0]}") from error

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # Where another process has gone, what is being written waits for it in vain, and would hide the first error.
        if self._manager is not None and (error is None or jax.process_count() == 1):
            self._manager.close()

    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None:
            if jax.process_index() == 0:
                for path in self._unfinished():
                    path.rename(_free(path.with_name(path.name.split(".")[0] + ".unfinished")))
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True, enable_async_checkpointing=True)
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        return self._manager

    def _unfinished(self) -> list[Path]:
        folders = sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())
        return [path for path in folders if ".unfinished" not in path.name and not _is_finished(path)]


def latest(folder: Path) -> int | None:
    """The last finished step in a folder of checkpoints, or None."""
    return max((int(path.name) for path in folder.glob("*") if _is_finished(path)), default=None)


def _is_finished(path: Path) -> bool:
    marks = (path / "_CHECKPOINT_METADATA", path / "state" / "_METADATA")
    return path.name.isdigit() and all(mark.exists() for mark in marks)


def _refuse_other_arrays(path: Path, like: TrainState) -> None:
    """Before anything is read: a reader that fails in the middle leaves its other reads behind."""
    handlers = {"state": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as reader:
        stored = reader.metadata(path).item_metadata["state"]
    for name in ("params", "model_state"):
        here, there = paths.flatten(getattr(like, name)), paths.flatten(stored[name])
        for key in sorted(here.keys() | there.keys()):
            ours, theirs = (tuple(side[key].shape) if key in side else None for side in (here, there))
            if ours != theirs:
                raise AlignError(
                    f"{path} does not fit this config: {name}/{key} has shape {theirs} there and {ours} here"
                )


def _free(path: Path) -> Path:
    """`path`, or the first of path-1, path-2, .. that is not taken."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _tree(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "model_state", "task_state", "opt_state", "rng")}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
