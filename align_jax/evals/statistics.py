"""How sure a number is: bootstrap intervals (Efron and Tibshirani 1993), and paired tests between two models.

What belongs together is drawn together: the five captions of an image are no five independent examples.
"""

from typing import NamedTuple

import numpy as np

from align_jax.types import AlignError, Outcome

DRAWS = 1000  # of a bootstrap
FLIPS = 10_000  # of a permutation test
BLOCK = 1 << 22  # signs in memory at a time
EDGES = (0.025, 0.975)  # of a 95 % interval


class Difference(NamedTuple):
    """Second minus first."""

    value: float
    low: float
    high: float
    p: float  # of a difference at least as large, either way, were the two models alike


def estimate(outcome: Outcome) -> float:
    """The value itself."""
    return _estimate(outcome, None)


def interval(outcome: Outcome, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval."""
    return _edges(draws(outcome, seed=seed))


def draws(outcome: Outcome, *, seed: int = 0) -> np.ndarray:
    """f64 [DRAWS]: the value over units drawn with replacement; the same units for the same seed and number of them."""
    if outcome.kind == "draws":
        return outcome.values.astype(np.float64)
    units = _units(outcome)
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(DRAWS))
    return np.array([_estimate(outcome, times[units]) for times in drawn])


def paired(first: Outcome, second: Outcome, *, seed: int = 0) -> Difference:
    """Compares two models on the same examples. AlignError where the examples are not the same.

    Means: the p-value of a permutation test that swaps the two models' outcomes, unit by unit; others: the share of
    joint bootstrap draws on the other side of zero, doubled.
    """
    if first.ids != second.ids or first.values.shape != second.values.shape or first.kind != second.kind:
        raise AlignError(
            f"expected outcomes of the same examples, found {len(first.values)} with ids {first.ids or 'unknown'} and "
            f"{len(second.values)} with ids {second.ids or 'unknown'}"
        )
    drawn = draws(second, seed=seed) - draws(first, seed=seed)
    low, high = _edges(drawn)
    value = float(drawn.mean()) if first.kind == "draws" else estimate(second) - estimate(first)
    if first.kind == "mean":
        p = _permutation(first, second, seed)
    else:
        p = min(1.0, 2 * min(float((drawn <= 0).mean()), float((drawn >= 0).mean())))
    return Difference(value, low, high, p)


def _edges(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, EDGES)
    return float(low), float(high)


def _units(outcome: Outcome) -> np.ndarray:
    if outcome.units is None:
        return np.arange(len(outcome.values))
    return np.unique(outcome.units, return_inverse=True)[1]


def _estimate(outcome: Outcome, times: np.ndarray | None) -> float:
    """With each example counted `times` [n]; None: once."""
    values = outcome.values.astype(np.float64)
    if outcome.kind == "draws":
        return float(values.mean())
    if outcome.kind == "median":
        return float(np.median(values if times is None else np.repeat(values, times)))
    weights = np.ones(len(values)) if times is None else times
    parts = np.zeros(len(values), np.int64) if outcome.parts is None else outcome.parts
    totals, counts = np.bincount(parts, weights * values), np.bincount(parts, weights)
    return float((totals[counts > 0] / counts[counts > 0]).mean())


def _permutation(first: Outcome, second: Outcome, seed: int) -> float:
    parts = np.zeros(len(first.values), np.int64) if first.parts is None else first.parts
    sizes = np.bincount(parts)
    share = 1 / (sizes[parts] * np.count_nonzero(sizes))
    differences = (second.values.astype(np.float64) - first.values.astype(np.float64)) * share
    by_unit = np.bincount(_units(first), differences)
    by_unit = by_unit[by_unit != 0]  # the others change nothing
    if not len(by_unit):
        return 1.0
    found = abs(by_unit.sum()) - 1e-12
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(by_unit))
    flips = (rng.integers(0, 2, (min(block, FLIPS - start), len(by_unit))) for start in range(0, FLIPS, block))
    as_large = sum(int((abs((2 * signs - 1) @ by_unit) >= found).sum()) for signs in flips)
    return (1 + as_large) / (1 + FLIPS)
