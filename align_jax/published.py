"""Published towers to start from: config.init.image and config.init.text.

What a config leaves out of a tower is taken from the source; what it names must be what the source has. So weights
never run in another tower than their own, and a config may say as little of one as `{}`.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from align_jax import config as configs
from align_jax import paths, tasks, towers
from align_jax.config import Config
from align_jax.data import tokenizer_folder
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.interop.pretrained import Pretrained
from align_jax.models.bert import SIZES, Bert
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.state import TrainState
from align_jax.types import AlignError

Towers = Mapping[str, Pretrained]  # "image", "text" -> where that tower comes from
# Fields of a tower that do not change what given weights compute in inference.
FREE = {"stochastic_depth", "bn_group_size", "bn_axis_names", "dropout", "attention_dropout", "remat", "scan", "locked",
        "dtype", "param_dtype", "vocab_size", "parent", "name"}  # fmt: skip
FIELDS = {
    kind: [field.name for field in dataclasses.fields(tower) if field.name not in FREE]
    for kind, tower in (("image", EfficientNet), ("text", Bert))
}
NAMED = {"image": towers.image_fields, "text": towers.text_fields}
PRESETS = {"image": ("variant", VARIANTS), "text": ("size", SIZES)}  # the key that names several fields at once
# What a source determines besides the fields of its tower.
AROUND = {
    "image": ("task.pixels", "data.resample"),
    "text": ("task.text_pooling", "data.vocab.size", "data.vocab.lowercase"),
}

DEFAULTS = {"task.pixels": DEFAULT_PIXELS, "data.resample": "bilinear", "task.text_pooling": "cls"}


def _around(kind: str, config: Config) -> tuple[str, ...]:
    """Those of AROUND that the task has: a cross-encoder pools no texts."""
    pools = tasks.examples(config) == "pairs"
    return tuple(key for key in AROUND[kind] if pools or key != "task.text_pooling")


def fitted(config: Config, found: Towers) -> Config:
    """The config with what it leaves to its towers. AlignError where it names another tower than the source has."""
    own: Config = ConfigDict(configs.plain(config))
    for kind, source in found.items():
        if kind not in own.task or f"{kind}_tower" not in source.params:
            without = source.where if kind in own.task else f"the task {own.task.name!r}"
            raise AlignError(f"config.init.{kind}: expected one {kind} tower here and there, found none in {without}")
        theirs = _keys_of(kind, source, own)
        named = _named(kind, own)
        wrong = [key for key, value in theirs.items() if key in named and named[key] != value]
        if wrong:
            raise _another(kind, source, own, {key: (named[key], theirs[key]) for key in wrong})
        for key, value in theirs.items():
            if key not in named:
                _set(own, key, value)
    return own


def as_before(config: Config, path: Path) -> Config:
    """The config with what it leaves to its towers as in the resolved one at `path`, if any: that of its own run."""
    if not path.exists():
        return config
    own: Config = ConfigDict(configs.plain(config))
    before = configs.flat(configs.plain(configs.load(path)), prefix="")
    for kind in FIELDS:
        if own.init[kind] and kind in own.task:
            named = _named(kind, own)
            for key in (*(f"task.{kind}.{field}" for field in FIELDS[kind]), *_around(kind, config)):
                if key in before and key not in named:
                    _set(own, key, before[key])
    return own


def placed(state: TrainState, found: Towers) -> TrainState:
    """The state with the weights and the statistics of the towers."""
    params, model_state = (paths.flatten(tree) for tree in (state.params, state.model_state))
    for kind, source in found.items():
        tower = f"{kind}_tower"
        for here, there, prefix in (
            (params, {tower: source.params[tower]}, f"{tower}/"),
            (model_state, source.model_state, f"batch_stats/{tower}/"),
        ):
            given = {path: leaf for path, leaf in paths.flatten(there).items() if path.startswith(prefix)}
            wanted = {path for path in here if path.startswith(prefix)}
            if differing := sorted(wanted ^ set(given))[:3]:
                raise AlignError(
                    f"config.init.{kind}: expected {source.where} to have the parameters of the tower here, found "
                    f"{differing} on one side only"
                )
            for path, leaf in given.items():
                old, new = here[path], np.asarray(leaf)
                if old.shape != new.shape:
                    raise AlignError(
                        f"config.init.{kind}: expected {path} of shape {old.shape}, found {new.shape} in {source.where}"
                    )
                here[path] = jax.device_put(new.astype(old.dtype), old.sharding)
        logging.info("config.init.%s: the tower of %s", kind, source.where)
    return dataclasses.replace(state, params=paths.unflatten(params), model_state=paths.unflatten(model_state))


def vocabulary(source: Pretrained, config: Config, folder: Path) -> Path | None:
    """The source's own vocabulary, written into `folder`; None where it has none and the config does.

    AlignError where neither has one, or the config another: the rows of the table would mean other pieces.
    """
    given = config.data.vocab.get("path")
    own = [name for name in source.files if name in tokenizer_folder.FILES]
    if not own:
        if given:
            return None
        raise AlignError(
            f"config.init.text: expected a tokenizer beside {source.where}, found none; give --config.data.vocab.path"
        )
    path = folder / own[0]
    source.files[own[0]](path)
    refuse_other_vocabulary(
        path, config, of=source.where, mend="leave it empty (--config.data.vocab.path=), and its own is taken"
    )
    return path


def refuse_other_vocabulary(path: Path, config: Config, *, of: str, mend: str) -> None:
    """AlignError, with what mends it, where config.data.vocab.path names another vocabulary than the one at `path`."""
    given = config.data.vocab.get("path")
    if not given:
        return
    written = []  # both as we write them
    with tempfile.TemporaryDirectory() as folder:
        for place in (path, Path(given)):
            for name, save in tokenizer_folder.open_tokenizer(place).files().items():
                save(Path(folder) / name)
                written.append((name, (Path(folder) / name).read_bytes()))
    if written[0] != written[1]:
        raise AlignError(f"config.data.vocab.path: expected the vocabulary of {of}, found another in {given}; {mend}")


def fields(kind: str, tower: EfficientNet | Bert) -> dict[str, Any]:
    """What determines what a tower computes from given weights in inference."""
    return {name: getattr(tower, name) for name in FIELDS[kind]}


def _keys_of(kind: str, source: Pretrained, config: Config) -> dict[str, Any]:
    """Dotted key of a config -> the value that the source has there."""
    section = source.task[kind]
    if kind == "image":
        tower = towers.image_tower(section, side=config.data.crop)
    else:
        rows = source.params["text_tower"]["word_embedding"]["embedding"].shape[0]
        tower = towers.text_tower(section, vocab_size=rows)
    told = configs.flat({"task": source.task, "data": source.data}, prefix="")
    if "name" in source.task:  # a whole model was made by a config of ours, which may leave out defaults
        told = DEFAULTS | told
    if kind == "text":
        told["data.vocab.size"] = tower.vocab_size
    own = {f"task.{kind}.{name}": value for name, value in fields(kind, tower).items()}
    return own | {key: told[key] for key in _around(kind, config) if key in told}


def _named(kind: str, config: Config) -> dict[str, Any]:
    """Dotted key -> value of what the config says of a tower, and of how it is fed."""
    told = configs.flat(configs.plain(config), prefix="")
    own = {f"task.{kind}.{name}": value for name, value in NAMED[kind](config.task[kind]).items()}
    return own | {key: told[key] for key in _around(kind, config) if told.get(key) is not None}


def _another(kind: str, source: Pretrained, config: Config, wrong: Mapping[str, tuple[Any, Any]]) -> AlignError:
    """What differs, and the overrides that mend it."""
    found = ", ".join(f"config.{key}={ours!r} for {theirs!r}" for key, (ours, theirs) in wrong.items())
    said = configs.flat(configs.plain(config), prefix="")
    mend = [f"--config.{key}={theirs}" for key, (_, theirs) in wrong.items() if key in said]
    if len(mend) < len(wrong):  # a key that the config lacks cannot be set from the command line
        preset, known = PRESETS[kind]
        theirs = _keys_of(kind, source, config)
        fits = [
            name for name in known
            if all(theirs[f"task.{kind}.{field}"] == value for field, value in NAMED[kind]({preset: name}).items())
        ]  # fmt: skip
        mend.append(f"--config.task.{kind}.{preset}={fits[0]}" if fits else f"task.{kind} = {{}} in the config file")
    return AlignError(f"config.init.{kind}: expected the tower of {source.where}, found {found}; give {' '.join(mend)}")


def _set(config: Config, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    node = config
    for section in sections:
        node = node[section]
    with node.ignore_type():
        node[last] = tuple(map(tuple, value)) if last == "stages" else value
