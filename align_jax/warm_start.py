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
from align_jax.checkpoint import Checkpoints, latest
from align_jax.config import Config
from align_jax.config import load as config_of
from align_jax.data import tokenizer_folder
from align_jax.loading import load
from align_jax.portable import opened
from align_jax.state import TrainState
from align_jax.types import AlignError, PyTree

WORDS = "text_tower/word_embedding/embedding"  # the table whose rows mean pieces of a vocabulary


def make(*, image: str = "", text: str = "", checkpoints: Sequence[Mapping[str, Any]] = ()) -> "Start":
    """Where a run starts, of `config.init`.

    Args:
      image, text: a published tower, by file, folder or hub name; empty: none.
      checkpoints: entries {"checkpoint": a work directory or an export, "paths": {from: to, ..}}: the parameters (and
        the model state) below `from` there replace those below `to` here; "" is everything. Shapes must agree and
        nothing below either may be left over. They come after the towers. Where a run keeps averaged weights, these
        are what it gives.

        An entry that gives the word embedding of a text tower gives its vocabulary too, as `text` does: the run takes
        it where config.data.vocab.path is empty, and refuses another there.

        {"checkpoint": a work directory, "paths": {"": ""}, "optimizer": True}, alone, also goes on with the state of
        that run's optimizer, of its last checkpoint: the moments (with Adam's count of the steps in them), the moving
        average, and the weights as they were trained, not averaged. Both runs must train the same parameters by the
        same kind of optimizer; its numbers may differ. Steps, and with them the learning rate, are counted anew.
    """
    for entry in checkpoints:
        if set(entry) - {"optimizer"} != {"checkpoint", "paths"}:
            raise AlignError(
                f"config.init.checkpoints: expected entries with checkpoint and paths, found {sorted(entry)}"
            )
        folder = Path(entry["checkpoint"])
        if not (folder / "config.json").exists():
            raise AlignError(f"config.init.checkpoints: expected a run or an export, found none in {folder}")
        kept = entry.get("optimizer", False)
        if not isinstance(kept, bool):
            raise AlignError(f"config.init.checkpoints: expected 'optimizer' to be True or False, found {kept!r}")
        if kept:
            if len(checkpoints) > 1 or dict(entry["paths"]) != {"": ""}:
                raise AlignError(
                    "config.init.checkpoints: expected an entry with 'optimizer' to be the only one and its paths to "
                    f"be {{'': ''}}, found {len(checkpoints)} entries, its paths {dict(entry['paths'])}"
                )
            if latest(folder / "checkpoints") is None:
                raise AlignError(
                    f"config.init.checkpoints: expected a run, whose checkpoints have the optimizer's state, found no "
                    f"finished one in {folder}; leave 'optimizer' out to begin with a fresh one"
                )
    return Start({kind: name for kind, name in (("image", image), ("text", text)) if name}, tuple(checkpoints))


def refuse_other_parameters(here: TrainState, there: TrainState, entry: Mapping[str, Any]) -> None:
    """Refuses to take from the state `there` what an entry of `config.init.checkpoints` says, where it does not fit.

    Both states may be abstract.
    """
    _taken(paths.flatten(here.params), paths.flatten(there.params), entry)
    for name, tree in here.model_state.items():
        _taken(paths.flatten(tree), paths.flatten(there.model_state.get(name, {})), entry, optional=True)


def refuse_other_case(config: Config, other: Config, origin: str) -> None:
    """Refuses to read letters, upper and lower, in another way than the run in `origin`, of config `other`."""
    ours, theirs = (own.data.vocab.get("lowercase", True) for own in (config, other))
    if ours != theirs:
        raise AlignError(
            f"config.data.vocab.lowercase: expected {theirs}, that of {origin}, whose word embedding "
            f"config.init.checkpoints takes, found {ours}; give the same"
        )


