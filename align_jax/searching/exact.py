"""Exact search over embeddings that stay on the devices: one query, one product, one sort."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.types import RowArray


class Exact:
    """Candidates [n, D] f32, split over the devices once; scores are dot products. Safe among threads.

    `evals.blockwise` finds the same for many queries without holding the candidates on the devices.
    """

    def __init__(self, mesh: jax.sharding.Mesh, candidates: RowArray):
        self._mesh, self._count = mesh, len(candidates)
        rows = -(-len(candidates) // mesh.size) * mesh.size
        own = sharding.local_rows(mesh, rows)
        index = np.arange(own.start, own.stop, dtype=np.int32)
        part = candidates[own.start : own.stop]
        part = np.pad(part, [(0, len(own) - len(part)), (0, 0)])
        self._candidates = sharding.place(mesh, {"embedding": part, "index": index, "real": index < len(candidates)})

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32 [k] scores, int32 [k] candidates) of one query [D], best first; of equal ones, the first candidate."""
        k = min(k, self._count)
        with jax.set_mesh(self._mesh):
            scores, indices = _nearest(_step(k, self._count), query, self._candidates)
        return np.asarray(scores)[:k], np.asarray(indices)[:k]


def _step(k: int, count: int) -> int:
    """The next power of two, so that few programs are compiled for many k."""
    return min(1 << (k - 1).bit_length(), count)


@functools.partial(jax.jit, static_argnums=0)
def _nearest(k: int, query: jax.Array, candidates: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    def local(query: jax.Array, own: dict[str, Any]) -> tuple[Any, tuple[()]]:
        scores = jnp.matmul(own["embedding"], query, precision="highest")
        scores, where = jax.lax.top_k(jnp.where(own["real"], scores, -jnp.inf), min(k, len(scores)))
        return (scores, own["index"][where]), ()

    (scores, indices), _ = sharding.per_device(local)(query, candidates)  # the best of each device, device by device
    scores, where = jax.lax.top_k(scores, k)
    return scores, indices[where]
