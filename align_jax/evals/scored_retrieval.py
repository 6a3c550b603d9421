"""Retrieval by a cross-encoder: every pair scored, or a dual encoder's best re-ranked (facts: ImageBERT section 7)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.evals import proposals
from align_jax.evals.dense import Dense
from align_jax.evals.embedding import Embedder, left_out
from align_jax.evals.pair_scores import NEEDS, PairScores
from align_jax.evals.panels import Curves
from align_jax.evals.pools import Found, Pool, Pools
from align_jax.evals.proposals import Loaded, Proposals
from align_jax.evals.ranking import AT, ranks_in, recall_curve
from align_jax.evals.shortlist import reranked
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result


class ScoredRetrieval(Evaluator):
    """As `Retrieval`, of a model that scores pairs: R@K, median rank and mean recall both ways.

    Scores are kept in <folder>/pair_scores: what was killed goes on, and the same weights are not scored again.
    """

    needs = NEEDS

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, load: Callable[[str], Loaded], source: dict,
        at: Sequence[int] = AT, texts: str = "unique", captions: int = 0, folds: int = 1, dual: str = "",
        top: int = 50, fusion: float = 0.0,
    ):  # fmt: skip
        """`source`, `at`, `texts`, `captions` and `folds`: as of `Retrieval`.

        `dual`: a run or an export of a dual encoder, whose `top` best candidates of each query are re-ranked, with
        `fusion` in [0, 1] the weight of its score (`evals/shortlist.py`); "": every pair is scored. `load` opens it.
        """
        if top < 1 or not 0 <= fusion <= 1:
            raise AlignError(
                f"evals.{name}: expected top above 0 and fusion from 0 to 1, found {top} and {fusion}"
            )  # fmt: skip
        self._embedder, self._folder, self._options = embedder, folder, source
        self._load, self._dual, self._top, self._fusion = load, dual, top, fusion
        self._pools = Pools(
            embedder, name=name, source=source, at=at, texts=texts, captions=captions, folds=folds
        )  # fmt: skip
        if dual:  # opened again where it is used: nothing of it stays on the devices meanwhile
            proposals.check(load(dual), where=f"evals.{name}.dual")
        self._proposed: Proposals | None = None
        self._found: Found | None = None

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K and median rank both ways, and the mean recall."""
        scores = PairScores(
            self._embedder, params, model_state, self._options, self._pools.texts, folder=self._folder
        )  # fmt: skip
        if self._dual and self._proposed is None:
            self._proposed = proposals.propose(
                self._load(self._dual), self._options, self._pools.texts, folder=self._folder
            )  # fmt: skip
        bad = scores.unreadable() | dict(self._proposed.bad if self._proposed else {})
        skipped = left_out(self._pools.source, bad)
        pools = self._pools.readable(bad)
        ranked = [self._ranked(scores, pool) for pool in pools]
        self._found = self._pools.found(pools, ranked, skipped=skipped, how=self._how())
        yield from self._pools.results(self._found)

    def panels(self) -> Iterator[Any]:
        """Recall against K."""
        if self._found is None:
            return
        pool, (forth, back) = self._found.pools[0], self._found.ways
        lines = {
            "image to text": recall_curve(forth, len(pool.texts)),
            "text to image": recall_curve(back, len(pool.images)),
        }
        yield Curves(f"{self._pools.name}: recall against K", "K among all candidates", "K", "recall@K", lines)

    def _ranked(self, scores: PairScores, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        if self._proposed is None:
            return ranks_in(Dense(scores.every(pool.images, pool.texts)), pool.right)
        lists = self._proposed.shortlists(self._embedder.mesh, pool, self._top)
        forth, back = (
            reranked(own, crossed, k=self._top, fusion=self._fusion)
            for own, crossed in zip(lists, proposals.score(scores, pool, lists), strict=True)
        )
        return forth, back

    def _how(self) -> str:
        if self._proposed is None:
            return "every pair scored, "
        return proposals.how(self._dual, self._proposed, k=self._top, fusion=self._fusion)
