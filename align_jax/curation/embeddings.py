"""With a checkpoint: how well a text fits its picture, and near-duplicates of evaluation pictures by embedding.

The search is that of ALIGN's appendix A: k-means clusters, each picture in the buckets of all choices of 3 among its 10
nearest clusters, and a near-duplicate is what shares a bucket and has a cosine of more than 0.975.
"""

import dataclasses
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.curation.facts import read_images
from align_jax.types import AlignError

SCORES = pa.schema([("scores", pa.list_(pa.float32()))])
STRETCH = 256  # pictures that are searched for, or given to the model, at once


class Embedder(Protocol):
    """`align_jax.load(checkpoint)`."""

    def embed_images(self, images: Sequence[bytes]) -> np.ndarray:
        """Unit rows f32 [n, D]."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows f32 [n, D]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The parameters of the search, by default the paper's."""

    clusters: int = 4096
    nearest: int = 10  # clusters of a picture
    chosen: int = 3  # of them, for a bucket
    sample: int = 200_000  # pictures from which the clusters are learnt

    def __post_init__(self):
        if not 1 <= self.chosen <= self.nearest <= self.clusters or self.clusters**self.chosen >= 2**64:
            raise AlignError(
                "config.search: expected 1 <= chosen <= nearest <= clusters and clusters ** chosen below 2 ** 64, "
                f"found {self.chosen}, {self.nearest} and {self.clusters}"
            )


def embed(embedder: Embedder, facts: Path, folder: Path, *, texts: bool) -> None:
    """Writes images.npy, f32 [n, D] with zero rows for unreadable pictures, and the scores of the texts if wanted.

    scores.parquet has for each record the cosine of each text with its picture; -1 for a text without a word.
    """
    folder.mkdir(parents=True)
    columns = ["reason", "texts", "text_hashes"]
    records = pq.read_table(facts / "records.parquet", columns=columns).to_pylist()
    good = [row for row, record in enumerate(records) if not record["reason"]]
    parts = [
        embedder.embed_images(read_images(facts, good[start : start + STRETCH]))
        for start in range(0, len(good), STRETCH)
    ]
    width = parts[0].shape[1] if parts else 1
    found = np.zeros((len(records), width), np.float32)
    found[good] = np.concatenate(parts) if parts else found[good]
    np.save(folder / "images.npy", found)
    if texts:
        scores = _scores(embedder, records, found)
        pq.write_table(pa.Table.from_pylist([{"scores": row} for row in scores], SCORES), folder / "scores.parquet")


def _scores(embedder: Embedder, records: list[dict], images: np.ndarray) -> list[list[float]]:
    places = [
        (row, column)
        for row, record in enumerate(records) if not record["reason"]
        for column, key in enumerate(record["text_hashes"]) if key
    ]  # fmt: skip
    scores = [[-1.0] * len(record["texts"]) for record in records]
    for start in range(0, len(places), STRETCH):
        part = places[start : start + STRETCH]
        found = embedder.embed_texts([records[row]["texts"][column] for row, column in part])
        for (row, column), unit in zip(part, found, strict=True):
            scores[row][column] = float(images[row] @ unit)
    return scores


def kmeans(points: np.ndarray, clusters: int, *, rounds: int = 10) -> np.ndarray:
    """Unit centres f32 [K, D] of unit rows f32 [n, D] (Lloyd; K is at most n), the same for the same points."""
    clusters = min(clusters, len(points))
    centres = points[np.random.default_rng(0).choice(len(points), clusters, replace=False)]
    for _ in range(rounds):
        nearest = np.concatenate([np.argmax(part @ centres.T, axis=1) for part in _stretches(points)])
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)  # an empty cluster stays where it is
    return centres.astype(np.float32)


def buckets(points: np.ndarray, centres: np.ndarray, search: Search) -> np.ndarray:
    """uint64 [n, C(nearest, chosen)]: the buckets of unit rows f32 [n, D]."""
    nearest = min(search.nearest, len(centres))
    found = np.concatenate([np.argsort(-(part @ centres.T), axis=1)[:, :nearest] for part in _stretches(points)])
    found = np.sort(found, axis=1).astype(np.uint64)
    choices = np.array(list(itertools.combinations(range(nearest), min(search.chosen, nearest))))
    keys = np.zeros((len(points), len(choices)), np.uint64)
    for column in choices.T:
        keys = keys * np.uint64(search.clusters) + found[:, column]
    return keys


class NearEmbeddings:
    """Finds the nearest of `known` unit rows f32 [m, D] among those that share a bucket."""

    def __init__(self, known: np.ndarray, centres: np.ndarray, search: Search):
        self._known, self._centres, self._search = known, centres, search
        keys = buckets(known, centres, search)
        order = np.argsort(keys, axis=None, kind="stable")
        self._keys, self._owners = keys.ravel()[order], order // keys.shape[1]

    def cosines(self, points: np.ndarray) -> np.ndarray:
        """f32 [n]: for each of unit rows f32 [n, D]; -1 where no known row shares a bucket."""
        return np.concatenate([self._stretch(part) for part in _stretches(points)])

    def _stretch(self, points: np.ndarray) -> np.ndarray:
        keys = buckets(points, self._centres, self._search)
        first, last = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        found = np.full(len(points), -1, np.float32)
        for row, (starts, ends) in enumerate(zip(first, last, strict=True)):
            spans = [self._owners[start:end] for start, end in zip(starts, ends, strict=True) if start < end]
            if spans:
                found[row] = (self._known[np.unique(np.concatenate(spans))] @ points[row]).max()
        return found


def save_known(path: Path, known: np.ndarray, sample: np.ndarray, search: Search) -> None:
    """Writes the evaluation pictures' embeddings and the clusters, learnt from both, for the workers of step B."""
    with path.open("wb") as file:
        np.savez(file, known=known, centres=kmeans(np.concatenate([known, sample]), search.clusters))


def load_known(contents: bytes, search: Search) -> NearEmbeddings:
    """What `save_known` wrote."""
    arrays = np.load(io.BytesIO(contents))
    return NearEmbeddings(arrays["known"], arrays["centres"], search)


def _stretches(points: np.ndarray) -> list[np.ndarray]:
    return [points[start : start + STRETCH] for start in range(0, max(len(points), 1), STRETCH)]
