"""Retrieval between the images and the texts of a source, any number of texts per image (facts: ALIGN section 7).

An image's right answers are the texts of its group; a text's are the images of any group that has it.
"""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax import provenance
from align_jax.data.source import Source
from align_jax.evals.embedding import NAMED, Embedder, left_out, protocol_of
from align_jax.evals.ranking import AT, Asked, joined, mean_recall, measures, numbered, ranks, same_group
from align_jax.evals.retrieval_panels import Panels, Shown
from align_jax.evals.statistics import digest
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result

CANDIDATES = {"unique": "equal texts are one candidate", "all": "each caption is a candidate"}
WAYS = ("image_to_text", "text_to_image")


class Pool(NamedTuple):
    """Images and texts that compete: those of a source, or of one fold of it."""

    images: np.ndarray  # int64 [n]: records
    texts: np.ndarray  # int64 [m]: rows of the source's distinct texts
    right: np.ndarray  # int64 [P, 2]: (image, text) that belong together, by their places in the two
    groups: np.ndarray  # int64 [n] of the images
    text_groups: np.ndarray  # int64 [m]: the group of the image from which a text comes, of the first one if of several


class Retrieval(Evaluator):
    """Ranks all texts for each image, and all images for each text: R@K, median rank and mean recall."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, at: Sequence[int] = AT,
        texts: str = "unique", captions: int = 0, folds: int = 1, seed: int = 0,
    ):  # fmt: skip
        """`source`: as `config.data.source`. `at`: the K of recall@K.

        `texts`: "unique", equal texts are one candidate that is right for the images of each group that has it; or
        "all", each caption is a candidate and a query of its own, right for the images of its own group alone, as
        published on Flickr30k and COCO. `captions`: the first so many of each image; 0 for all. `folds`: so many
        stretches of the images, in order, are asked apart; numbers are the means over them, as for COCO's 1K.
        `seed` draws what the panels show.
        """
        if texts not in CANDIDATES:
            raise AlignError(f"evals.{name}.texts: expected one of {list(CANDIDATES)}, found {texts!r}")
        if not at or min(at) < 1 or captions < 0 or folds < 1:
            raise AlignError(
                f"evals.{name}: expected `at` and folds above 0, captions of 0 or more, found {tuple(at)}, {folds} and "
                f"{captions}"
            )
        self._embedder, self._name, self._at, self._seed = embedder, name, tuple(at), seed
        self._source = embedder.open(source)
        self._ids, groups, self._texts, pairs = _read(self._source, captions, where=f"evals.{name}")
        parts = np.array_split(np.arange(len(groups)), min(folds, len(groups)))
        self._pools = [_pool(part, groups, pairs[_within(pairs[:, 0], part)], texts) for part in parts]
        if len(parts) < folds or not all(len(pool.texts) for pool in self._pools):
            raise AlignError(
                f"evals.{name}: expected images with texts in each of {folds} folds, found {len(groups)} images and "
                f"{len(pairs)} texts"
            )
        first = f", first {captions} texts of an image" if captions else ""
        self._protocol = f"{protocol_of(source)}{first}, {CANDIDATES[texts]}"
        self._facts = {
            "data": provenance.digest(self._source),
            "crop": embedder.pairs.view.protocol,
        }
        self._shown: Shown | None = None

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K and median rank both ways, and the mean recall."""
        images, bad = self._embedder.images(params, model_state, self._source)
        skipped = left_out(self._source, bad)
        texts = self._embedder.texts(params, model_state, self._texts)
        pools = [_readable(pool, bad) for pool in self._pools]
        asked: list[tuple[Asked, Asked]] = []
        not_asked: tuple[list[int], list[int]] = ([], [])  # records, and rows of the texts, without a right answer
        for number, pool in enumerate(pools):
            rows = _rows(images, pool.images), _rows(texts, pool.texts)
            forth, back = ranks(self._embedder.mesh, *rows, pool.right)
            asked.append((Asked.of(forth, pool.groups, number), Asked.of(back, pool.text_groups, number)))
            for lacking, index, found in zip(not_asked, (pool.images, pool.texts), (forth, back), strict=True):
                lacking.extend(index[found < 0].tolist())
            if not number:
                self._shown = Shown(pool.images, pool.texts, *rows, pool.right, (forth, back))
        if not all(len(queries.ranks) for pair in asked for queries in pair):
            raise AlignError(
                f"evals.{self._name}: expected a readable image with a text in each fold, found none in one"
            )
        self._ways = tuple(joined(parts) for parts in zip(*asked, strict=True))
        protocol = (
            f"{self._protocol}: {_sizes(pools)}, hit = same group, {self._facts['crop']}, "
            f"ties pessimistic{skipped}"
            f"{_lacking('images without a text', [self._ids[i] for i in not_asked[0]])}"
            f"{_lacking('texts without a readable image', [repr(self._texts[i]) for i in not_asked[1]])}"
        )
        ids = digest(name for pool in pools for name in self._names(pool))
        given: dict[str, Any] = {"protocol": protocol, "facts": self._facts}
        for way, queries in zip(WAYS, self._ways, strict=True):
            yield from measures(f"{self._name}/{way}", queries, self._at, ids=f"{way} {ids}", **given)
        yield mean_recall(self._name, self._ways, self._at, ids=ids, **given)

    def panels(self) -> Iterator[Any]:
        """What some queries found, recall against K, a batch's scores, and a map."""
        if self._shown is None:
            return
        of = f", of the first of {len(self._pools)} folds" if len(self._pools) > 1 else ""
        panels = Panels(self._shown, self._source, self._texts, name=self._name, of=of, seed=self._seed)
        yield panels.texts_to_images(self._embedder.mesh)
        yield panels.images_to_texts(self._embedder.mesh)
        yield panels.recall(self._ways)
        yield panels.similarity()
        yield panels.map()

    def _names(self, pool: Pool) -> Iterator[str]:
        yield from (self._ids[i] for i in pool.images)
        yield from (self._texts[i] for i in pool.texts)


