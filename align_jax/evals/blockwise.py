"""Exact search over embeddings that never holds all scores: blocks of queries against blocks of candidates.

Every score is one element of a product of two blocks whose shapes depend on the numbers of queries and candidates
alone. So a pair scores the same, to the last bit, wherever it is asked for and on any number of devices: a tie is a
tie. Each device takes every n-th block of candidates; the host holds the embeddings, the devices a few blocks of them.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from align_jax import sharding
from align_jax.types import RowArray

QUERIES, CANDIDATES = 1024, 4096  # rows of a block
CHUNK = 8  # blocks of queries that lie on the devices at a time
SLOW = 5  # seconds after which a bar appears


class Blockwise:
    """Queries [Q, D] against candidates [M, D], f32 on the host; scores are dot products."""

    def __init__(self, mesh: jax.sharding.Mesh, queries: np.ndarray, candidates: RowArray):
        self._mesh = mesh
        self._queries, self._candidates = queries, candidates
        self._rows = _block(len(queries), QUERIES)
        self._columns = _block(len(candidates), CANDIDATES)

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, M)."""
        return len(self._queries), len(self._candidates)

    def scores(self, pairs: np.ndarray) -> np.ndarray:
        """f32 [P] of pairs int [P, 2] (query, candidate). Cheap where pairs lie close together, as captions do."""
        found = np.empty(len(pairs), np.float32)
        if not len(pairs):
            return found
        blocks = pairs // (self._rows, self._columns)
        names = blocks[:, 0] * (len(self._candidates) // self._columns + 1) + blocks[:, 1]
        order = np.argsort(names, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(names[order])) + 1):
            row, column = (int(start) for start in blocks[part[0]] * (self._rows, self._columns))
            queries = jnp.asarray(_padded(self._queries[row : row + self._rows], self._rows))
            candidates = jnp.asarray(_padded(self._candidates[column : column + self._columns], self._columns))
            block = np.asarray(_block_scores(queries, candidates))
            found[part] = block[pairs[part, 0] - row, pairs[part, 1] - column]
        return found

    def at_least(self, query_floor: np.ndarray, candidate_floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [Q], int64 [M]): how many candidates score at least a query's floor, and how many queries at least a
        candidate's; floors f32 [Q] and [M]."""
        queries_found = np.zeros(len(self._queries), np.int64)
        candidates_found = np.zeros(len(self._candidates), np.int64)
        for rows, columns, queries, candidates in self._steps():
            floors = _padded(candidate_floor[columns], self._columns * self._mesh.size, np.inf)
            own = sharding.place(
                self._mesh, {"embedding": candidates, "floor": self._own(floors)} | self._real(columns)
            )
            shared = queries | {"floor": _padded(query_floor[rows], self._chunk(), np.inf)}
            with jax.set_mesh(self._mesh):
                back, forth = _count(self._mesh, self._rows, shared, own)
            queries_found[rows] += np.asarray(forth)[: rows.stop - rows.start]
            candidates_found[columns] += np.asarray(back)[: columns.stop - columns.start]
        return queries_found, candidates_found

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32 [Q, k] scores, int32 [Q, k] candidates), best first; of equal ones, the first candidate."""
        k = min(k, len(self._candidates))
        scores = np.empty((len(self._queries), k), np.float32)
        indices = np.empty((len(self._queries), k), np.int32)
        best: Any = None
        for rows, columns, queries, candidates in self._steps():
            if columns.start == 0:
                best = (np.full((self._chunk(), k), -np.inf, np.float32), np.zeros((self._chunk(), k), np.int32))
            own = sharding.place(self._mesh, {"embedding": candidates} | self._real(columns))
            with jax.set_mesh(self._mesh):
                best = _merge(self._mesh, self._rows, k, queries, own, best)
            if columns.stop == len(self._candidates):
                scores[rows], indices[rows] = (np.asarray(x)[: rows.stop - rows.start] for x in best)
        return scores, indices

    def _chunk(self) -> int:
        """Rows of queries on the devices at a time."""
        return min(CHUNK, -(-len(self._queries) // self._rows)) * self._rows

    def _steps(self) -> Iterator[tuple[slice, slice, dict[str, np.ndarray], np.ndarray]]:
        """(rows, columns, queries, this process's candidates), padded, chunk by chunk."""
        width, chunk = self._columns * self._mesh.size, self._chunk()
        total = -(-len(self._queries) // chunk) * -(-len(self._candidates) // width)
        with tqdm(total=total, desc="comparing", unit="block", delay=SLOW, leave=False, disable=None) as bar:
            for first in range(0, len(self._queries), chunk):
                rows = slice(first, min(first + chunk, len(self._queries)))
                queries = {"embedding": _padded(self._queries[rows], chunk), "real": _real(rows, chunk)}
                for start in range(0, len(self._candidates), width):
                    columns = slice(start, min(start + width, len(self._candidates)))
                    yield rows, columns, queries, self._own(_padded(self._candidates[columns], width))
                    bar.update()

    def _real(self, columns: slice) -> dict[str, np.ndarray]:
        width = self._columns * self._mesh.size
        return {
            "real": self._own(_real(columns, width)),
            "index": self._own(columns.start + np.arange(width, dtype=np.int32)),
        }

    def _own(self, rows: np.ndarray) -> np.ndarray:
        own = sharding.local_rows(self._mesh, len(rows))
        return rows[own.start : own.stop]


def _block(count: int, most: int) -> int:
    """A power of two."""
    return min(most, 1 << max(count - 1, 0).bit_length())


def _padded(rows: np.ndarray, count: int, value: float = 0.0) -> np.ndarray:
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1), constant_values=value)


