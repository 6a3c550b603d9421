"""Configs are Python files with `get_config()`. Every key is checked against what will consume it.

A section of a config is the keyword arguments of one callable; `call` refuses a key that the callable does not take and
says which one was probably meant, and a value that its annotation excludes, before anything is compiled. The resolved
config stands beside the run.
"""

import difflib
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from align_jax.types import AlignError

Config = Any  # a ml_collections.ConfigDict: what its values are, no type checker can know

SECTIONS = ("seed", "steps", "batch_size", "mesh", "task", "data", "optim", "checkpoint", "log_every", "steps_ahead",
            "evals", "evaluate_every", "watch", "export", "init", "freeze", "stages")  # fmt: skip
# What may differ between a run and its continuation: how it is watched and computed, not what it computes.
FREE_ON_RESUME = ("log_every", "steps_ahead", "checkpoint", "evals", "evaluate_every", "watch", "export",
                  "data.threads", "data.prefetch", "data.max_bad_share", "mesh", "stages", "task.micro_batches",
                  "task.loss_form", "task.loss_block", "task.gather", "task.split", "task.image.remat",
                  "task.text.remat", "task.image.scan", "task.text.scan")  # fmt: skip

# Annotation -> (one of it, several of it), as an error names them: the kinds of values that are checked.
NAMES = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("a text", "texts"),
         bool: ("True or False", "True or False each"), dict: ("a section", "sections"),
         Mapping: ("a section", "sections"), types.NoneType: ("None", "None each")}  # fmt: skip
LISTS = (list, tuple, Sequence)
STEPS = re.compile(r"(?P<steps>\d+)|(?P<epochs>\d+|\d*\.\d+) epochs?")
OF_STAGE = re.compile(r"stages\[(?P<number>\d+)\]\.(?P<key>.+)")  # as ml_collections spells it on the command line


def nearest(key: str, known: Sequence[str]) -> str:
    """'; did you mean ...?' or the list of what is known."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid keys are {sorted(known)}"


def call(fn: Callable[..., Any], section: Mapping[str, Any], *, where: str, **given: Any) -> Any:
    """`fn(**given, **section)`, where each key must be a keyword argument of `fn`, its value as annotated there."""
    known, needed = keywords(fn, given)
    check_keys(section, known, needed, where=where)
    check_values(fn, section, where=where)
    return fn(**given, **section)


def keywords(fn: Callable[..., Any], given: Iterable[str]) -> tuple[list[str], list[str]]:
    """The arguments of `fn` that a section may name, and those that it must; `given` are not its own."""
    parameters = inspect.signature(fn).parameters
    known = [name for name in parameters if name not in given and name != "self"]
    needed = [
        name for name in known if parameters[name].default is inspect.Parameter.empty
        and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    ]  # fmt: skip
    return known, needed


def check_keys(section: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], *, where: str) -> None:
    """Refuses a key outside `known`, naming the nearest, and the lack of one that is `needed`."""
    for key in section:
        if key not in known:
            raise AlignError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    for key in needed:
        if key not in section:
            raise AlignError(f"{where}: missing key {key!r}; set it in the config")


def check_values(fn: Callable[..., Any], section: Mapping[str, Any], *, where: str) -> None:
    """Refuses values that the annotations of `fn` exclude: those made of `NAMES`, lists of them, and unions.

    What is annotated otherwise is for `fn` to check; a default is always taken. An int is a float, but a bool is no
    int, and a text no list of texts.
    """
    try:
        parameters = inspect.signature(fn, eval_str=True).parameters
    except NameError:  # of an import for type checkers alone
        return
    for key, value in section.items():
        if key in parameters and value is not parameters[key].default and not fits(value, parameters[key].annotation):
            annotation = parameters[key].annotation
            raise AlignError(f"{where}.{key}: expected {_wanted(annotation)}, found {value!r}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether the annotation allows the value, as far as `check_values` understands it."""
    origin, inside = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping | ConfigDict)
    if origin in LISTS:
        if origin is tuple and inside[1:] != (...,):  # each place has an annotation of its own
            return True
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(v, *inside[:1]) for v in value)
    if origin in (int, float):
        return isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
    return origin not in NAMES or isinstance(value, origin)


