"""Curves as numbers of a drawing: the template draws them, so that every word in them is escaped there."""

import math
from dataclasses import dataclass, field

import numpy as np

from align_jax.reporting.series import Bins

WIDTH, HEIGHT = 400, 224
LEFT, RIGHT, TOP, BOTTOM = 52, 382, 10, 190  # of the plot in it


@dataclass(frozen=True)
class Axis:
    """Values `low` to `high`, on pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # values between whole numbers have no meaning

    def place(self, values: np.ndarray) -> np.ndarray:
        """Pixels."""
        low, high = self.low, self.high
        if self.log:
            low, high, values = math.log10(low), math.log10(high), np.log10(values)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) of round values."""
        low, high = self.low, self.high
        values = powers(low, high) if self.log else round_values(low, high, least=float(self.whole))
        largest = max(map(abs, values), default=0.0)
        pixels = self.place(np.array(values)).round(1).tolist()
        return [(at, short(value, largest)) for at, value in zip(pixels, values, strict=True)]


@dataclass(frozen=True)
class Chart:
    """One curve: points in the pixels of a drawing of WIDTH x HEIGHT."""

    title: str
    unit: str
    x: Axis
    y: Axis
    line: list[tuple[float, float]]  # the mean
    band: list[tuple[float, float]]  # around all values; empty where each is drawn
    restarts: list[float]
    notes: list[str] = field(default_factory=list)


def chart(
    title: str, unit: str, bins: Bins, span: tuple[float, float], *, restarts: list[int], log: bool = False,
    zero: bool = False,
) -> Chart:  # fmt: skip
    """`span`: the steps of the axis; `log`: a logarithmic axis where all values are above 0; `zero`: it begins at 0."""
    low, high = float(bins.low.min()), float(bins.high.max())
    log = log and low > 0 and high / low > 20
    x = Axis(span[0], max(span[1], span[0] + 1), LEFT, RIGHT, whole=True)
    y = Axis(*_room(0.0 if zero and low > 0 else low, high, log=log), BOTTOM, TOP, log)
    across = x.place(bins.steps)
    notes = ["logarithmic"] if log else []
    band = []
    if bins.total > len(bins.steps):
        band = points(across, y.place(bins.high)) + points(across[::-1], y.place(bins.low)[::-1])
        notes.append(f"{bins.total:,} values in {len(bins.steps)} bins: mean and range")
    if bins.left_out:
        notes.append(f"{bins.left_out:,} not finite, left out")
    steps = np.array(sorted({step for step in restarts if x.low <= step <= x.high}))
    marks = x.place(steps).round(1).tolist()
    return Chart(title, unit, x, y, points(across, y.place(bins.mean)), band, marks, notes)


def points(across: np.ndarray, up: np.ndarray) -> list[tuple[float, float]]:
    """Pixels to a tenth."""
    return list(zip(across.round(1).tolist(), up.round(1).tolist(), strict=True))


def _room(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """The values of an axis: a little more than those to be drawn, and never nothing."""
    if log:
        return low / 1.2, high * 1.2
    if high - low < 1e-6 * max(abs(low), abs(high)) or high - low < 1e-30:
        extra = max(abs(high) * 0.1, 1e-30) if high else 1.0
        return low - extra, high + extra
    extra = (high - low) * 0.05
    return low if low == 0 else low - extra, high + extra


def round_values(low: float, high: float, *, least: float = 0.0) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between `low` and `high`: three to six, if `least` apart they are."""
    about = max((high - low) / 4, least)
    power = 10.0 ** math.floor(math.log10(about))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / about)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten between `low` and `high`, at most six; with their 2 and 5 multiples where they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [10.0**i for i in range(first, last + 1, max((last - first) // 5, 1))]
    if last - first <= 2:
        values = [m * 10.0**i for i in range(first, last + 1) for m in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def short(value: float, largest: float) -> str:
    """A label of an axis whose largest is `largest`: '0.25', '40k', '1.2M', '2e-5'."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value and unit <= largest < 1e15 and largest >= 1e4:
            return f"{value / unit:.6g}{name}"
    return f"{value:.6g}".replace("e-0", "e-")
