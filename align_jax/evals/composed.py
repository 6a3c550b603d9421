"""Retrieval by an image plus and minus texts (ALIGN section 7, Figure 5), from a list of queries.

A query stands on a line of a jsonl file:

  {"image": "dog.jpg", "plus": ["in snow"], "minus": ["grass"], "text_weight": 2.0, "answer": ["17", "42"]}

`image` is the id of a record, or a path beside the file; `text_weight` is that of each text where the image weighs 1;
`answer` names the records that are right. Each key may be left out, but something must be asked for.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax import config, provenance
from align_jax.data import images as reading
from align_jax.data.source import BadExample, Source
from align_jax.evals.blockwise import Blockwise
from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.evals.panels import Grid, Hit, Item, picture, thumbnail
from align_jax.evals.query import TEXT_WEIGHT, compose
from align_jax.evals.ranking import AT, Asked, measures, numbered, ranks
from align_jax.evals.statistics import digest
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result

KEYS = ("image", "plus", "minus", "text_weight", "answer")
SHOWN, TOP = 24, 6  # queries of the panel, and what each shows


class Query(NamedTuple):
    """One line of the file."""

    where: str  # file and line
    path: str  # of the image; empty where it is a record's, or where there is none
    record: int  # whose image it is, or -1
    texts: tuple[str, ...]
    weights: tuple[float, ...]  # of the texts; those below 0 are taken away
    answer: tuple[int, ...]  # records


class Composed(Evaluator):
    """R@K and median rank of the queries that have an answer, and a grid of what the first queries find."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, queries: str, at: Sequence[int] = AT
    ):
        """`source`: where to search, as `config.data.source`; a record is no candidate for a query with its own image.
        `queries`: the jsonl file. `at`: the K of recall@K."""
        if not at or min(at) < 1:
            raise AlignError(f"evals.{name}: expected `at` above 0, found {tuple(at)}")
        self._embedder, self._name, self._at = embedder, name, tuple(at)
        self._source, self._protocol = embedder.open(source), protocol_of(source)
        ids = numbered(self._source.ids().to_pylist(), where=f"evals.{name}")
        self._queries = _read(Path(queries), self._source, ids)
        self._paths = [query.path for query in self._queries if query.path]
        self._digest = digest([*ids, *(str(query[1:]) for query in self._queries)])
        crop = embedder.pairs.view.protocol
        self._facts = {"data": provenance.digest(self._source), "queries": self._digest, "crop": crop}
        self._hits: list[list[tuple[float, int]]] = []

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Results where queries have answers."""
        images, bad = self._embedder.images(params, model_state, self._source)
        skipped = left_out(self._source, bad)
        rows = self._rows(params, model_state, images)
        readable = np.array([record for record in range(len(images)) if record not in bad])
        place = {record: number for number, record in enumerate(readable.tolist())}
        candidates = images[readable]
        self._hits = self._nearest(rows, candidates, readable)
        numbers = enumerate(self._queries)
        right = [(n, place[record]) for n, query in numbers for record in query.answer if record in place]
        if not right:
            return
        own = [(n, place[query.record]) for n, query in enumerate(self._queries) if query.record >= 0]
        pairs = np.array(right), np.array(own, np.int64).reshape(-1, 2)
        asked = Asked.of(ranks(self._embedder.mesh, rows, candidates, *pairs)[0], np.arange(len(rows)))
        protocol = (
            f"{self._protocol}: {len(asked.ranks)} of {len(rows)} queries, those with an answer, x {len(candidates)} "
            f"images without the query's own, sum of unit embeddings by weight, {self._facts['crop']}, ties "
            f"pessimistic{skipped}"
        )
        yield from measures(self._name, asked, self._at, ids=self._digest, protocol=protocol, facts=self._facts)

    def panels(self) -> Iterator[Any]:
        """What the first queries found."""
        if not self._hits:
            return
        rows = []
        for query, hits in zip(self._queries, self._hits, strict=False):
            found = [Hit(picture(self._source, record), score, record in query.answer) for score, record in hits]
            rows.append((_shown(query, self._source), found))
        note = f"the first {len(rows)} of {len(self._queries)} queries, nearest first"
        yield Grid(f"{self._name}: images plus and minus texts", note, rows)

    def _rows(self, params: Params, model_state: ModelState, images: np.ndarray) -> np.ndarray:
        """f32 [queries, D], of unit length."""
        none = np.zeros((0, images.shape[1]), np.float32)
        given = none
        if self._paths:
            given, bad = self._embedder.images(params, model_state, self._paths)
            for number, reason in bad.items():
                raise AlignError(f"{self._paths[number]}: expected a picture, found {reason}")
        texts = list(dict.fromkeys(text for query in self._queries for text in query.texts))
        words = dict(zip(texts, self._embedder.texts(params, model_state, texts), strict=True)) if texts else {}
        found, pictures = [], iter(given)
        for query in self._queries:
            image = [next(pictures)] if query.path else [images[query.record]] if query.record >= 0 else []
            parts = (np.array([words[text] for text in query.texts]) if query.texts else none), query.weights
            try:
                found.append(compose(np.array(image) if image else none, [1.0] * len(image), *parts))
            except AlignError as error:
                raise AlignError(f"{query.where}: {error}") from error
        return np.stack(found)

    def _nearest(self, rows: np.ndarray, candidates: np.ndarray, readable: np.ndarray) -> list[list[tuple[float, int]]]:
        """(score, record) of the nearest, for the first queries."""
        scores, found = Blockwise(self._embedder.mesh, rows[:SHOWN], candidates).nearest(TOP + 1)
        lines = zip(self._queries, scores.tolist(), readable[found].tolist(), strict=False)
        return [
            [(score, record) for score, record in zip(of, records, strict=True) if record != query.record][:TOP]
            for query, of, records in lines
        ]


def _read(path: Path, source: Source, ids: Mapping[str, int]) -> list[Query]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignError(f"{path}: expected a jsonl file of queries, found {error}") from error
    found = [
        _query(line, path.parent, source, ids, f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise AlignError(f"{path}: expected at least one query, found none")
    return found


def _query(line: str, folder: Path, source: Source, ids: Mapping[str, int], where: str) -> Query:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise AlignError(f'{where}: expected {{"image": .., "plus": [..], ..}}, found {line.strip()[:80]!r}')
    config.check_keys(row, KEYS, (), where=where)
    plus, minus, answer = (_strings(row, key, where) for key in ("plus", "minus", "answer"))
    image, weight = row.get("image", ""), row.get("text_weight", TEXT_WEIGHT)
    if not isinstance(image, str) or not (image or plus or minus):
        raise AlignError(f"{where}: expected an image, or texts in plus or minus, found {line.strip()[:80]!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise AlignError(f"{where}: expected a text_weight above 0, found {weight!r}")
    unknown = [name for name in answer if name not in ids or name == image]
    if unknown or ("answer" in row and not answer):
        raise AlignError(f"{where}: expected answers that are ids of other records, found {unknown}")
    record = ids.get(image, -1)
    path = str(folder / image) if image and record < 0 else ""
    try:
        if image:
            reading.decode(path or source[record].image)
    except BadExample as error:
        raise AlignError(
            f"{where}: expected a picture, by the id of a record or a path beside the file, found {image!r} ({error})"
        ) from error
    weights = (float(weight),) * len(plus) + (-float(weight),) * len(minus)
    return Query(where, path, record, plus + minus, weights, tuple(ids[name] for name in dict.fromkeys(answer)))


def _strings(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = row.get(key, [])
    if not isinstance(found, list) or not all(isinstance(value, str) and value.strip() for value in found):
        raise AlignError(f"{where}: expected {key} to be a list of texts that are not empty, found {found!r}")
    return tuple(found)


def _shown(query: Query, source: Source) -> Item:
    said = " ".join(f"{'+' if w > 0 else '-'} {text}" for text, w in zip(query.texts, query.weights, strict=True))
    if query.path:
        return thumbnail(query.path, text=said)
    return picture(source, query.record, text=said) if query.record >= 0 else Item(text=said)
