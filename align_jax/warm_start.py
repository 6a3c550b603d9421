"""`config.init`: published towers and parameters of other runs as a starting point, with a strict report."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from align_jax import paths, published
from align_jax.config import Config
from align_jax.loading import load
from align_jax.portable import opened
from align_jax.state import TrainState
from align_jax.types import AlignError


def make(*, image: str = "", text: str = "", checkpoints: Sequence[Mapping[str, Any]] = ()) -> "Start":
    """Where a run starts, of `config.init`.

    Args:
      image, text: a published tower, by file, folder or hub name; empty: none.
      checkpoints: entries {"checkpoint": a work directory or an export, "paths": {from: to, ..}}: the parameters (and
        the model state) below `from` there replace those below `to` here; "" is everything. Shapes must agree and
        nothing below either may be left over. They come after the towers.
    """
    for entry in checkpoints:
        if set(entry) != {"checkpoint", "paths"}:
            raise AlignError(
                f"config.init.checkpoints: expected entries with checkpoint and paths, found {sorted(entry)}"
            )
        if not (Path(entry["checkpoint"]) / "config.json").exists():
            raise AlignError(
                f"config.init.checkpoints: expected a run or an export, found none in {entry['checkpoint']}"
            )
    return Start({kind: name for kind, name in (("image", image), ("text", text)) if name}, tuple(checkpoints))


@dataclasses.dataclass(frozen=True)
class Start:
    """What a new run is given. The sources of towers are read when first asked for."""

    names: Mapping[str, str]  # "image", "text" -> the source of that tower
    checkpoints: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def towers(self) -> published.Towers:
        """The towers, as read."""
        found = {name: opened(name) for name in dict.fromkeys(self.names.values())}
        return {kind: found[name] for kind, name in self.names.items()}

    @contextlib.contextmanager
    def vocabulary(self, config: Config) -> Iterator[Path | None]:
        """A file with the text tower's own vocabulary, where the config names none; None without such a tower.

        AlignError where the config names another.
        """
        if "text" not in self.names:
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            yield published.vocabulary(self.towers["text"], config, Path(folder))

    def __call__(self, state: TrainState) -> TrainState:
        """The state with what is given in place of its own."""
        state = published.placed(state, self.towers)
        params, model_state = state.params, state.model_state
        for entry in self.checkpoints:
            other = load(entry["checkpoint"])
            params = _replaced(params, other.params, entry)
            # The collections of the model state hold the same paths one level down.
            model_state = {
                name: _replaced(tree, other.model_state.get(name, {}), entry, optional=True)
                for name, tree in model_state.items()
            }
        return _averaged_anew(dataclasses.replace(state, params=params, model_state=model_state))


def _averaged_anew(state: TrainState) -> TrainState:
    """The moving average, where one is kept, begins at the parameters that were given, not at those drawn before."""
    if "ema" not in state.opt_state:
        return state
    params = paths.flatten(state.params)
    ema = {
        path: jax.device_put(jnp.copy(params[path]), old.sharding)
        for path, old in paths.flatten(state.opt_state["ema"]).items()
    }
    return dataclasses.replace(state, opt_state={**state.opt_state, "ema": paths.unflatten(ema)})


def _replaced(tree: Any, other: Any, entry: Mapping[str, Any], *, optional: bool = False) -> Any:
    flat, source = paths.flatten(tree), paths.flatten(other)
    for start, goal in entry["paths"].items():
        wanted = set(_below(goal, flat).values())
        given = {f"{goal}/{rest}".strip("/"): path for rest, path in _below(start, source).items()}
        where = f"config.init.checkpoints: {entry['checkpoint']} {start or 'all'!r} -> {goal or 'all'!r}"
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
