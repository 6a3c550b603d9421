"""Retrieve, then re-rank: a dual encoder proposes K candidates for each query, a cross-encoder orders them anew.

Scores are fused within a query's K candidates: both are standardised there, to mean 0 and standard deviation 1, which
no affine change of either can alter, and

    fused = (1 - a) * cross-encoder + a * dual encoder,   a in [0, 1].

a = 0 is the cross-encoder's order alone, a = 1 the dual encoder's. Where fused scores tie, the cross-encoder decides:
with K = 2 and a = 0.5 all tie on which the two disagree. All other candidates stay behind the K, in the dual encoder's
order. Other ties take the pessimistic rank, also at the edge of the K: a right candidate that scores as the first one
outside of them counts as outside.
"""

from typing import NamedTuple

import jax
import numpy as np

from align_jax.evals.blockwise import Blockwise
from align_jax.evals.ranking import ranks

OUTSIDE = -np.inf  # what scores as little is no candidate
DECIMALS = 9  # of fused scores, in standard deviations: what differs by less ties, but for rounding


class Shortlist(NamedTuple):
    """The candidates of Q queries, best first by the dual encoder."""

    candidates: np.ndarray  # int32 [Q, K]
    dual: np.ndarray  # f32 [Q, K + 1]: their scores, and that of the best one outside; OUTSIDE where there is none
    right: np.ndarray  # bool [Q, K]
    ranks: np.ndarray  # int64 [Q] of the best right candidate by the dual encoder alone; -1 where nothing is right

    def pairs(self, k: int) -> np.ndarray:
        """int64 [Q * k, 2]: (query, candidate) of the first `k`, query by query."""
        candidates = self.candidates[:, :k]
        queries = np.repeat(np.arange(len(candidates)), candidates.shape[1])
        return np.stack([queries, candidates.reshape(-1)], axis=1)

    @property
    def longest(self) -> int:
        """K."""
        return self.candidates.shape[1]


def shortlists(
    mesh: jax.sharding.Mesh, images: np.ndarray, texts: np.ndarray, right: np.ndarray, k: int
) -> tuple[Shortlist, Shortlist]:
    """The `k` best texts of each image, and the `k` best images of each text.

    images f32 [n, D] and texts [m, D] are embeddings; right int [P, 2]: (image, text) that belong together.
    """
    forth, back = ranks(mesh, images, texts, right)
    return (
        _shortlist(Blockwise(mesh, images, texts), right, forth, k),
        _shortlist(Blockwise(mesh, texts, images), right[:, ::-1], back, k),
    )


def _shortlist(search: Blockwise, right: np.ndarray, found: np.ndarray, k: int) -> Shortlist:
    queries, count = search.shape
    scores, candidates = search.nearest(k + 1)
    dual = np.full((queries, min(k, count) + 1), OUTSIDE, np.float32)
    dual[:, : scores.shape[1]] = scores
    candidates = candidates[:, : dual.shape[1] - 1]
    asked = np.arange(queries)[:, None] * count + candidates
    return Shortlist(candidates, dual, np.isin(asked, right[:, 0] * count + right[:, 1]), found)


def fused(cross: np.ndarray, dual: np.ndarray, fusion: float) -> np.ndarray:
    """f64 [Q, K] of scores f32 [Q, K]; `fusion` weighs the dual encoder's."""
    return (1 - fusion) * _standard(cross) + fusion * _standard(dual)


def _standard(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)  # in which scores that differ stay different
    scores = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    return np.divide(scores, spread, out=np.zeros_like(scores), where=spread > 0)


def reranked(shortlist: Shortlist, cross: np.ndarray, *, k: int, fusion: float) -> np.ndarray:
    """Ranks int64 [Q], as those of `ranks`, where the cross-encoder orders the first `k` of a shortlist anew.

    cross f32 [Q, K]: its scores of the candidates.
    """
    k = min(k, shortlist.longest)
    cross, dual, right = cross[:, :k], shortlist.dual[:, :k], shortlist.right[:, :k]
    scores = fused(cross, dual, fusion).round(DECIMALS)
    inside = right & (dual > shortlist.dual[:, k : k + 1])
    best = _best(scores, inside)
    tied = scores == best
    ties = tied & (cross >= _best(cross, inside & tied)) if fusion < 1 else tied  # at 1 it has no say
    ahead = (~right & ((scores > best) | ties)).sum(axis=1)
    return np.where(inside.any(axis=1), ahead, shortlist.ranks)


def _best(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[Q, 1]: the highest score among some of [Q, K]; -inf where there are none."""
    return np.where(among, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