def refuse_other_state(here: PyTree, there: PyTree, origin: str) -> None:
    """Refuses to go on with the optimizer's state of the run in `origin` where its arrays, or its kind, are others."""
    ours, theirs = ({_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(s)} for s in (here, there))
    differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if differing:
        shapes = f"{differing[0]} of shape {ours.get(differing[0])} here and {theirs.get(differing[0])} there"
        found = f"{len(differing)} arrays that differ, such as {shapes}"
    elif jax.tree.structure(here) != jax.tree.structure(there):
        found = "another config.optim.name or clip_norm"
    else:
        return
    raise AlignError(
        f"config.init.checkpoints: expected the optimizer and the trained parameters of {origin}, whose optimizer's "
        f"state is to be kept, found {found}; begin with a fresh optimizer (leave 'optimizer' out)"
    )


def _name(path: tuple[Any, ...]) -> str:
    """As transform/mu/text_tower/..: without the places that optax gives its states, which tell a user nothing."""
    parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return "/".join(part for part in parts if not part.isdigit())


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
        """A file with the vocabulary of the word embedding that is given; None where none is, or it has none.

        AlignError where the config names another.
        """
        with tempfile.TemporaryDirectory() as folder:
            tower = self.towers["text"] if "text" in self.names else None
            found = None if tower is None else published.vocabulary(tower, config, Path(folder))
            for entry in self.checkpoints if "vocab" in config.data else ():
                if any(f"{WORDS}/".startswith(f"{goal}/" if goal else "") for goal in entry["paths"].values()):
                    found = _vocabulary(entry["checkpoint"], config) or found
            yield found

    def __call__(self, state: TrainState) -> TrainState:
        """The state with what is given in place of its own."""
        if self.checkpoints and self.checkpoints[0].get("optimizer"):
            return _continued(state, Path(self.checkpoints[0]["checkpoint"]))
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


def _vocabulary(origin: str, config: Config) -> Path | None:
    """The vocabulary of a run or an export, with which this config must agree; None where it reads no texts."""
    other = config_of(Path(origin) / "config.json")
    if other.data.get("vocab") is None:
        return None
    path = tokenizer_folder.kept(Path(origin))
    if path is None:
        raise AlignError(
            f"config.init.checkpoints: expected a vocabulary beside the word embedding of {origin}, found none; put "
            f"the {' or '.join(tokenizer_folder.FILES)} there that it was trained with"
        )
    of = f"{origin}, whose word embedding config.init.checkpoints takes"
    published.refuse_other_vocabulary(path, config, of=of, mend=f"give --config.data.vocab.path={origin}")
    refuse_other_case(config, other, origin)
    return path


def _continued(state: TrainState, origin: Path) -> TrainState:
    """The state with the weights, the statistics and the optimizer's state of a run's last checkpoint."""
    with Checkpoints(origin / "checkpoints", every=1) as checkpoints:
        found = checkpoints.restore(state)
    return dataclasses.replace(
        state, params=found.params, model_state=found.model_state, opt_state=found.opt_state
    )  # fmt: skip


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
    taken = _taken(flat, source, entry, optional=optional)
    for path, origin in taken.items():
        old = flat[path]
        flat[path] = jax.device_put(np.asarray(source[origin]).astype(old.dtype), old.sharding)
    logging.info("config.init.checkpoints: %s: %d arrays", entry["checkpoint"], len(taken))
    return paths.unflatten(flat)


def _taken(
    flat: Mapping[str, Any], source: Mapping[str, Any], entry: Mapping[str, Any], *, optional: bool = False
) -> dict[str, str]:
    """{path: the path in `source` of what takes its place}. AlignError where something is left over or does not fit."""
    taken: dict[str, str] = {}
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
            old, new = flat[path].shape, source[origin].shape
            if old != new:
                raise AlignError(f"{where}: expected {path} of shape {old}, found {new}")
        taken |= given
    return taken


def _below(folder: str, known: Iterable[str]) -> dict[str, str]:
    """{what follows `folder`: path} of the paths that are `folder` or stand below it; "" is above all."""
    return {
        path[len(folder) :].strip("/"): path for path in known if f"{path}/".startswith(f"{folder}/" if folder else "")
    }
