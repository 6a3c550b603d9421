"""Labelled images of a source, as the evaluators that learn from some and ask others want them."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import provenance
from align_jax.data.source import Source
from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.evals.features import FeatureCache
from align_jax.evals.statistics import digest
from align_jax.types import AlignError, ModelState, Params

FUNCTIONS = {"embedding": "embed_images", "features": "image_features"}  # by the option `features`
NUMBERED = ("tfds", "vtab")  # readers whose ids are places in a split, which say nothing of another split


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """The records of a source: `labels` int [n], each an index into `classes`, and `ids` [n]."""

    options: Mapping[str, Any]
    source: Source
    labels: np.ndarray
    ids: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""
        return self.source.classes

    @property
    def name(self) -> str:
        """As a protocol names it."""
        return protocol_of(self.options)

    @property
    def digest(self) -> str:
        """Of the data."""
        return provenance.digest(self.source)

    def ids_digest(self, asked: np.ndarray) -> str:
        """Of the ids of the records at `asked` int [m], in order."""
        return digest(self.ids[asked])


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """What could be read: rows f32 [n, D] of the records at `index` int [n], with their labels."""

    rows: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    left_out: str  # for the protocol


def open_labelled(embedder: Embedder, options: Mapping[str, Any], *, where: str) -> Labelled:
    """AlignError where a record has no label; `where` is the option that names the source."""
    source = embedder.open(options)
    labels, ids = _records(source)
    if not source.classes:
        raise AlignError(f"{where}: expected a source with classes, found none in {protocol_of(options)}")
    outside = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
    if len(outside):
        raise AlignError(
            f"{where}: expected a label for each record, found none for {len(outside)} of {len(labels)}, first "
            f"{ids[outside[0]]!r}; give each one of the {len(source.classes)} classes, or leave "
            "them out by a filter"
        )
    return Labelled(options, source, labels, ids)


@functools.lru_cache(maxsize=8)
def _records(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(labels, ids) of all records: some sources read each record for them, so this happens once."""
    found = [source.about(index) for index in range(len(source))]
    return np.array([record.label for record in found]), np.array([record.id for record in found], object)


def known_too(asked: Labelled, known: Labelled) -> np.ndarray:
    """bool [n]: the records of `asked` that `known` has too: of the same files, with the same id and label."""
    if asked.source is known.source:
        return np.ones(len(asked.ids), bool)
    reader, other = asked.options["name"], known.options["name"]
    files = [{(file.name, file.digest) for file in data.source.files()} for data in (asked, known)]
    if reader != other or reader in NUMBERED or files[0].isdisjoint(files[1]):
        return np.zeros(len(asked.ids), bool)
    label_of = dict(zip(known.ids, known.labels, strict=True))
    return np.array([label_of.get(name) == label for name, label in zip(asked.ids, asked.labels, strict=True)])


def refuse_other_classes(asked: Labelled, known: Labelled, *, where: str) -> None:
    """AlignError unless both name the same classes in the same order."""
    if asked.classes == known.classes:
        return
    only = [
        f"{sorted(set(a.classes) - set(b.classes))[:3]} only in {a.name}" for a, b in ((asked, known), (known, asked))
        if set(a.classes) - set(b.classes)
    ]  # fmt: skip
    raise AlignError(
        f"{where}: expected the classes of {known.name}, found {', '.join(only) or 'the same in another order'}; a "
        "label must mean the same in both"
    )


@dataclasses.dataclass(frozen=True)
class Reader:
    """Embeds labelled images by `function`; from `folder`/features where they were before, if `cache`."""

    embedder: Embedder
    folder: Path
    function: str
    cache: bool

    @property
    def crop(self) -> str:
        """What the model sees of a picture, in pixels."""
        return self.embedder.pairs.view.protocol

    def __call__(self, params: Params, model_state: ModelState, data: Labelled) -> Embedded:
        """The images that can be read; AlignError where none can."""
        if self.cache:
            cache = FeatureCache(self.embedder, self.folder / "features")
            rows, bad = cache.images(params, model_state, data.options, function=self.function)
        else:
            rows, bad = self.embedder.images(params, model_state, data.source, function=self.function)
        skipped = left_out(data.source, bad)
        index = np.delete(np.arange(len(rows)), np.array(list(bad), int))
        return Embedded(rows[index] if bad else rows, index, data.labels[index], skipped)


def reader(embedder: Embedder, *, folder: Path, features: str, cache: bool, where: str) -> Reader:
    """By the options `features` and `cache` of an evaluator."""
    if features not in FUNCTIONS:
        raise AlignError(f"{where}.features: expected one of {list(FUNCTIONS)}, found {features!r}")
    return Reader(embedder, folder, FUNCTIONS[features], cache)
