"""Ranks of the right answers among all candidates, and the numbers that come of them (facts: ALIGN section 7).

A query is right at K where any of its right candidates is among the first K. Ties take the pessimistic rank (design
decision 12): a model that gives every pair the same score retrieves nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from align_jax.evals import statistics
from align_jax.evals.blockwise import Blockwise
from align_jax.types import AlignError, Outcome, Result

AT = (1, 5, 10)


def ranks(
    mesh: jax.sharding.Mesh, queries: np.ndarray, candidates: np.ndarray, right: np.ndarray,
    without: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Ranks int64 [Q] of queries and [M] of candidates, 0 the best: how many that are not right score at least as high
    as the best right one; -1 where nothing is right.

    queries [Q, D], candidates [M, D]; right int [P, 2]: (query, candidate), each pair once. `without`: pairs of which
    neither finds the other, as of a query with itself; none of them is in `right`. Memory grows with Q + M + P.
    """
    return ranks_in(Blockwise(mesh, queries, candidates), right, without)


class Search(Protocol):
    """Scores of Q queries with M candidates, however they are kept: `Blockwise`, `Dense`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, M)."""
        ...

    def scores(self, pairs: np.ndarray) -> np.ndarray:
        """f32 [P] of pairs int [P, 2] (query, candidate)."""
        ...

    def at_least(self, query_floor: np.ndarray, candidate_floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [Q], int64 [M]): how many candidates score at least a query's floor f32 [Q], and how many queries at
        least a candidate's, f32 [M]."""
        ...


def ranks_in(search: Search, right: np.ndarray, without: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As `ranks`, of scores that need not be dot products."""
    scores = search.scores(right)
    floors = [_best(scores, right[:, side], count) for side, count in enumerate(search.shape)]
    found = search.at_least(*floors)
    pairs = right
    if without is not None:
        pairs, scores = np.concatenate([right, without]), np.concatenate([scores, search.scores(without)])
    for side, (count, floor) in enumerate(zip(found, floors, strict=True)):
        own = pairs[:, side]
        count -= np.bincount(own[scores >= floor[own]], minlength=len(count))
        assert count.min(initial=0) >= 0, "a pair scored otherwise than it did before"
        count[np.isinf(floor)] = -1
    return found


def _best(scores: np.ndarray, of: np.ndarray, count: int) -> np.ndarray:
    """f32 [count]: the largest score of each; infinity, which no candidate reaches, where there is none."""
    best = np.full(count, -np.inf, np.float32)
    np.maximum.at(best, of, scores)
    best[np.isinf(best)] = np.inf
    return best


class Asked(NamedTuple):
    """The queries of one way of retrieval."""

    ranks: np.ndarray  # int64 [n], from 0
    units: np.ndarray  # int64 [n]: queries that belong together, as the captions of an image
    folds: np.ndarray  # int64 [n]: recall is the mean over folds

    @classmethod
    def of(cls, found: np.ndarray, units: np.ndarray, fold: int = 0) -> "Asked":
        """Those of `ranks` that have a right answer."""
        asked = found >= 0
        return cls(found[asked], units[asked], np.full(int(asked.sum()), fold))

    def hits(self, k: int, ids: str = "") -> Outcome:
        """Whose value is recall@k."""
        parts = self.folds if self.folds.any() else None
        return Outcome((self.ranks < k).astype(np.float32), self.units, parts, ids=ids)

    def median_rank(self) -> float:
        """From 1; the mean over folds of their medians."""
        return float(np.mean([np.median(self.ranks[self.folds == fold]) + 1 for fold in np.unique(self.folds)]))


def joined(parts: Sequence[Asked]) -> Asked:
    """The queries of all folds."""
    return Asked(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def measures(
    name: str, asked: Asked, at: Sequence[int], *, ids: str, protocol: str, facts: Mapping[str, str]
) -> Iterator[Result]:
    """<name>/R@K for each K of `at`, and <name>/median_rank."""
    n = len(asked.ranks)
    for k in at:
        hits = asked.hits(k, ids)
        yield Result(f"{name}/R@{k}", statistics.estimate(hits), n, protocol, hits, facts)
    places = None  # a mean of medians over folds is neither a median nor a mean of examples
    if not asked.folds.any():
        places = Outcome(asked.ranks.astype(np.float32) + 1, asked.units, None, "median", ids)
    yield Result(f"{name}/median_rank", asked.median_rank(), n, f"{protocol}, ranks from 1", places, facts)


def mean_recall(
    name: str, ways: Sequence[Asked], at: Sequence[int], *, ids: str, protocol: str, facts: Mapping[str, str]
) -> Result:
    """<name>/mean_recall: the mean of recall@K over all K of `at` and all `ways`."""
    each = [asked.hits(k) for asked in ways for k in at]
    folds = 1 + max(int(asked.folds.max()) for asked in ways)
    parts = [np.full(len(hits.values), number * folds) for number, hits in enumerate(each)]
    parts = np.concatenate(parts) + np.concatenate([asked.folds for asked in ways for _ in at])
    values, units = (np.concatenate(x) for x in ([h.values for h in each], [asked.units for asked in ways for _ in at]))
    outcome = Outcome(values, units, parts, ids=ids)
    n = sum(len(asked.ranks) for asked in ways)
    protocol = f"{protocol}, mean of R@{', '.join(map(str, at))} over {len(ways)} ways"
    return Result(f"{name}/mean_recall", statistics.estimate(outcome), n, protocol, outcome, facts)


def recall_curve(asked: Asked, candidates: int) -> list[tuple[float, float]]:
    """(K, recall@K) for K = 1, 2, 5, 10, 20, .. up to the number of candidates."""
    steps = (step * 10**power for power in range(len(str(candidates))) for step in (1, 2, 5))
    return [(float(k), statistics.estimate(asked.hits(k))) for k in steps if k <= candidates]


def same_group(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """int64 [P, 2]: all pairs (query, candidate) of one group; groups int [Q] and [M], or for candidates that have
    several, (candidate, group) int [h, 2], each once."""
    if candidates.ndim == 1:
        candidates = np.stack([np.arange(len(candidates)), candidates], axis=1)
    order = np.argsort(queries, kind="stable")
    rising = queries[order]
    start = np.searchsorted(rising, candidates[:, 1], "left")
    count = np.searchsorted(rising, candidates[:, 1], "right") - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.stack([order[np.repeat(start, count) + within], np.repeat(candidates[:, 0], count)], axis=1)


def numbered(ids: Iterable[str], *, where: str) -> dict[str, int]:
    """Id -> number of its record. AlignError where one is missing or stands twice."""
    found: dict[str, int] = {}
    for number, name in enumerate(ids):
        if not name or found.setdefault(name, number) != number:
            what = f"{name!r} at records {found[name]} and {number}" if name else f"none at record {number}"
            raise AlignError(f"{where}: expected an id for each record, no two the same, found {what}")
    return found