def _sizes(pools: Sequence[Pool]) -> str:
    counts = [(len(pool.images), len(np.unique(pool.groups)), len(pool.texts)) for pool in pools]
    low, high = np.min(counts, axis=0), np.max(counts, axis=0)
    images, groups, texts = (
        str(least) if least == most else f"{least} to {most}" for least, most in zip(low, high, strict=True)
    )
    folds = f"mean over {len(pools)} folds of " if len(pools) > 1 else ""
    return f"{folds}{images} images of {groups} groups x {texts} texts"


def _lacking(what: str, names: Sequence[str]) -> str:
    """Candidates that are no queries, as a protocol names them."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f", {len(names)} {what} not asked: {', '.join(names[:NAMED])}{more}" if names else ""


def _read(source: Source, captions: int, *, where: str) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """(ids, groups int64 [n], distinct texts, (record, row of the distinct texts) int64 [captions, 2])."""
    numbers: dict[str, int] = {}
    rows: dict[str, int] = {}
    ids: list[str] = []
    groups: list[int] = []
    pairs = array("q")
    for index in range(len(source)):
        record = source.about(index)
        ids.append(record.id)
        groups.append(numbers.setdefault(record.group, len(numbers)))
        texts = [text for text in record.texts if text.strip()]
        for text in texts[: captions or None]:
            pairs.extend((index, rows.setdefault(text, len(rows))))
    return list(numbered(ids, where=where)), np.array(groups), list(rows), np.array(pairs).reshape(-1, 2)


def _within(records: np.ndarray, part: np.ndarray) -> np.ndarray:
    return (records >= part[0]) & (records <= part[-1])


def _pool(images: np.ndarray, groups: np.ndarray, pairs: np.ndarray, kind: str) -> Pool:
    """Of the records `images`; pairs (record, text) are theirs."""
    own = groups[pairs[:, 0]]
    if kind == "all":
        return Pool(images, pairs[:, 1], same_group(groups[images], own), groups[images], own)
    texts, first, number = np.unique(pairs[:, 1], return_index=True, return_inverse=True)
    span = int(groups.max()) + 1
    having = np.stack(np.divmod(np.unique(number * span + own), span), axis=1)
    return Pool(images, texts, same_group(groups[images], having), groups[images], own[first])


def _readable(pool: Pool, bad: dict[int, str]) -> Pool:
    """Without unreadable images; their texts stay candidates."""
    kept = ~np.isin(pool.images, list(bad))
    right = pool.right[kept[pool.right[:, 0]]]
    place = np.cumsum(kept) - 1
    right = np.stack([place[right[:, 0]], right[:, 1]], axis=1)
    return pool._replace(images=pool.images[kept], groups=pool.groups[kept], right=right)


def _rows(embeddings: np.ndarray, index: np.ndarray) -> np.ndarray:
    """embeddings[index], without a copy where that is all of them."""
    return embeddings if np.array_equal(index, np.arange(len(embeddings))) else embeddings[index]
