"""`config.init`: parameters of other runs as a starting point, path by path, with a strict report."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from align_jax import paths
from align_jax.loading import load
from align_jax.state import TrainState
from align_jax.types import AlignError


def make(entries: Sequence[Mapping[str, Any]]) -> Callable[[TrainState], TrainState]:
    """state -> state with what the entries name taken from their checkpoints.

    An entry is {"checkpoint": a work directory or an export, "paths": {from: to, ..}}: the parameters (and the model
    state) below `from` there replace those below `to` here; "" is everything. Shapes must agree and nothing below
    either may be left over.
    """
    for entry in entries:
        if set(entry) != {"checkpoint", "paths"}:
            raise AlignError(f"config.init: expected entries with checkpoint and paths, found {sorted(entry)}")
        if not (Path(entry["checkpoint"]) / "config.json").exists():
            raise AlignError(f"config.init: expected a run or an export, found none in {entry['checkpoint']}")

    def apply(state: TrainState) -> TrainState:
        params, model_state = state.params, state.model_state
        for entry in entries:
            other = load(entry["checkpoint"])
            params = _replaced(params, other.params, entry)
            # The collections of the model state hold the same paths one level down.
            model_state = {
                name: _replaced(tree, other.model_state.get(name, {}), entry, optional=True)
                for name, tree in model_state.items()
            }
        return dataclasses.replace(state, params=params, model_state=model_state)

    return apply


def _replaced(tree: Any, other: Any, entry: Mapping[str, Any], *, optional: bool = False) -> Any:
    flat, source = paths.flatten(tree), paths.flatten(other)
    for start, goal in entry["paths"].items():
        wanted = set(_below(goal, flat).values())
        given = {f"{goal}/{rest}".strip("/"): path for rest, path in _below(start, source).items()}
        where = f"config.init: {entry['checkpoint']} {start or 'all'!r} -> {goal or 'all'!r}"
        if not wanted and not given and optional:
            continue
        if wanted != set(given) or not wanted:
            differing = sorted(wanted ^ set(given))[:3]
            raise AlignError(f"{where}: expected the same parameters on both sides, found {differing} on one only")
        for path, origin in given.items():
            old, new = flat[path], np.asarray(source[origin])
            if old.shape != new.shape:
                raise AlignError(f"{where}: expected {path} of shape {old.shape}, found {new.shape}")
            flat[path] = jax.device_put(new.astype(old.dtype), old.sharding)
        logging.info("%s: %d arrays", where, len(given))
    return paths.unflatten(flat)


def _below(folder: str, known: Iterable[str]) -> dict[str, str]:
    """{what follows `folder`: path} of the paths that are `folder` or stand below it; "" is above all."""
    return {
        path[len(folder) :].strip("/"): path for path in known if f"{path}/".startswith(f"{folder}/" if folder else "")
    }
