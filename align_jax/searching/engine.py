"""Answers queries: a text, a picture, or pictures plus and minus texts, over a collection."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from align_jax.config import nearest
from align_jax.data import captions
from align_jax.data.pairs import Pairs
from align_jax.evals.query import TEXT_WEIGHT, compose
from align_jax.model import Model
from align_jax.searching.collection import Collection
from align_jax.searching.index import Index
from align_jax.searching.reranker import Reranker
from align_jax.types import AlignError

MOST = 200  # pictures of one answer
LONGEST = 1000  # characters of a text
WEIGHT = 100.0  # the largest weight
BLOCK = 65_536  # pictures of a class that are compared at once


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for. Weights and their defaults are those of `evals.query.compose`."""

    text: str = ""
    without: str = ""  # a text that is taken away
    image: bytes | None = None  # encoded
    text_weight: float = TEXT_WEIGHT
    without_weight: float = TEXT_WEIGHT
    image_weight: float = 1.0
    count: int = 24
    min_score: float = -1.0  # cosine similarity
    label: str = ""  # of this class alone


class Hit(NamedTuple):
    """One picture of an answer."""

    row: int  # of the source
    id: str
    score: float  # cosine similarity with the query
    captions: tuple[str, ...]
    label: str  # class, or nothing
    match: float | None = None  # the cross-encoder's logit, where it looked at the picture


class Answer(NamedTuple):
    """What was found, best first."""

    hits: list[Hit]
    milliseconds: dict[str, float]  # "embedding" the query and "searching"
    notes: list[str]  # what one should know of the query


