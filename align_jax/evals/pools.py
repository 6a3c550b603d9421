"""What of a source competes in retrieval: its images and their texts, any number of each (facts: ALIGN section 7).

An image's right answers are the texts of its group; a text's are the images of any group that has it.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_jax import provenance
from align_jax.data.source import Source
from align_jax.evals.embedding import NAMED, Embedder, protocol_of
from align_jax.evals.ranking import AT, Asked, joined, mean_recall, measures, numbered, same_group
from align_jax.evals.statistics import digest
from align_jax.types import AlignError, Result

CANDIDATES = {"unique": "equal texts are one candidate", "all": "each caption is a candidate"}
WAYS = ("image_to_text", "text_to_image")


class Pool(NamedTuple):
    """Images and texts that compete: those of a source, or of one fold of it."""

    images: np.ndarray  # int64 [n]: records
    texts: np.ndarray  # int64 [m]: rows of the source's distinct texts
    right: np.ndarray  # int64 [P, 2]: (image, text) that belong together, by their places in the two
    groups: np.ndarray  # int64 [n] of the images
    text_groups: np.ndarray  # int64 [m]: the group of the image from which a text comes, of the first one if of several


class Found(NamedTuple):
    """What was found of some pools."""

    pools: Sequence[Pool]
    ways: tuple[Asked, Asked]  # the queries of all pools: images, and texts
    protocol: str
    ids: str  # digest of what was asked


class Pools:
    """The pools of a source, a fold each, and what a protocol says of them.

    Attributes: name (of the evaluator); source; texts (the distinct ones); at (the K of recall@K); facts (of results).
    """

    def __init__(
        self, embedder: Embedder, *, name: str, source: Mapping[str, Any], at: Sequence[int] = AT,
        texts: str = "unique", captions: int = 0, folds: int = 1,
    ):  # fmt: skip
        """The options are those of `Retrieval`."""
        if texts not in CANDIDATES:
            raise AlignError(f"evals.{name}.texts: expected one of {list(CANDIDATES)}, found {texts!r}")
        if not at or min(at) < 1 or captions < 0 or folds < 1:
            raise AlignError(
                f"evals.{name}: expected `at` and folds above 0, captions of 0 or more, found {tuple(at)}, {folds} and "
                f"{captions}"
            )
        self.name, self.at = name, tuple(at)
        self.source = embedder.open(source)
        self._ids, groups, self.texts, pairs = _read(self.source, captions, where=f"evals.{name}")
        parts = np.array_split(np.arange(len(groups)), min(folds, len(groups)))
        self._pools = [_pool(part, groups, pairs[_within(pairs[:, 0], part)], texts) for part in parts]
        if len(parts) < folds or not all(len(pool.texts) for pool in self._pools):
            raise AlignError(
                f"evals.{name}: expected images with texts in each of {folds} folds, found {len(groups)} images and "
                f"{len(pairs)} texts"
            )
        first = f", first {captions} texts of an image" if captions else ""
        self._protocol = f"{protocol_of(source)}{first}, {CANDIDATES[texts]}"
        self.facts = {
            "data": provenance.digest(self.source),
            "crop": embedder.pairs.protocol,
        }

    @property
    def folds(self) -> int:
        """The number of pools."""
        return len(self._pools)

    def readable(self, bad: Mapping[int, str]) -> list[Pool]:
        """Without unreadable images; their texts stay candidates. AlignError for one of which nothing is left."""
        found = [_readable(pool, bad) for pool in self._pools]
        if not all(len(pool.images) for pool in found):
            raise self._empty()
        return found

    def found(
        self, pools: Sequence[Pool], ranked: Sequence[tuple[np.ndarray, np.ndarray]], *, skipped: str,
        how: str = "",
    ) -> Found:  # fmt: skip
        """Of the ranks of the images and of the texts of each of the pools, as `ranks` gives them.

        `skipped`: what `left_out` says of unreadable images. `how`: what the protocol says of the ranking.
        """
        asked: list[tuple[Asked, Asked]] = []
        not_asked: tuple[list[int], list[int]] = ([], [])  # records, and rows of the texts, without a right answer
        for number, (pool, (forth, back)) in enumerate(zip(pools, ranked, strict=True)):
            asked.append((Asked.of(forth, pool.groups, number), Asked.of(back, pool.text_groups, number)))
            for lacking, index, places in zip(not_asked, (pool.images, pool.texts), (forth, back), strict=True):
                lacking.extend(index[places < 0].tolist())
        if not all(len(queries.ranks) for pair in asked for queries in pair):
            raise self._empty()
        protocol = (
            f"{self._protocol}: {_sizes(pools)}, hit = same group, {self.facts['crop']}, "
            f"{how}ties pessimistic{skipped}"
            f"{_lacking('images without a text', [self._ids[i] for i in not_asked[0]])}"
            f"{_lacking('texts without a readable image', [repr(self.texts[i]) for i in not_asked[1]])}"
        )
        ids = digest(name for pool in pools for name in self._names(pool))
        forth, back = (joined(parts) for parts in zip(*asked, strict=True))
        return Found(pools, (forth, back), protocol, ids)

    def results(self, found: Found) -> Iterator[Result]:
        """R@K and median rank both ways, and the mean recall."""
        given: dict[str, Any] = {"protocol": found.protocol, "facts": self.facts}
        for way, queries in zip(WAYS, found.ways, strict=True):
            yield from measures(f"{self.name}/{way}", queries, self.at, ids=f"{way} {found.ids}", **given)
        yield mean_recall(self.name, found.ways, self.at, ids=found.ids, **given)

    def _empty(self) -> AlignError:
        return AlignError(f"evals.{self.name}: expected a readable image with a text in each fold, found none in one")

    def _names(self, pool: Pool) -> Iterator[str]:
        yield from (self._ids[i] for i in pool.images)
        yield from (self.texts[i] for i in pool.texts)


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


def _readable(pool: Pool, bad: Mapping[int, str]) -> Pool:
    kept = ~np.isin(pool.images, list(bad))
    right = pool.right[kept[pool.right[:, 0]]]
    place = np.cumsum(kept) - 1
    right = np.stack([place[right[:, 0]], right[:, 1]], axis=1)
    return pool._replace(images=pool.images[kept], groups=pool.groups[kept], right=right)