def _wanted(annotation: Any, number: int = 0) -> str:
    """'a number or a list of texts'; `number` 1 of several."""
    origin, inside = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_wanted(one, number) for one in inside)
    if origin in LISTS:
        return f"{('a list', 'lists')[number]} of {_wanted(inside[0], 1)}" if inside else ("a list", "lists")[number]
    return NAMES[origin][number] if origin in NAMES else "values that it takes"


def check(config: Config) -> None:
    """Refuses sections that nothing reads, missing ones, and numbers that cannot be."""
    try:
        keys = list(config)
    except OSError as error:  # ml_collections tells of a config file that is not there when it is first used
        raise AlignError(f"--config: {str(error).splitlines()[-1].strip()}") from error
    check_keys(dict.fromkeys(keys), SECTIONS, SECTIONS, where="config")
    steps(config["steps"])
    for key in ("batch_size", "log_every", "steps_ahead"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise AlignError(f"config.{key}: expected a whole number of at least 1, found {config[key]!r}")
    for key in ("seed", "evaluate_every"):
        if not isinstance(config[key], int) or config[key] < 0:
            raise AlignError(f"config.{key}: expected a whole number of at least 0, found {config[key]!r}")


def steps(said: int | str, *, records: int = 1, batch_size: int = 1) -> int:
    """The number of steps that `config.steps` says: "17 epochs" are as many as read 17 times `records` rows, or one.

    A text may also be a whole number: it is what --config.steps=50 makes of a text. (An override has the type of what
    it overrides, so "17 epochs" must stand in the config file, or in a stage; a number can then take its place.)
    """
    match = STEPS.fullmatch(str(said)) if fits(said, int | str) else None
    if match is None or not Fraction(match["steps"] or match["epochs"]):
        raise AlignError(f"config.steps: expected a whole number of at least 1 or '<number> epochs', found {said!r}")
    if match["steps"]:
        return int(match["steps"])
    return max(math.ceil(Fraction(match["epochs"]) * records / batch_size), 1)


def plain(config: Config) -> dict[str, Any]:
    """The config as JSON would return it: dicts, lists and scalars."""
    return json.loads(config.to_json() if isinstance(config, ConfigDict) else json.dumps(config))


def override(config: Config, values: Mapping[str, Any], *, where: str) -> Config:
    """A copy with other values: dotted key -> value, each key being one that the config has.

    "stages[1].optim.learning_rate" is a key of the second stage, whether the stage names it already or not.
    """
    own: Config = ConfigDict(plain(config))
    for key, value in values.items():
        if of_stage := OF_STAGE.fullmatch(key):
            if int(of_stage["number"]) >= len(own.stages):
                raise AlignError(f"{where}: expected a key of one of {len(own.stages)} stages, found {key!r}")
            own.stages[int(of_stage["number"])][of_stage["key"]] = value
            continue
        node: Config = own
        *parents, last = key.split(".")
        for parent in parents:
            node = node.get(parent) or ConfigDict()
        if last not in node:
            raise AlignError(f"{where}: unknown key {key!r}; {nearest(last, list(node.keys()))}")
        with node.ignore_type():
            node[last] = value
    return own


def load(path: Path) -> Config:
    """The resolved config that stands beside a run or in an export."""
    if not path.exists():
        raise AlignError(f"expected a run or an export, found no {path}; give the folder that holds config.json")
    return ConfigDict(json.loads(path.read_text()))


def refuse_other(config: Config, path: Path) -> None:
    """Refuses to continue the run whose config stands at `path` with one that computes something else."""
    if not path.exists():
        return
    old, new = (flat(plain(c), without=FREE_ON_RESUME) for c in (load(path), config))
    for key in sorted(old | new):
        if old.get(key) != new.get(key):
            raise AlignError(
                f"{path.parent} holds a run with {key} = {old.get(key)!r}, this one has "
                f"{new.get(key)!r}; give another --workdir or the same value"
            )


def flat(config: Mapping[str, Any], *, without: Sequence[str] = (), prefix: str = "config.") -> dict[str, Any]:
    """Dotted key -> value of a plain config, as overrides name them, but for sections and keys `without`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key
        if name.removeprefix("config.") not in without:
            found |= flat(value, without=without, prefix=f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