class Engine:
    """A model, a collection and its index. Safe among threads."""

    def __init__(self, model: Model, collection: Collection, index: Index, reranker: Reranker | None = None):
        """`reranker`: orders anew what is found for a text alone. AlignError for a model that reads no texts."""
        if not isinstance(model.embedder.pairs, Pairs):
            raise AlignError("search: expected a model of images and texts, found one of labelled images")
        self._pairs = model.embedder.pairs
        self.collection, self.index = collection, index
        self._model, self._reranker = model, reranker
        self.classes = [collection.source.classes[label] for label in np.unique(collection.labels) if label >= 0]

    def warm_up(self) -> None:
        """Compiles what a query needs, so that the first one is as fast as the others."""
        size = self._pairs.resize
        with jax.set_mesh(self._model.mesh):
            images = [np.zeros((size, size, 3), np.uint8)]
            self._model.embedder.images(self._model.params, self._model.model_state, images)
        row = self._text("a", "text", [])
        for k in (Query.count, MOST):
            self.index.searchable.search(row, k)
        if self._reranker:
            scores = self._reranker("a", self.collection.rows[: self._reranker.top].tolist())
            if not np.isfinite(scores).any():
                raise AlignError(
                    "--rerank: expected pictures that the cross-encoder can be shown, found none among the first "
                    f"{len(scores):,}; one that is shown stored regions needs those of --data: --regions"
                )

    def search(self, query: Query) -> Answer:
        """The nearest pictures. AlignError, in words for the one who asked, for a query that cannot be answered."""
        _check(query)
        notes: list[str] = []
        start = time.perf_counter()
        images = [self._image(query.image)] if query.image is not None and query.image_weight else []
        given = [("text", query.text, query.text_weight), ("without", query.without, -query.without_weight)]
        used = [(name, text, weight) for name, text, weight in given if text.strip() and weight]
        texts = [self._text(text, name, notes) for name, text, _ in used]
        if not images and not texts:
            raise AlignError("Give a text or a picture to look for, with a weight other than 0.")
        width = self.collection.width
        row = compose(
            np.reshape(images, (-1, width)), [query.image_weight] * len(images), np.reshape(texts, (-1, width)),
            [weight for _, _, weight in used],
        )  # fmt: skip
        embedded = time.perf_counter()
        again = self._reranker if [name for name, *_ in used] == ["text"] and not images else None
        scores, places = self._nearest(row, query, max(query.count, again.top if again else 0))
        searched = time.perf_counter()
        hits = [
            self._hit(int(place), float(score))
            for place, score in zip(places, scores, strict=True) if score >= query.min_score
        ]  # fmt: skip
        milliseconds = {"embedding": 1e3 * (embedded - start), "searching": 1e3 * (searched - embedded)}
        if again and hits:
            hits = _reranked(again, captions.clean(query.text), hits)
            milliseconds["re-ranking"] = 1e3 * (time.perf_counter() - searched)
        return Answer(hits[: query.count], milliseconds, notes)

    def _nearest(self, row: np.ndarray, query: Query, count: int) -> tuple[np.ndarray, np.ndarray]:
        if not query.label:
            return self.index.searchable.search(row, count)
        # An index that skips what is of other classes finds too little of a rare one: all of a class are compared.
        if query.label not in self.classes:
            raise AlignError(f"There is no class {query.label!r} here; {nearest(query.label, self.classes)}.")
        places = np.flatnonzero(self.collection.labels == self.collection.source.classes.index(query.label))
        blocks = [places[start : start + BLOCK] for start in range(0, len(places), BLOCK)]
        scores = np.concatenate([self.collection.images[block] @ row for block in blocks])
        best = np.argsort(-scores, kind="stable")[:count]
        return scores[best], places[best]

    def _hit(self, place: int, score: float) -> Hit:
        record = self.collection.about(place)
        label = self.collection.source.classes[record.label] if record.label >= 0 else ""
        return Hit(int(self.collection.rows[place]), record.id, score, record.texts, label)

    def _image(self, data: bytes) -> np.ndarray:
        model = self._model
        with jax.set_mesh(model.mesh):
            rows, bad = model.embedder.images(model.params, model.model_state, [data])
        if bad:
            raise AlignError(f"This picture cannot be used: {bad[0]}.")
        return rows[0]

    def _text(self, text: str, name: str, notes: list[str]) -> np.ndarray:
        """Notes what the model does not read of the text."""
        pairs = self._pairs
        text = captions.clean(text)
        try:
            ids, mask = pairs.tokenizer.encode([text], pairs.text_length + 1)
        except ValueError as error:
            raise AlignError(f"Expected a word in {name!r}, found none.") from error
        unknown = int(np.count_nonzero(ids == pairs.tokenizer.unknown))
        if mask.all():
            notes.append(f"The model reads the first {pairs.text_length - 2} word pieces of {text!r}; the rest is cut.")
        if unknown:
            notes.append(f"The model has no pieces to spell {unknown} word{'s' if unknown > 1 else ''} of {text!r}.")
        return self._model.embed_texts([text])[0]


def _reranked(reranker: Reranker, text: str, hits: list[Hit]) -> list[Hit]:
    """The first ones in the cross-encoder's order, the others behind them as they were."""
    first = hits[: reranker.top]
    scores = reranker(text, [hit.row for hit in first])
    order = np.argsort(-scores, kind="stable").tolist()
    seen = [float(scores[i]) if np.isfinite(scores[i]) else None for i in order]
    return [first[i]._replace(match=score) for i, score in zip(order, seen, strict=True)] + hits[reranker.top :]


def _check(query: Query) -> None:
    """The values, whatever they are: they come from outside."""
    for name, text in (("text", query.text), ("without", query.without), ("class", query.label)):
        if not isinstance(text, str) or len(text) > LONGEST:
            raise AlignError(f"Expected a {name} of at most {LONGEST:,} characters, found {_size(text)}.")
    for name in ("text_weight", "without_weight", "image_weight"):
        _number(getattr(query, name), name.replace("_", " "), 0, WEIGHT)
    _number(query.min_score, "least score", -1, 1)
    _number(query.count, "number of pictures", 1, MOST)
    if query.count != int(query.count):
        raise AlignError(f"Expected a whole number of pictures, found {query.count}.")


def _size(text: object) -> str:
    return f"{len(text):,}" if isinstance(text, Sequence) else type(text).__name__


def _number(value: object, name: str, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise AlignError(f"Expected a {name} from {least:g} to {most:g}, found {str(value)[:20]}.")
