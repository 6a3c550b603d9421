"""How sure a number is: bootstrap intervals (Efron and Tibshirani 1993), and paired tests between two models.

What belongs together is drawn together: the five captions of an image are no five independent examples.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from align_jax.types import AlignError, Outcome

DRAWS = 1000  # of a bootstrap
FLIPS = 10_000  # of a permutation test; where there are no more ways to flip, it takes each once and is exact
BLOCK = 1 << 22  # numbers in memory at a time
EDGES = (0.025, 0.975)  # of a 95 % interval


class Difference(NamedTuple):
    """Second minus first."""

    value: float
    low: float
    high: float
    p: float  # of a difference at least as large, either way, were the two models alike


def estimate(outcome: Outcome) -> float:
    """The value itself."""
    _refuse_empty(outcome)
    return _estimate(outcome, None)


@functools.lru_cache(maxsize=128)  # a card and a page ask for the same
def interval(outcome: Outcome, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval."""
    return _edges(draws(outcome, seed=seed))


def draws(outcome: Outcome, *, seed: int = 0) -> np.ndarray:
    """f64 [DRAWS]: the value over units drawn with replacement; the same units for the same seed and number of them."""
    _refuse_empty(outcome)
    if outcome.kind == "draws":
        return outcome.values.astype(np.float64)
    units = _units(outcome)
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(DRAWS))
    return np.array([_estimate(outcome, times[units]) for times in drawn])


def paired(first: Outcome, second: Outcome, *, seed: int = 0) -> Difference:
    """Compares two models on the same examples. AlignError where the examples are not the same, or not known.

    Means: the p-value of a permutation test that swaps the two models' outcomes, unit by unit (where few units differ,
    the exact one); others: the share of joint bootstrap draws on the other side of zero, doubled.
    """
    alike = first.ids == second.ids and first.values.shape == second.values.shape and first.kind == second.kind
    if not (alike and first.ids and _same(first.units, second.units) and _same(first.parts, second.parts)):
        raise AlignError(
            f"expected outcomes of the same examples, found {len(first.values)} with ids {first.ids or 'unknown'} and "
            f"{len(second.values)} with ids {second.ids or 'unknown'}"
        )
    drawn = draws(second, seed=seed) - draws(first, seed=seed)
    low, high = _edges(drawn)
    value = float(drawn.mean()) if first.kind == "draws" else estimate(second) - estimate(first)
    if first.kind == "mean":
        return Difference(value, low, high, _permutation(first, second, seed))
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, low, high, min(1.0, 2 * (1 + beyond) / (1 + len(drawn))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for the number of tests: below 0.05, few would be so by chance in any of all (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _refuse_empty(outcome: Outcome) -> None:
    if not len(outcome.values):
        raise AlignError("expected outcomes of at least one example, found none")


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is second or (first is not None and second is not None and np.array_equal(first, second))


def digest(names: Iterable[str]) -> str:
    """Of names in order: what tells whether two models were asked the same."""
    found = hashlib.blake2b(digest_size=8)
    for name in names:
        encoded = name.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()


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
    found = abs(by_unit.sum()) - 1e-9 * abs(by_unit).sum()  # what is equal but for rounding is as large
    if len(by_unit) < FLIPS.bit_length():
        ways = np.arange(1 << len(by_unit))[:, None] >> np.arange(len(by_unit)) & 1
        return float((abs((2 * ways - 1) @ by_unit) >= found).mean())
    # Equal differences in one: how many of them flip is binomial.
    size, count = np.unique(abs(by_unit), return_counts=True)
    rng, as_large = np.random.default_rng(seed), 0
    block = max(1, BLOCK // len(size))
    for start in range(0, FLIPS, block):
        flipped = rng.binomial(count, 0.5, (min(block, FLIPS - start), len(size)))
        as_large += int((abs((count - 2 * flipped) @ size) >= found).sum())
    return (1 + as_large) / (1 + FLIPS)
