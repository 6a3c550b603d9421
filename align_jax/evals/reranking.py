"""What re-ranking gains and costs: recall and pairs against K, the candidates that a dual encoder proposes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.evals import proposals, statistics
from align_jax.evals.embedding import left_out
from align_jax.evals.pair_scores import NEEDS, PairScores
from align_jax.evals.panels import Curves
from align_jax.evals.pools import WAYS, Pool, Pools
from align_jax.evals.proposals import Loaded, Proposals
from align_jax.evals.shortlist import Shortlist, reranked
from align_jax.evals.statistics import Difference
from align_jax.types import AlignError, Result

NAME = "rerank"  # what results are named after
FIRST = "R@1"  # the result whose difference is tested


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to rank. K 0: the dual encoder alone.

    Attributes: ceiling (way -> share of queries with a right one among the K); pairs, and seconds at the measured rate;
    differences (way -> R@1 minus the dual encoder's own) and their p-values adjusted for the number of tests (Holm).
    """

    k: int
    fusion: float
    results: Mapping[str, Result]  # "text_to_image/R@1" -> result
    ceiling: Mapping[str, float]
    pairs: int
    seconds: float
    differences: Mapping[str, Difference]
    adjusted: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Curve:
    """All rows, the dual encoder alone first."""

    rows: Sequence[Row]
    rate: float  # pairs per second, as measured
    weights: tuple[str, str]  # digests: of the dual encoder, of the cross-encoder


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured: the K and the fusions of the curve, and which pools (see `Retrieval`)."""

    ks: Sequence[int]
    fusions: Sequence[float]
    texts: str = "unique"
    captions: int = 0
    folds: int = 1

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1:
            raise AlignError(f"--k: expected whole numbers above 0, found {list(self.ks)}")
        if not self.fusions or not all(0 <= fusion <= 1 for fusion in self.fusions):
            raise AlignError(f"--fusion: expected numbers from 0 to 1, found {list(self.fusions)}")


class Reranking:
    """Of a source, with a dual encoder and a cross-encoder."""

    def __init__(self, dual: Loaded, cross: Loaded, options: Mapping[str, Any], plan: Plan, *, folder: Path, path: str):
        """`options`: of the source. `folder` keeps what is computed; `path` names the dual encoder in protocols."""
        proposals.check(dual, where="--dual")
        missing = [name for name in NEEDS if name not in cross.functions]
        if missing:
            raise AlignError(
                f"--cross: expected a cross-encoder, with {missing[0]}; found {sorted(cross.functions)}"
            )  # fmt: skip
        self._dual, self._cross, self._options, self._plan = dual, cross, options, plan
        self._folder, self._path = folder, path
        self._pools = Pools(
            cross.embedder, name=NAME, source=options, texts=plan.texts, captions=plan.captions, folds=plan.folds
        )  # fmt: skip

    def run(self) -> Curve:
        """Embeds, scores the pairs of the largest K, and ranks with each K and fusion."""
        cross = self._cross
        proposed = proposals.propose(self._dual, self._options, self._pools.texts, folder=self._folder)
        scores = PairScores(
            cross.embedder, cross.params, cross.model_state, self._options, self._pools.texts, folder=self._folder
        )  # fmt: skip
        bad = scores.unreadable() | dict(proposed.bad)
        skipped = left_out(self._pools.source, bad)
        pools = self._pools.readable(bad)
        lists = [proposed.shortlists(cross.mesh, pool, max(self._plan.ks)) for pool in pools]
        crossed = [proposals.score(scores, *each) for each in zip(pools, lists, strict=True)]
        ranking = _Ranking(self._pools, pools, lists, crossed, skipped)
        rows = self._rows(ranking, proposed, scores.cost.rate)
        return Curve(_adjusted(list(rows)), scores.cost.rate, (proposed.weights, scores.weights))

    def _rows(self, ranking: "_Ranking", proposed: Proposals, rate: float) -> Iterator[Row]:
        alone = ranking.alone(f"the dual encoder {self._path} (weights {proposed.weights}) alone, ")
        yield Row(0, 1.0, alone, {}, 0, 0.0, {}, {})
        for k in sorted(set(self._plan.ks)):
            pairs = ranking.pairs(k)
            for fusion in self._plan.fusions:
                how = proposals.how(self._path, proposed, k=k, fusion=fusion)
                found = ranking.reranked(k, fusion, how)
                differences = {way: _difference(alone[f"{way}/{FIRST}"], found[f"{way}/{FIRST}"]) for way in WAYS}
                yield Row(k, fusion, found, ranking.ceiling(k), pairs, pairs / rate, differences, {})


class _Ranking:
    """Ranks the same pools in several ways."""

    def __init__(
        self, pools: Pools, parts: Sequence[Pool], lists: Sequence[tuple[Shortlist, Shortlist]],
        crossed: Sequence[tuple[np.ndarray, np.ndarray]], skipped: str,
    ):  # fmt: skip
        self._pools, self._parts, self._lists, self._crossed, self._skipped = pools, parts, lists, crossed, skipped
        self._dual = [(forth.ranks, back.ranks) for forth, back in lists]
        self._asked = pools.found(parts, self._dual, skipped=skipped).ways

    def alone(self, how: str) -> dict[str, Result]:
        """By the dual encoder."""
        return self._results(self._dual, how)

    def reranked(self, k: int, fusion: float, how: str) -> dict[str, Result]:
        """With the first `k` of each query re-ranked."""
        ranked = []
        for lists, crossed in zip(self._lists, self._crossed, strict=True):
            forth, back = (
                reranked(own, scores, k=k, fusion=fusion) for own, scores in zip(lists, crossed, strict=True)
            )
            ranked.append((forth, back))
        return self._results(ranked, how)

    def pairs(self, k: int) -> int:
        """How many pairs have to be scored for `k`; one that both ways ask for, once."""
        return sum(len(np.unique(proposals.pairs(lists, k), axis=0)) for lists in self._lists)

    def ceiling(self, k: int) -> dict[str, float]:
        """Way -> the recall that an order of the first `k` without a mistake would have."""
        return {way: statistics.estimate(asked.hits(k)) for way, asked in zip(WAYS, self._asked, strict=True)}

    def _results(self, ranked: Sequence[tuple[np.ndarray, np.ndarray]], how: str) -> dict[str, Result]:
        found = self._pools.found(self._parts, ranked, skipped=self._skipped, how=how)
        return {result.name.removeprefix(f"{NAME}/"): result for result in self._pools.results(found)}


def _difference(first: Result, second: Result) -> Difference:
    assert first.outcome is not None and second.outcome is not None, "recalls have outcomes"
    return statistics.paired(first.outcome, second.outcome)


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    p_values = [found.p for row in rows for found in row.differences.values()]
    adjusted = iter(statistics.holm(p_values))
    return [dataclasses.replace(row, adjusted={way: next(adjusted) for way in row.differences}) for row in rows]


def panels(curve: Curve) -> Iterator[Curves]:
    """R@1 against K, both ways, and the cost against K."""
    alone, *rows = curve.rows
    fusions = list(dict.fromkeys(row.fusion for row in rows))
    each = [row for row in rows if row.fusion == fusions[0]]
    for way in WAYS:
        name = f"{way}/{FIRST}"
        lines = {
            f"fusion {fusion:g}": [(row.k, row.results[name].value) for row in rows if row.fusion == fusion]
            for fusion in fusions
        }
        lines["dual encoder alone"] = [(row.k, alone.results[name].value) for row in each]
        lines["recall of the shortlist"] = [(row.k, row.ceiling[way]) for row in each]
        note = "no re-ranking can exceed the recall of the shortlist"
        yield Curves(f"{way.replace('_', ' ')}: {FIRST} against K", note, "K", FIRST, lines)
    note = f"pairs of both ways, at the {curve.rate:,.1f} pairs/s that were measured"
    yield Curves("Cost against K", note, "K", "seconds", {"scoring": [(row.k, row.seconds) for row in each]})
