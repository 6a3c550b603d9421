"""Two result cards side by side, with a paired test of each result that they share."""

import dataclasses
from collections.abc import Sequence

from align_jax.card import Card, Measured, escaped, is_rate, shown
from align_jax.evals import statistics
from align_jax.evals.statistics import Difference
from align_jax.reporting.text import visible
from align_jax.types import AlignError, Result

OWN = ("crop", "fit")  # facts that differ with the model, not with how it was measured
HEADER = ("", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "n")


@dataclasses.dataclass(frozen=True)
class Row:
    """One result of both models. `reason` says why it is not tested, "" where it is."""

    first: Measured
    second: Measured
    difference: Difference | None
    adjusted: float | None  # the p-value, for as many tests as there are (Holm)
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Of card A with card B."""

    first: Card
    second: Card
    rows: Sequence[Row]
    alone: tuple[Sequence[str], Sequence[str]]  # names of results that one card has and the other has not

    @property
    def tests(self) -> int:
        """How many results are tested."""
        return sum(row.difference is not None for row in self.rows)


def compare(first: Card, second: Card) -> Comparison:
    """Pairs the results by name, in the order of the first card; what was measured otherwise is not tested."""
    ours, theirs = ({one.result.name: one for one in card.results} for card in (first, second))
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    tested = [_tested(*pair) for pair in pairs]
    adjusted = iter(statistics.holm([found.p for found in tested if isinstance(found, Difference)]))
    rows = [
        Row(*pair, found, next(adjusted), "") if isinstance(found, Difference) else Row(*pair, None, None, found)
        for pair, found in zip(pairs, tested, strict=True)
    ]
    alone = tuple([name for name in one if name not in other] for one, other in ((ours, theirs), (theirs, ours)))
    return Comparison(first, second, rows, (alone[0], alone[1]))


def _tested(first: Measured, second: Measured) -> Difference | str:
    """The difference, or why there is none."""
    one, other = first.result, second.result
    if _protocol(one) != _protocol(other):
        return f"the protocols differ: A by {one.protocol!r}, B by {other.protocol!r}"
    for fact in sorted({*one.facts, *other.facts} - set(OWN)):
        if one.facts.get(fact) != other.facts.get(fact):
            return f"the {fact} differ: A has digest {one.facts.get(fact)}, B {other.facts.get(fact)}"
    if one.outcome is None or other.outcome is None:
        return "what each example gave is not known"
    try:
        found = statistics.paired(one.outcome, other.outcome)
    except AlignError as error:
        return f"the examples differ: {error}"
    return found._replace(value=other.value - one.value)


def _protocol(result: Result) -> str:
    """Without the crop, which is the model's own."""
    crop = result.facts.get("crop")
    return result.protocol.replace(crop, "its crop") if crop else result.protocol


def text(comparison: Comparison) -> str:
    """As the screen shows it."""
    rows = [HEADER, *map(_cells, comparison.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [*_heads(comparison), ""]
    for name, *rest in rows:
        values = (f"{value:>{width}}" for value, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join((f"{name:<{widths[0]}}", *values)).rstrip())
    return "\n".join(visible(line) for line in [*lines, "", *_notes(comparison)])


def markdown(comparison: Comparison) -> str:
    """As a page."""
    lines = ["# Comparison of two models", ""]
    lines += [f"- {escaped(line)}" for line in _heads(comparison)]
    lines += ["", "| " + " | ".join(HEADER) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
    lines += ["| " + " | ".join(map(escaped, _cells(row))) + " |" for row in comparison.rows]
    return "\n".join([*lines, "", *(f"- {escaped(line)}" for line in _notes(comparison))]) + "\n"


def _heads(comparison: Comparison) -> list[str]:
    return [
        f"{letter}: {card.checkpoint}, {'averaged' if card.averaged else 'last'} weights, digest {card.digest}"
        for letter, card in (("A", comparison.first), ("B", comparison.second))
    ]


def _cells(row: Row) -> tuple[str, ...]:
    first, second = row.first.result, row.second.result
    rate = is_rate(first) and is_rate(second)
    unit = " %" * rate
    count = str(first.n) if first.n == second.n else f"{first.n}, {second.n}"
    values = [first.name, shown(first.value, rate) + unit, shown(second.value, rate) + unit]
    if row.difference is None or row.adjusted is None:
        return (*values, "", "", "not tested", "", count)
    difference, low, high = (shown(value, rate, sign="+") for value in row.difference[:3])
    return (*values, difference, f"[{low}, {high}]", f"{row.difference.p:.2g}", f"{row.adjusted:.2g}", count)


def _notes(comparison: Comparison) -> list[str]:
    tests = comparison.tests
    lines = [
        f"{tests} test{'s' * (tests != 1)}. p: of a difference at least as large, were the two models alike, by a "
        "paired permutation test over examples (medians, correlations: by paired bootstrap); p (Holm): adjusted for "
        "the number of tests. Intervals: paired bootstrap; differences of rates in percentage points."
    ]
    lines += [f"not tested: {row.first.result.name}: {row.reason}" for row in comparison.rows if row.reason]
    for letter, names in zip("AB", comparison.alone, strict=True):
        lines += [f"in {letter} alone: {', '.join(names)}"] if names else []
    return lines
