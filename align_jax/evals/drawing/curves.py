"""Lines over a common axis, their labels apart, and the few numbers that a table has room for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from align_jax.evals.panels import Curves
from align_jax.reporting.charts import Axis, points

VALUES = 10  # columns of the table
HEIGHT, LABEL = 300, 18  # pixels of the plot and of a label, as in pictures.css
DECADES = 30  # largest over smallest, from which on the axis is logarithmic


class Line(NamedTuple):
    """A curve."""

    name: str
    points: list[tuple[float, float]]  # percent of the plot, from its upper left
    label: float  # pixels from the top
    values: list[float | None]  # of the table


@dataclass(frozen=True)
class CurvesDrawing:
    """Ticks as (percent, label)."""

    x: str
    y: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    log: bool
    lines: list[Line]
    at: list[float]  # x of the table
    left_out: int  # points that are not finite


def curves(panel: Curves) -> CurvesDrawing | None:
    """None where no line has a finite point."""
    lines = {name: sorted((float(x), float(y)) for x, y in line) for name, line in panel.lines.items()}
    finite = {name: [xy for xy in line if all(map(math.isfinite, xy))] for name, line in lines.items()}
    left_out = sum(map(len, lines.values())) - sum(map(len, finite.values()))
    drawn = {name: np.array(line) for name, line in finite.items() if line}
    if not drawn:
        return None
    every = np.concatenate(list(drawn.values()))
    x, y = _x_axis(every[:, 0]), _y_axis(every[:, 1])
    placed = {name: points(x.place(line[:, 0]), y.place(line[:, 1])) for name, line in drawn.items()}
    labels = apart([line[-1][1] * HEIGHT / 100 for line in placed.values()])
    at = few(np.unique(every[:, 0]), x)
    found = [
        Line(name, placed[name], label, [dict(finite[name]).get(value) for value in at])
        for name, label in zip(placed, labels, strict=True)
    ]
    return CurvesDrawing(panel.x, panel.y, x.ticks(), y.ticks(), x.log, found, at, left_out)


def _x_axis(values: np.ndarray) -> Axis:
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low >= DECADES
    return Axis(low, high if high > low else low + 1, 0, 100, log, whole=bool((values == values.round()).all()))


def _y_axis(values: np.ndarray) -> Axis:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return Axis(0.0, 1.0, 100, 0)
    room = 0.05 * (high - low) or 1.0
    return Axis(low - room, high + room, 100, 0)


def few(values: np.ndarray, axis: Axis) -> list[float]:
    """At most VALUES of them, the first and the last among them; on a logarithmic axis near 1, 2, 5, 10, 20, ..."""
    if len(values) <= VALUES:
        return values.tolist()
    wanted = np.linspace(axis.low, axis.high, VALUES)
    if axis.log:
        exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        round_ones = np.array([times * 10.0**exponent for exponent in exponents for times in (1, 2, 5)])
        inside = round_ones[(round_ones > axis.low) & (round_ones < axis.high)]
        every = -(-len(inside) // (VALUES - 2))
        wanted = np.array([axis.low, *inside[every - 1 :: every], axis.high])
    places = axis.place(values)
    return values[sorted({int(np.abs(places - place).argmin()) for place in axis.place(wanted)})].tolist()


def apart(wanted: Sequence[float]) -> list[float]:
    """Middles of labels near those `wanted`, in pixels: LABEL apart, and inside the plot where all of them fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    last = -LABEL / 2
    for i in order:
        last = found[i] = max(wanted[i], last + LABEL)
    last = HEIGHT + LABEL / 2
    for i in reversed(order):
        last = found[i] = min(found[i], last - LABEL)
    return [round(value, 1) for value in found]
