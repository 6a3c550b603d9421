"""Kinds of FAISS index and their parameters (Douze et al. 2024, arXiv 2401.08281). All hold the vectors in full."""

import dataclasses
import importlib
import math
from typing import Any

from align_jax.types import AlignError

PER_LIST = 39  # vectors for each list below which k-means has too few to learn from, by FAISS's own measure
TRAINED = 256  # vectors for each list that k-means looks at


def faiss() -> Any:
    """The library; AlignError where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise AlignError(
            'expected faiss, found it not installed; run: pip install -e ".[search]", or give --index_kind=exact'
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat:
    """Compares all: exact, on the processor."""

    def new(self, width: int, count: int) -> Any:
        """An empty index of `count` vectors [D = width] to come, by inner product."""
        return faiss().IndexFlatIP(width)

    def tune(self, index: Any) -> None:
        """Sets how a search goes about it, which needs no new index."""

    def used(self, index: Any) -> dict[str, int]:
        """The options as they are in the index once it is tuned."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hnsw:
    """A graph of near neighbours in layers (Malkov and Yashunin 2018, arXiv 1603.09320): fast, slow to build."""

    m: int = 32  # neighbours of a vector; memory is 8 * m bytes a vector more
    ef_construction: int = 200  # candidates that are kept in sight while it is built
    ef_search: int = 128  # and while it is searched: more find more, and take longer

    def new(self, width: int, count: int) -> Any:
        """An empty index of `count` vectors [D = width] to come, by inner product."""
        index = faiss().IndexHNSWFlat(width, self.m, faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def tune(self, index: Any) -> None:
        """Sets how a search goes about it, which needs no new index."""
        index.hnsw.efSearch = self.ef_search

    def used(self, index: Any) -> dict[str, int]:
        """The options as they are in the index once it is tuned."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ivf:
    """Lists of vectors around the centres of k-means (Sivic and Zisserman 2003): quick to build, small."""

    nlist: int = 0  # lists; 0: four times the root of the number of vectors
    nprobe: int = 32  # lists that a search looks into: more find more, and take longer

    def new(self, width: int, count: int) -> Any:
        """An empty index of `count` vectors [D = width] to come, by inner product; it must be trained."""
        lists = self.nlist or max(1, min(round(4 * math.sqrt(count)), count // PER_LIST))
        if lists > count:
            raise AlignError(f"--index_options: expected nlist of at most the {count:,} pictures, found {lists:,}")
        index = faiss().IndexIVFFlat(faiss().IndexFlatIP(width), width, lists, faiss().METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # small collections are searched just as well, and it would only warn
        index.cp.max_points_per_centroid = TRAINED
        return index

    def tune(self, index: Any) -> None:
        """Sets how a search goes about it, which needs no new index."""
        index.nprobe = min(self.nprobe, index.nlist)

    def used(self, index: Any) -> dict[str, int]:
        """The options as they are in the index once it is tuned."""
        return {"nlist": index.nlist, "nprobe": index.nprobe}


Kind = Flat | Hnsw | Ivf
KINDS = {"flat": Flat, "hnsw": Hnsw, "ivf": Ivf}
TUNED = ("ef_search", "nprobe")  # options that need no new index
