"""The words of the house: dimension letters, batches, and the two protocols that join its rooms.

Dimension letters, used in every docstring:
  B rows of a batch here   N rows of the global batch   D embedding width   L text length in word pieces
  V vocabulary             H, W image height, width     C classes or channels   P image tokens   R regions
  Q object queries

`rows` are the leading axis of every array of a batch. A *global* array holds all N rows of a step, spread over the
devices; a *local* one the B rows of one device.

This module imports nothing of ours and, at run time, no jax: the data workers import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import jax
    import numpy as np

PyTree = Any
Params = PyTree  # nested dicts of f32 arrays, owned by the optimizer
ModelState = PyTree  # nested dicts: batch statistics and whatever else a model keeps between steps
Batch = Mapping[str, Any]  # name -> array whose leading axis is rows
SplitRule = tuple[str, int]  # pattern of parameter paths, and the axis along which those are split; -1 for none


class AlignError(Exception):
    """What a user can mend. `str(error)` is one line: what was expected, what was found, what to do."""


class Mean(NamedTuple):
    """A mergeable mean: (sum, count), so that averages over uneven parts are exact."""

    total: Any
    count: Any

    def merge(self, other: Mean) -> Mean:
        """The mean over both parts."""
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """The value; nan where nothing was counted."""
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


class RowArray(Protocol):
    """Rows [n, D] of which some are taken at a time: an array, or files that are read where they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


class Aux(NamedTuple):
    """What a step returns besides the loss."""

    model_state: ModelState
    task_state: PyTree  # momentum encoders, queues; () for most tasks
    metrics: dict[str, Mean]


class Task(Protocol):
    """Turns a batch into a loss. One loop trains any Task."""

    @property
    def split(self) -> Sequence[SplitRule]:
        """How some of its parameters are split over devices; the others go by size."""
        ...

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh parameters and model state for batches shaped like `batch`."""
        ...

    def check(self, rows: int) -> None:
        """Refuses a number of training rows per device that the model cannot take, by an AlignError."""
        ...

    def chance(self, rows: int) -> float | None:
        """The loss of a model that knows nothing, on a global batch of `rows`; None where that is not known."""
        ...

    def init_task_state(self, params: Params, model_state: ModelState) -> PyTree:
        """Whatever else the task carries from step to step."""
        ...

    def loss(
        self, params: Params, model_state: ModelState, task_state: PyTree, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The scalar f32 loss of a global batch, under the mesh that `jax.set_mesh` names."""
        ...

    def functions(self) -> dict[str, Callable[[Params, ModelState, Batch], jax.Array]]:
        """Inference by name ("embed_images", "classify_images"): pure functions of (params, model_state, inputs)."""
        ...

    def dummy_batch(self, batch_size: int) -> Batch:
        """Random rows of the right shapes: tests and compile checks need no data set."""
        ...


class Evaluator(Protocol):
    """Measures a model. `needs` names the task functions that it calls."""

    needs: tuple[str, ...]

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Yields results; the same numbers on one device or many."""
        ...

    def panels(self) -> Iterator[Any]:
        """Pictures of what the last `run` found, of the kinds of `evals/panels.py`; by default none."""
        return iter(())


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What each example gave: from these come a result's interval and its comparison with another model's.

    kind "mean": the value is the mean over `parts` of the mean of each (all are one part where None); "median": the
    median of `values`; "draws": `values` are bootstrap draws of the value, the same draws for every model.
    """

    values: np.ndarray  # f32 [n]
    units: np.ndarray | None = None  # int [n]: examples that belong together, as captions of an image; None: none do
    parts: np.ndarray | None = None  # int [n]
    kind: str = "mean"
    ids: str = ""  # digest of what was asked, in order: outcomes with the same are of the same examples


class Result(NamedTuple):
    """One number that a user reads, with how it was measured."""

    name: str
    value: float
    n: int  # examples behind the value
    protocol: str  # split, prompts, crop, ties: what one must know to compare it
    outcome: Outcome | None = None
    facts: Mapping[str, str] = MappingProxyType({})  # for programs: digests of "data", "prompts"; "crop", "fit"
