"""The result card: what was measured of one model, as a page for people (card.md) and a file for programs (card.json).

card.json holds what each example gave, so that two cards are enough for a paired comparison of their models.
"""

import base64
import binascii
import dataclasses
import json
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax import config as configs
from align_jax import files, provenance
from align_jax.reporting.text import visible
from align_jax.types import AlignError, Outcome, Result
from align_jax.weights import Weights, sizes

NAME = "card.json"
VERSION = 1  # of the file
# What Markdown would take for structure, HTML, a link or mathematics.
MARKS = re.compile(r"[\\`*\[<|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|@(?=[A-Za-z])|:(?=//)|(?<=www)\.", re.IGNORECASE)


class Measured(NamedTuple):
    """A result with its 95 % interval, and the digest of the code that measured it."""

    result: Result
    interval: tuple[float, float] | None
    code: str


@dataclasses.dataclass(frozen=True)
class Card:
    """All results of the same weights."""

    checkpoint: str  # a path
    step: int | None
    averaged: bool
    digest: str  # of the weights
    task: dict[str, Any]  # the config's section: the model's name and towers
    parameters: dict[str, int]  # by tower
    versions: dict[str, str]  # of packages
    results: Sequence[Measured] = ()


def of(weights: Weights, config: configs.Config) -> Card:
    """The card of a model of which nothing is measured yet."""
    return Card(
        checkpoint=str(weights.path), step=weights.step, averaged=weights.averaged, digest=weights.digest,
        task=configs.plain(config.task), parameters=sizes(weights.params), versions=provenance.versions(),
    )  # fmt: skip


def add(card: Card, found: Sequence[Measured], folder: Path) -> Card:
    """Writes <folder>/card.json and card.md with these results, and returns that card.

    What stands there of the same weights stays, but for earlier results of the same evaluators.
    """
    try:
        before = read(folder / NAME)
    except AlignError:
        before = card
    evaluators = {evaluator(measured.result.name) for measured in found}
    same = before.results if before.digest == card.digest else ()
    kept = [measured for measured in same if evaluator(measured.result.name) not in evaluators]
    card = dataclasses.replace(card, results=[*kept, *found])
    files.write(folder / NAME, lambda partial: partial.write_text(json.dumps(_to_json(card), allow_nan=False) + "\n"))
    files.write(folder / "card.md", lambda partial: partial.write_text(markdown(card), "utf-8"))
    return card


def evaluator(name: str) -> str:
    """Whose result it is."""
    return name.split("/")[0]


def read(path: Path) -> Card:
    """The card in a file; AlignError for one that is none, or of another version."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AlignError(f"expected a {NAME}, found {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AlignError(f"expected a {NAME}, found no JSON in {path}") from error
    if not isinstance(found, dict) or "card_version" not in found:
        raise AlignError(f"expected a {NAME} that `align_jax.evaluate` wrote, found another file in {path}")
    if found["card_version"] != VERSION:
        raise AlignError(
            f"{path}: expected a card of version {VERSION}, found {found['card_version']!r}; evaluate that model anew "
            "by this version of align_jax"
        )
    try:
        return _from_json(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error, zlib.error) as error:
        raise AlignError(f"{path}: the card is damaged ({type(error).__name__}: {error}); evaluate again") from error


def markdown(card: Card) -> str:
    """The page: it renders wherever Markdown with tables does, and nothing in it is taken for more than text."""
    lines = [f"# Evaluation of {escaped(card.checkpoint)}", "", "| | |", "|---|---|"]
    lines += [f"| {escaped(name)} | {escaped(text)} |" for name, text in facts(card).items()]
    lines += ["", "Intervals are 95 % percentile bootstrap intervals over examples; captions of an image go together."]
    for name, own in groupby(card.results, lambda measured: evaluator(measured.result.name)):
        lines += ["", f"## {escaped(name)}"]
        for (protocol, told), alike in groupby(own, lambda measured: (measured.result.protocol, measured.result.facts)):
            digests = "".join(f"; {key} {value}" for key, value in told.items())
            lines += ["", f"Protocol: {escaped(protocol + digests)}", ""]
            lines += ["| result | value | 95 % interval | n |", "|---|---:|---:|---:|"]
            lines += ["| " + " | ".join(map(escaped, cells(measured))) + " |" for measured in alike]
    return "\n".join(lines) + "\n"


def facts(card: Card) -> dict[str, str]:
    """What a reader should know of the model and of what measured it: label -> text."""
    towers = {name: section for name, section in card.task.items() if isinstance(section, dict)}
    plain = {name: value for name, value in card.task.items() if name not in towers}
    counts = ", ".join(f"{name} {count:,}" for name, count in card.parameters.items())
    codes = dict.fromkeys(measured.code for measured in card.results)
    return {
        "task": _options(plain),
        **{f"{name} tower": _options(section) for name, section in towers.items()},
        "parameters": f"{sum(card.parameters.values()):,}: {counts}",
        "checkpoint": f"{card.checkpoint}, step {'unknown' if card.step is None else card.step}",
        "weights": f"{'averaged' if card.averaged else 'last'}, digest {card.digest}",
        "code": ", ".join(codes),
        "versions": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }


def cells(measured: Measured) -> tuple[str, str, str, str]:
    """Name, value, interval and number of examples, as a table shows them."""
    result, rate = measured.result, is_rate(measured.result)
    interval = "" if measured.interval is None else f"[{', '.join(shown(edge, rate) for edge in measured.interval)}]"
    unit = " %" * rate
    return result.name, shown(result.value, rate) + unit, interval + unit * bool(interval), f"{result.n:,}"


def is_rate(result: Result) -> bool:
    """Whether the value is a share: the mean of outcomes between 0 and 1."""
    outcome = result.outcome
    if outcome is None or outcome.kind != "mean":
        return False
    return bool(((outcome.values >= 0) & (outcome.values <= 1)).all())


def shown(value: float, rate: bool, *, sign: str = "") -> str:
    """A rate in percent without its sign, other values to four digits."""
    return f"{100 * value:{sign}.2f}" if rate else f"{value:{sign}.4g}"


def escaped(text: str) -> str:
    """A stranger's text as Markdown shows it: on one line, and without any structure of its own."""
    return MARKS.sub(r"\\\g<0>", " ".join(visible(text).split()))


