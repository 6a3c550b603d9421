"""The page of a sweep: for each group of runs a plot with a mark for every result, and the table of all."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align_jax.reporting.templates import HERE, environment

WIDTH, ROW, TOP = 420, 22, 8  # pixels of a plot: its width, a row, what stands above the first
LEFT, RIGHT = 160, 366  # where the scale from 0 to 1 begins and ends


@dataclass(frozen=True)
class Row:
    """One way to train: column -> a value in [0, 1] for each seed."""

    name: str
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Group:
    """Ways that differ in one thing."""

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Mark:
    """The median of a row in the pixels of a plot, the range over seeds, and what it says."""

    name: str
    y: float
    low: float
    middle: float
    high: float
    text: str


def render(groups: Sequence[Group], *, facts: str, measured: Mapping[str, str]) -> str:
    """A self-contained HTML page. `measured`: column -> name of the result."""
    plots = [
        (group.name, [(column, _marks(group, column)) for column in measured], TOP + ROW * len(group.rows) + 18)
        for group in groups
    ]
    ticks = [(LEFT + (RIGHT - LEFT) * i / 4, f"{25 * i}") for i in range(5)]
    return environment(HERE).get_template("sweep.html").render(
        groups=groups, plots=plots, columns=list(measured), measured=measured, facts=facts, width=WIDTH,
        left=LEFT, right=RIGHT, median=statistics.median, ticks=ticks,
    )  # fmt: skip


def _marks(group: Group, column: str) -> list[Mark]:
    def at(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * value, 1)

    found = []
    for number, row in enumerate(group.rows):
        values = row.values[column]
        middle = statistics.median(values)
        y = TOP + ROW * (number + 0.5)
        found.append(Mark(row.name, y, at(min(values)), at(middle), at(max(values)), f"{100 * middle:.1f}"))
    return found
