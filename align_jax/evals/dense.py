"""Exact search in scores that are all at hand, as those of a cross-encoder are, which are no dot products."""

import numpy as np

BLOCK = 1 << 22  # scores that are compared at a time


class Dense:
    """Scores f32 [Q, M] of queries with candidates; asked as `Blockwise` is."""

    def __init__(self, scores: np.ndarray):
        self._scores = scores

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, M)."""
        return len(self._scores), self._scores.shape[1]

    def scores(self, pairs: np.ndarray) -> np.ndarray:
        """f32 [P] of pairs int [P, 2] (query, candidate)."""
        return self._scores[pairs[:, 0], pairs[:, 1]]

    def at_least(self, query_floor: np.ndarray, candidate_floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [Q], int64 [M]): how many candidates score at least a query's floor, and how many queries at least a
        candidate's; floors f32 [Q] and [M]."""
        queries, candidates = self.shape
        forth, back = np.empty(queries, np.int64), np.zeros(candidates, np.int64)
        rows = max(1, BLOCK // max(candidates, 1))
        for start in range(0, queries, rows):
            part = self._scores[start : start + rows]
            forth[start : start + rows] = (part >= query_floor[start : start + rows, None]).sum(axis=1)
            back += (part >= candidate_floor[None, :]).sum(axis=0)
        return forth, back

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32 [Q, k] scores, int32 [Q, k] candidates), best first; of equal ones, the first candidate."""
        order = np.argsort(-self._scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(self._scores, order, axis=1), order.astype(np.int32)
