"""Checkpoints of a run: state, data position and resolved config, written in the background. Orbax only here."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from align_jax import paths
from align_jax.config import nearest
from align_jax.state import TrainState
from align_jax.types import AlignError, Result

ASK = 16  # steps between two questions to process 0, by whose clock all go: the answer waits for the devices
DISK = ("No space left", "File too large", "Disk quota", "Input/output error", "Read-only file system")


class Checkpoints:
    """<folder>/<step>/{state,config}. The data position is the step itself (design decision 6).

    What a killed writer left unfinished is never read and never deleted: a reader leaves it alone (the writer may be
    alive), the next writer moves it to <step>.unfinished.
    """

    def __init__(
        self, folder: Path, *, every: int, minutes: float = 0.0, keep: int = 2, keep_every: int = 0, best: str = ""
    ):
        """`every` that many steps, and after that many `minutes` (0: by steps alone), one is written. The last `keep`
        stay, those of steps that `keep_every` divides (0: none), and the one with the highest result named `best`, of
        those after whose steps an evaluation took place (which are then all written).
        """
        if every < 1 or keep < 1 or minutes < 0 or keep_every < 0:
            raise AlignError(
                "config.checkpoint: expected every and keep of at least 1, minutes and keep_every of at least 0, found "
                f"{every}, {keep}, {minutes} and {keep_every}"
            )
        self._folder, self._every, self._seconds = folder.absolute(), every, 60 * minutes
        self._keep, self._keep_every, self._best = keep, keep_every, best
        self._results: dict[str, float] = {}  # of an evaluation of the state that stands
        self._judged = -1  # the step of that state
        self._saved_at = time.monotonic()
        self._manager: ocp.CheckpointManager | None = None
        for path in self._unfinished():
            logging.warning("checkpoint %s is unfinished and is ignored", path)

    def latest(self) -> int | None:
        """The last finished step, or None."""
        return latest(self._folder)

    def judge(self, step: int, results: Sequence[Result]) -> None:
        """Notes what an evaluation found of the state after `step`: of all evaluators, or of those that were due."""
        self._judged, self._results = step, {result.name: result.value for result in results}
        evaluator = self._best.split("/")[0]
        own = [name for name in self._results if name.split("/")[0] == evaluator]
        if own and self._best not in own:
            raise AlignError(
                f"config.checkpoint.best: expected the name of a result, found {self._best!r}; "
                f"{nearest(self._best, own)}"
            )

    def due(self, step: int) -> bool:
        """Whether the state after `step` is to be saved; the same on all processes."""
        if step % self._every == 0 or (self._best in self._results and step == self._judged):
            return True
        if not self._seconds or (jax.process_count() > 1 and step % ASK):
            return False
        late = time.monotonic() - self._saved_at > self._seconds
        return bool(multihost_utils.broadcast_one_to_all(np.int32(late))) if jax.process_count() > 1 else late

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied off the devices."""
        step = int(state.step)
        self._saved_at = time.monotonic()
        if step == self.latest():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), config=ocp.args.JsonSave(config))
        metrics = self._results if step == self._judged else {}
        with self._told():
            self._writer().save(step, args=args, metrics=metrics)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The finished checkpoint of `step`, by default the last, with the shapes, dtypes and shardings of `like`."""
        path = self._folder / str(self.latest() if step is None else step)
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
            with self._told():
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
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._policy(), best_fn=self._rank if self._best else None, create=True,
                enable_async_checkpointing=True,
            )  # fmt: skip
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        return self._manager

    def _policy(self) -> policies.PreservationPolicy:
        kept: list[policies.PreservationPolicy] = [policies.LatestN(self._keep)]
        if self._keep_every:
            kept.append(policies.EveryNSteps(self._keep_every))
        if self._best:
            kept.append(policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False))
        return policies.AnyPreservationPolicy(kept)

    def _rank(self, results: dict[str, float]) -> float:
        """Of a checkpoint: those that were not evaluated come last."""
        return results.get(self._best, -math.inf)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the disk refuses, in one line; the checkpoints that stand are whole."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            found = [sign for sign in DISK if sign in str(error)]
            if found or isinstance(error, OSError):
                raise AlignError(
                    f"{self._folder}: a checkpoint could not be written ({(found or [str(error)])[0]}); the last "
                    f"whole one is of step {self.latest()}; make room or mend the disk, and start again"
                ) from error
            raise

    def _unfinished(self) -> list[Path]:
        folders = sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())
        return [path for path in folders if ".unfinished" not in path.name and not _is_finished(path)]


def latest(folder: Path) -> int | None:
    """The last finished step in a folder of checkpoints, or None."""
    return max(finished(folder), default=None)


def finished(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in a folder."""
    return sorted(int(path.name) for path in folder.glob("*") if _is_finished(path))


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