def _real(part: slice, count: int) -> np.ndarray:
    return np.arange(count) < part.stop - part.start


def _product(queries: jax.Array, candidates: jax.Array) -> jax.Array:
    return jnp.matmul(queries, candidates.T, precision="highest")


@jax.jit
def _block_scores(queries: jax.Array, candidates: jax.Array) -> jax.Array:
    """As a loop of one, so that the product is compiled as in the other two."""
    return jax.lax.map(lambda block: _product(block, candidates), queries[None])[0]


def _blocks(rows: int, arrays: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count(
    mesh: jax.sharding.Mesh, rows: int, shared: dict[str, Any], own: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    def local(shared: dict[str, Any], own: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        def one(found: jax.Array, block: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
            scores = _product(block["embedding"], own["embedding"])
            real = block["real"][:, None] & own["real"][None, :]
            forth = jnp.sum(real & (scores >= block["floor"][:, None]), axis=1, dtype=jnp.int32)
            back = jnp.sum(real & (scores >= own["floor"][None, :]), axis=0, dtype=jnp.int32)
            return found + back, forth

        start = jnp.zeros_like(own["index"])
        back, forth = jax.lax.scan(one, start, _blocks(rows, shared))
        return back, sharding.total(forth.reshape(-1))

    return sharding.whole(mesh, sharding.per_device(local)(shared, own))  # so that every process can read it


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _merge(
    mesh: jax.sharding.Mesh, rows: int, k: int, shared: dict[str, Any], own: dict[str, Any], best: Any
) -> tuple[jax.Array, jax.Array]:
    def local(shared: dict[str, Any], own: dict[str, Any]) -> tuple[Any, tuple[()]]:
        def one(block: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
            scores = jnp.where(own["real"][None, :], _product(block["embedding"], own["embedding"]), -jnp.inf)
            found, where = jax.lax.top_k(scores, min(k, scores.shape[1]))
            return found, own["index"][where]

        found = jax.lax.map(one, _blocks(rows, shared))
        return jax.tree.map(lambda x: x.reshape(1, -1, x.shape[-1]), found), ()

    (scores, indices), _ = sharding.per_device(local)(shared, own)  # [devices, Q, k] each
    scores, indices = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1) for x in (scores, indices))
    # What was found before stands first: of equal scores, top_k takes the first.
    scores, indices = (jnp.concatenate(pair, axis=1) for pair in ((best[0], scores), (best[1], indices)))
    scores, where = jax.lax.top_k(scores, k)
    return sharding.whole(mesh, (scores, jnp.take_along_axis(indices, where, axis=1)))
