"""The index of a collection: exact on the devices, or one of FAISS on disk, with its recall measured."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from align_jax import files
from align_jax.config import call, nearest
from align_jax.evals.blockwise import Blockwise
from align_jax.model import Model
from align_jax.searching.collection import Collection
from align_jax.searching.exact import Exact
from align_jax.searching.kinds import KINDS, TRAINED, TUNED, Kind, faiss
from align_jax.types import AlignError

LARGE = 200_000  # pictures from which on "auto" takes HNSW: half a gigabyte to read for each query at 640 numbers each
ADDED = 16_384  # vectors that are added at once, between two steps of the bar
QUERIES, K = 500, 10  # recall@K is measured on as many pictures and as many captions
EQUAL = 1e-5  # scores that differ by no more are a tie: libraries add up in another order


class Searchable(Protocol):
    """What finds the nearest pictures."""

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32 scores, int places) of at most k pictures for one unit row f32 [D], best first."""
        ...


@dataclasses.dataclass(frozen=True)
class Index:
    """An index ready to be searched."""

    searchable: Searchable
    kind: str
    options: dict[str, int]  # as they are in use
    recall: dict[str, float]  # recall@10 against exact search, for "pictures" and "captions" as queries; exact: empty

    def described(self) -> str:
        """'hnsw index (m 32, ...), recall@10 0.993 for pictures, 0.981 for captions', as people read it."""
        options = ", ".join(f"{name} {value:,}" for name, value in self.options.items())
        found = " and ".join(f"{value:.3f} for {queries}" for queries, value in self.recall.items())
        kind = "exact search" if self.kind == "exact" else f"{self.kind} index"
        return f"{kind}{f' ({options})' if options else ''}{f', recall@{K} {found}' if found else ''}"


class Approximate:
    """A FAISS index."""

    def __init__(self, index: Any):
        self._index = index

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32 scores, int64 places) of at most k pictures for one unit row f32 [D], best first."""
        scores, places = self._index.search(query[None], min(k, self._index.ntotal))
        found = places[0] >= 0
        return scores[0][found], places[0][found]


def check(kind: str, options: Mapping[str, Any]) -> Kind | None:
    """The kind of FAISS with its options; None for "auto" and "exact", which have none. AlignError for what cannot be,
    which a caller wants to know before a collection is embedded."""
    if kind in ("auto", "exact"):
        if options:
            raise AlignError(f"--index_options: --index_kind={kind} has none, found {sorted(options)}")
        return None
    if kind not in KINDS:
        raise AlignError(f"--index_kind: found {kind!r}; {nearest(kind, ['auto', 'exact', *KINDS])}")
    chosen = call(KINDS[kind], options, where="--index_options")
    for name, value in dataclasses.asdict(chosen).items():
        if type(value) is not int or value < (name != "nlist"):
            raise AlignError(f"--index_options: expected {name} of at least 1, found {value!r}")
    faiss()
    return chosen


def open_index(model: Model, collection: Collection, kind: str, options: Mapping[str, Any], *, threads: int) -> Index:
    """The index of a kind ("auto", "exact", or one of FAISS with options of its own), built where it is not yet.

    `threads` bounds those of FAISS, in this process. Options that say how a search goes about it (`TUNED`) need no new
    index; recall is then measured anew.
    """
    if kind == "auto":
        kind = "exact" if len(collection) < LARGE else "hnsw"
    chosen = check(kind, options)
    if chosen is None:
        return Index(Exact(model.mesh, collection.images), kind, {}, {})
    faiss().omp_set_num_threads(threads)
    path = collection.folder / f"{kind}.faiss"
    facts = {**collection.identity, "kind": kind, "count": len(collection), "options": dataclasses.asdict(chosen)}
    known = _read_facts(path)
    if known is None or _built(known) != _built(facts):
        index = _build(chosen, collection)
        _facts(path).unlink(missing_ok=True)  # of an older index: a kill must not leave it beside the new one
        files.write(path, lambda partial: faiss().write_index(index, str(partial)))
        known = None
    else:
        index = _read_index(path, collection)
    chosen.tune(index)
    searchable = Approximate(index)
    recall = (
        known["recall"] if known and known["options"] == facts["options"] else measure(model, collection, searchable)
    )
    files.write_json(_facts(path), facts | {"recall": recall})
    return Index(searchable, kind, chosen.used(index), recall)


def _facts(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_facts(path: Path) -> dict[str, Any] | None:
    """What stands beside the index; None where it is not there in full."""
    if not path.exists() or not _facts(path).exists():
        return None
    try:
        facts = json.loads(_facts(path).read_text())
        return facts if facts.keys() >= {"options", "recall"} else None
    except (ValueError, AttributeError):
        return None


def _built(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that another index would be needed for."""
    kept = {key: facts.get(key) for key in ("weights", "data", "records", "kind", "count")}
    return kept | {name: value for name, value in facts["options"].items() if name not in TUNED}


def _read_index(path: Path, collection: Collection) -> Any:
    try:
        index = faiss().read_index(str(path))
    except RuntimeError as error:
        raise AlignError(f"{path}: expected an index of FAISS, found it damaged; delete it") from error
    if (index.ntotal, index.d) != (len(collection), collection.width):
        raise AlignError(
            f"{path}: expected {len(collection):,} x {collection.width} numbers, found {index.ntotal:,} x "
            f"{index.d}; delete it, it is built anew"
        )
    return index


def _build(kind: Kind, collection: Collection) -> Any:
    """The index with all vectors, with a progress bar."""
    index = kind.new(collection.width, len(collection))
    if not index.is_trained:
        count = min(len(collection), TRAINED * index.nlist)
        index.train(collection.images[np.sort(np.random.default_rng(0).permutation(len(collection))[:count])])
    with tqdm(total=len(collection), unit="picture", desc="building the index", disable=None) as bar:
        for start in range(0, len(collection), ADDED):
            part = collection.images[start : start + ADDED]
            index.add(np.ascontiguousarray(part))
            bar.update(len(part))
    return index


def measure(model: Model, collection: Collection, searchable: Searchable) -> dict[str, float]:
    """recall@10 against exact search, of pictures of the collection and of captions as queries, drawn at random.

    Texts lie apart from pictures, where an index finds less: a recall of pictures alone would say too much.
    """
    places = np.sort(np.random.default_rng(1).permutation(len(collection))[:QUERIES])
    queries = {"pictures": collection.images[places]}
    texts = [text for place in places for text in collection.about(int(place)).texts[:1] if text.strip()]
    if texts:
        queries["captions"] = model.embed_texts(texts)
    images = collection.images
    return {name: recall(searchable, rows, Blockwise(model.mesh, rows, images)) for name, rows in queries.items()}


def recall(searchable: Searchable, queries: np.ndarray, exact: Blockwise) -> float:
    """recall@10: the share of the ten nearest pictures that is found; of equal scores, any is as good."""
    wanted, _ = exact.nearest(K)
    k = wanted.shape[1]
    found = [searchable.search(query, k)[0] for query in queries]
    hits = [np.count_nonzero(scores >= floor - EQUAL) for scores, floor in zip(found, wanted[:, -1], strict=True)]
    return sum(hits) / (k * len(queries))
