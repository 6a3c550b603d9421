"""The page of an evaluation: its numbers and what a person can look at, in one file that asks for nothing else."""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from align_jax import files
from align_jax.evals import statistics
from align_jax.evals.drawing import draw
from align_jax.evals.drawing.heat import SHADES
from align_jax.evals.drawing.thumbnails import Thumbnails
from align_jax.evals.panels import Panel
from align_jax.reporting import templates, text
from align_jax.types import Result

HERE = Path(__file__).parent
COLOURS = 9  # of lines and kinds, as in pictures.css; the last is grey, for all further kinds


def write(
    path: Path, *, title: str, facts: Mapping[str, str], results: Sequence[Result], panels: Sequence[Panel]
) -> None:
    """Writes the page to `path`, whole or not at all; the same bytes for the same input.

    `facts` say what was measured: model, checkpoint, digest of the weights, step, data. Every text may be a
    stranger's. The page can be read without JavaScript, and grows by each different thumbnail of `panels`.
    """
    files.write(path, lambda partial: partial.write_text(_render(title, facts, results, panels), "utf-8"))


def _render(title: str, facts: Mapping[str, str], results: Sequence[Result], panels: Sequence[Panel]) -> str:
    thumbnails = Thumbnails()
    drawn = [(panel, type(panel).__name__, draw(panel, thumbnails)) for panel in panels]
    script = (HERE / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        title=title, facts=facts, results=_groups(results), panels=drawn, thumbnails=list(thumbnails.addresses()),
        shades=SHADES, colours=COLOURS, script=Markup(script), script_digest=digest,
    )  # fmt: skip


@functools.cache
def _template() -> jinja2.Template:
    made = templates.environment(HERE, templates.HERE)
    made.filters |= {"number": text.number, "measure": _measure, "plain": _plain, "brief": _brief}
    return made.get_template("page.html.jinja")


class _Bar(NamedTuple):
    """Percent of a scale from 0 to 1, or from -1 to 1."""

    low: float
    value: float
    high: float
    signed: bool


class _Row(NamedTuple):
    name: str
    value: float
    interval: tuple[float, float] | None
    bar: _Bar | None
    n: int


class _Group(NamedTuple):
    """Neighbours that were measured alike."""

    protocol: str
    facts: tuple[tuple[str, str], ...]
    rows: list[_Row]


def _groups(results: Sequence[Result]) -> list[_Group]:
    alike = groupby(results, lambda result: (result.protocol, tuple(result.facts.items())))
    return [_Group(protocol, facts, [_row(result) for result in group]) for (protocol, facts), group in alike]


def _row(result: Result) -> _Row:
    interval = statistics.interval(result.outcome) if result.outcome else None
    low, high = interval or (result.value, result.value)
    lowest, highest = min(low, result.value), max(high, result.value)
    bar = None
    if lowest >= -1 and highest <= 1:
        start = -1 if lowest < 0 else 0
        low, value, high = (round(100 * (at - start) / (1 - start), 1) for at in (low, result.value, high))
        bar = _Bar(low, value, high, start < 0)
    return _Row(result.name, result.value, interval, bar, result.n)


def _measure(value: float) -> str:
    """'0.0312', '12.3', '1,234'."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _plain(value: float) -> str:
    return text.number(int(value) if value == int(value) else value)


def _brief(value: float) -> str:
    """'.83', '-.12', '1.00': for a small cell."""
    rounded = f"{value:.2f}"
    return {"-0.00": ".00"}.get(rounded, rounded.replace("0.", ".", 1) if abs(value) < 0.995 else rounded)
