"""The kinds of index of the search page: recall@10 against exact search, queries a second, time to build, bytes.

The vectors are made up: unit rows around centres, as pictures of the same things lie, and queries like them. A query
is asked alone, as the page asks; FAISS builds and searches with `--threads`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from align_jax import sharding
from align_jax.evals.blockwise import Blockwise
from align_jax.searching.exact import Exact
from align_jax.searching.index import Approximate, Searchable, recall
from align_jax.searching.kinds import KINDS, TRAINED, faiss

CENTRES, SPREAD = 1000, 0.7  # of the centres' length
BLOCK = 65_536


def clustered(count: int, width: int, centres: np.ndarray, seed: int) -> np.ndarray:
    """Unit rows f32 [count, width]."""
    rng = np.random.default_rng(seed)
    rows = np.empty((count, width), np.float32)
    for start in range(0, count, BLOCK):
        part = rows[start : start + BLOCK]
        near = rng.standard_normal(part.shape, np.float32) * SPREAD
        part[:] = centres[rng.integers(0, len(centres), len(part))] + near
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def built(kind: str, vectors: np.ndarray) -> tuple[Searchable, int]:
    """(an index of FAISS, its bytes on disk)."""
    chosen = KINDS[kind]()
    index = chosen.new(vectors.shape[1], len(vectors))
    if not index.is_trained:
        index.train(vectors[: TRAINED * index.nlist])
    index.add(vectors)
    chosen.tune(index)
    with tempfile.TemporaryDirectory() as folder:
        faiss().write_index(index, f"{folder}/index")
        return Approximate(index), (Path(folder) / "index").stat().st_size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default="exact,flat,hnsw,ivf")
    flags = parser.parse_args()
    faiss().omp_set_num_threads(flags.threads)
    mesh = sharding.make_mesh()
    centres = np.random.default_rng(0).standard_normal((CENTRES, flags.width), np.float32)
    vectors = clustered(flags.pictures, flags.width, centres, 1)
    queries = clustered(flags.queries, flags.width, centres, 2)
    truth = Blockwise(mesh, queries, vectors)
    print(f"{flags.pictures:,} x {flags.width}, {flags.queries} queries, {flags.threads} threads", flush=True)
    print(f"{'':<8}{'recall@10':>11}{'queries/s':>11}{'ms':>8}{'build s':>9}{'MB':>9}")
    for kind in flags.kinds.split(","):
        start = time.perf_counter()
        searchable, size = (Exact(mesh, vectors), vectors.nbytes) if kind == "exact" else built(kind, vectors)
        row = {"kind": kind, "build_seconds": time.perf_counter() - start, "bytes": size}
        searchable.search(queries[0], 10)
        start = time.perf_counter()
        for query in queries:
            searchable.search(query, 10)
        row["queries_per_second"] = len(queries) / (time.perf_counter() - start)
        row["recall"] = recall(searchable, queries, truth)
        print(
            f"{kind:<8}{row['recall']:>11.4f}{row['queries_per_second']:>11.1f}{1e3 / row['queries_per_second']:>8.2f}"
            f"{row['build_seconds']:>9.1f}{size / 1e6:>9.0f}", flush=True,
        )  # fmt: skip
        print(json.dumps({"pictures": flags.pictures, "width": flags.width} | row), flush=True)


if __name__ == "__main__":
    main()
