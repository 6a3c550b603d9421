"""Steps whose loss or gradient is not finite: each leaves a replay bundle, too many in a row end the run."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax import files
from align_jax.types import AlignError, Mean

WORST = 3  # parameters that the story names
BUNDLES = 20  # that a run writes; a run that goes on beyond that says nothing new


class Diverged(AlignError):
    """Too many steps in a row were not finite."""


class NonFinite:
    """Takes each finished step in order.

    A bundle is <folder>/step-<s>/bundle.json: what it takes to compute step s again (its number, seed and key, the ids
    of its rows) and what came out (its metrics, the gradient's norm by parameter, which says where it broke).
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int,
        parameters: Sequence[str],
        ids: Callable[[int], Sequence[str]],
        facts: Mapping[str, Any],
        tell: Callable[..., None],
    ):
        """`limit` in a row end the run; `parameters`: paths, in the order of the norms; `ids(position)`: of this
        process's rows of the batch that step position + 1 trains on; `facts` stand in every bundle; `tell(event, text,
        **facts)`."""
        self._folder, self._limit, self._parameters = folder, limit, tuple(parameters)
        self._ids, self._facts, self._tell = ids, dict(facts), tell
        self._row = 0
        self._written = 0

    def see(self, step: int, metrics: Mapping[str, Mean], norms: jax.Array) -> None:
        """Step number `step`, counted from 1. Diverged where too many in a row were not finite."""
        if not float(jax.device_get(metrics["non_finite_steps"].total)):
            self._row = 0
            return
        self._row += 1
        values = {name: mean.compute() for name, mean in jax.device_get(dict(metrics)).items()}
        by_parameter = dict(zip(self._parameters, np.asarray(jax.device_get(norms)).tolist(), strict=True))
        path = self._bundle(step, values, by_parameter) if self._written < BUNDLES else None
        self._tell(
            "non_finite", f"step {step} was not finite (loss {values['loss']:.4g}) and changed nothing"
            + (f"; {path} has what it takes to replay it" if path else ""), step=step, path=str(path or ""),
        )  # fmt: skip
        if self._row >= self._limit:
            raise Diverged(self._story(step, values, by_parameter))

    def _bundle(self, step: int, values: Mapping[str, float], norms: Mapping[str, float]) -> Path:
        self._written += 1
        folder = self._folder / f"step-{step}"
        files.write_json(
            folder / "bundle.json", {"step": step, **self._facts, "metrics": _plain(values), "norms": _plain(norms)}
        )
        folder.mkdir(parents=True, exist_ok=True)
        own = f"-{jax.process_index()}" if jax.process_count() > 1 else ""  # each process knows its own rows
        (folder / f"ids{own}.json").write_text(json.dumps(list(self._ids(step - 1)), indent=0) + "\n")
        return folder

    def _story(self, step: int, values: Mapping[str, float], norms: Mapping[str, float]) -> str:
        largest = sorted(norms, key=lambda name: norms[name])[-WORST:]
        broken = [name for name in norms if not math.isfinite(norms[name])]
        if broken:
            some = ", ".join(broken[:WORST])
            where = f"the gradient is not finite in {len(broken)} of {len(norms)} parameters, such as {some}"
        else:
            where = f"the gradients are finite, the loss is not; the largest gradients are of {', '.join(largest)}"
        return (
            f"steps {step - self._row + 1} to {step} were not finite, {self._row} in a row (config.watch.non_finite): "
            f"loss {values['loss']:.4g}, {where}; usual causes: a learning rate too high (it is "
            f"{values['learning_rate']:.3g}), no clipping (--config.optim.clip_norm), bad rows ({self._folder} lists "
            "them); mend one and start again from the last checkpoint"
        )


def _plain(values: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no word for what is not finite."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
