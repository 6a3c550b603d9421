"""Checkpoints of a run: state, data position and resolved config, written in the background. Orbax only here."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from align_jax.state import TrainState
from align_jax.types import AlignError


class Checkpoints:
    """<folder>/<step>/{state,config}. The data position is the step itself (design decision 6)."""

    def __init__(self, folder: Path, *, every: int, keep: int = 2):
        if every < 1 or keep < 1:
            raise AlignError(f"checkpoint: expected every and keep of at least 1, found {every} and {keep}")
        self._folder, self.every = folder.absolute(), every
        set_aside_unfinished(folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The last finished step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied off the devices."""
        step = int(state.step)
        if step != self.latest():
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), config=ocp.args.JsonSave(config)))  # fmt: skip

    def restore(self, like: TrainState) -> TrainState:
        """The last finished checkpoint, with the shapes, dtypes and shardings of `like`."""
        step = self.latest()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_abstract, _tree(like))))
        try:
            tree = self._manager.restore(step, args=args)["state"]
        except (ValueError, KeyError) as error:
            raise AlignError(f"{self._folder}/{step} does not fit this config: {str(error).splitlines()[0]}") from error
        return TrainState(**tree)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        self._manager.wait_until_finished()


def _tree(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "model_state", "task_state", "opt_state", "rng")}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def set_aside_unfinished(folder: Path) -> None:
    """Ignores, with a warning, what a killed writer left: it is moved to <name>.unfinished, never deleted."""
    for path in sorted(folder.glob("*")):
        finished = (path / "_CHECKPOINT_METADATA").exists() and (path / "state" / "_METADATA").exists()
        if path.is_dir() and path.suffix != ".unfinished" and not finished:
            logging.warning("checkpoint %s is unfinished and is ignored", path)
            aside = path.with_name(path.name.split(".")[0] + ".unfinished")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