def _options(section: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in section.items())


def _to_json(card: Card) -> dict[str, Any]:
    values = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    return {"card_version": VERSION} | values | {"results": [_packed(measured) for measured in card.results]}


def _packed(measured: Measured) -> dict[str, Any]:
    result, outcome = measured.result, measured.result.outcome
    return {
        "name": result.name, "value": _number(result.value), "interval": _numbers(measured.interval), "n": result.n,
        "protocol": result.protocol, "facts": dict(result.facts), "code": measured.code,
        "outcome": outcome and {
            "kind": outcome.kind, "ids": outcome.ids, "count": len(outcome.values),
            "values": _bytes(outcome.values, "<f4"), "units": _bytes(outcome.units, "<i8"),
            "parts": _bytes(outcome.parts, "<i8"),
        },
    }  # fmt: skip


def _from_json(found: dict[str, Any]) -> Card:
    return Card(
        checkpoint=str(found["checkpoint"]), step=None if found["step"] is None else int(found["step"]),
        averaged=bool(found["averaged"]), digest=str(found["digest"]), task=dict(found["task"]),
        parameters={str(name): int(count) for name, count in found["parameters"].items()},
        versions={str(name): str(version) for name, version in found["versions"].items()},
        results=[_unpacked(row) for row in found["results"]],
    )  # fmt: skip


def _unpacked(row: dict[str, Any]) -> Measured:
    outcome = row["outcome"]
    if outcome is not None:
        count = int(outcome["count"])
        values = _array(outcome["values"], "<f4", count)
        if values is None:
            raise ValueError("an outcome without values")
        units, parts = (_array(outcome[name], "<i8", count) for name in ("units", "parts"))
        outcome = Outcome(values, units, parts, str(outcome["kind"]), str(outcome["ids"]))
    value, interval = (math.nan if row["value"] is None else float(row["value"])), row["interval"]
    named = {str(key): str(text) for key, text in row["facts"].items()}
    result = Result(str(row["name"]), value, int(row["n"]), str(row["protocol"]), outcome, named)
    return Measured(result, None if interval is None else (float(interval[0]), float(interval[1])), str(row["code"]))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Iterable[float] | None) -> list[float] | None:
    found = None if values is None else [float(value) for value in values]
    return found if found and all(map(math.isfinite, found)) else None


def _bytes(values: np.ndarray | None, dtype: str) -> str | None:
    return None if values is None else base64.b64encode(zlib.compress(values.astype(dtype).tobytes(), 9)).decode()


def _array(text: str | None, dtype: str, count: int) -> np.ndarray | None:
    if text is None:
        return None
    most = count * np.dtype(dtype).itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most + 1)
    if len(data) != most:
        raise ValueError(f"expected {count} outcomes of each kind, found others")
    return np.frombuffer(data, dtype)
