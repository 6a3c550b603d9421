"""The values of a metric over the steps of a run, however many there are, and the few that a curve can show."""

from array import array
from typing import NamedTuple

import numpy as np

LARGEST = 1e100  # beyond it, sums and differences would overflow
BINS = 240  # of a curve: about one for each 1.5 pixels


class Series:
    """One metric, in the order in which it was written: 16 bytes a value."""

    def __init__(self):
        self._steps, self._values = array("q"), array("d")

    def add(self, step: int, value: float) -> None:
        """TypeError or OverflowError where `value` is no number or `step` needs more than 63 bits; nothing is added."""
        self._values.append(value)
        try:
            self._steps.append(step)
        except (TypeError, OverflowError):
            self._values.pop()
            raise

    def settled(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps i64 [n], ascending; values f64 [n]): of a step that was written twice, the last value."""
        steps, values = np.array(self._steps), np.array(self._values)
        if len(steps) < 2 or np.all(steps[1:] > steps[:-1]):
            return steps, values
        steps, last = np.unique(steps[::-1], return_index=True)
        return steps, values[::-1][last]


class Bins(NamedTuple):
    """What a curve shows: f64 [n] each, n at most `BINS`."""

    steps: np.ndarray  # the mean of those in the bin
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    total: int  # values behind them
    left_out: int  # values that were not finite


def binned(steps: np.ndarray, values: np.ndarray) -> Bins:
    """Equally wide bins of steps; up to `BINS` values stay as they are."""
    finite = np.isfinite(values)
    left_out = int(len(values) - finite.sum())
    steps, values = steps[finite].astype(np.float64), np.clip(values[finite], -LARGEST, LARGEST)
    if len(steps) <= BINS:
        return Bins(steps, values, values, values, len(steps), left_out)
    edges = np.linspace(steps[0], steps[-1], BINS, endpoint=False)
    first = np.unique(np.searchsorted(steps, edges))  # of each bin that is not empty
    counts = np.diff(np.append(first, len(steps)))
    return Bins(
        np.add.reduceat(steps, first) / counts, np.add.reduceat(values, first) / counts,
        np.minimum.reduceat(values, first), np.maximum.reduceat(values, first), len(steps), left_out,
    )  # fmt: skip
