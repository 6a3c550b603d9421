"""Where examples come from. A source is a random-access list of records, of a kind in `config.data.source`."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from align_jax.config import call
from align_jax.types import AlignError

# name in the config -> (module, class): imported when named, since each needs packages of its own.
SOURCES = {
    "array_record": ("align_jax.data.array_record", "ArrayRecordShards"),
    "emoji": ("align_jax.data.emoji", "EmojiPairs"),
    "emoji_scenes": ("align_jax.data.emoji_scenes", "EmojiScenes"),
    "folder": ("align_jax.data.folder", "Folder"),
    "manifest": ("align_jax.data.manifest", "Manifest"),
    "mixture": ("align_jax.data.mixture", "Mixture"),
    "parquet": ("align_jax.data.parquet", "ParquetShards"),
    "tar": ("align_jax.data.tar", "TarShards"),
    "tfds": ("align_jax.data.tfds", "TfdsPairs"),
    "tfrecord": ("align_jax.data.tfrecord", "TfRecordShards"),
    "vtab": ("align_jax.data.vtab", "Vtab"),
}


class Objects(NamedTuple):
    """Things in an image, as a source knows them."""

    boxes: np.ndarray  # f32 [n, 4]: left, top, right, bottom, as shares of the image's width and height
    labels: np.ndarray  # int32 [n]: indices into the source's `object_classes`


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its texts, as stored."""

    id: str  # names the record in logs, results and filters: unique in its source
    image: Image.Image | np.ndarray | bytes | str  # a picture, uint8 [H, W, 3], encoded bytes, or a path
    texts: tuple[str, ...]  # captions of this image; [0] is the canonical one
    group: str  # records of one group show the same thing: a retrieval hit is one of the same group
    label: int = -1  # index into the source's `classes`; -1 without classes
    text_ids: tuple[str, ...] = ()  # an id for each text, where the source has them
    objects: Objects | None = None  # where the source knows them


class BadExample(Exception):
    """A record that cannot be used, for good. `str` is the reason by which it is counted."""


class File(NamedTuple):
    """One file, or package, that a source reads: what a report needs to name the data of a run."""

    name: str
    records: int
    bytes: int
    digest: str  # of its contents, or of its index where the contents are large


class Source(Protocol):
    """Random access to records; ids and all texts without touching an image. Safe to share between threads."""

    classes: tuple[str, ...] = ()
    object_classes: tuple[str, ...] = ()  # of `Record.objects`
    # First records of runs that are cheap to read together (a row group, a remote shard's stretch), rising from 0;
    # None where any record costs the same.
    blocks: np.ndarray | None = None
    # Reason -> what was found to be no record when the source was opened: it is not among the len(source).
    problems: Mapping[str, int] = MappingProxyType({})
    # (source, weight) of what a mixture joins, whose records stand one part after the other; empty for the others.
    parts: "Sequence[tuple[Source, float]]" = ()

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def about(self, index: int) -> Record:
        """All of a record but its image, which is left empty where reading it would cost something."""
        return self[index]

    def ids(self) -> pa.ChunkedArray:
        """`Record.id` of all records, in order, as strings."""
        ...

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        ...

    def files(self) -> list[File]:
        """What the source reads."""
        ...


def make(
    *, name: str = "", filter: Sequence[Mapping[str, Any]] = (), share: float = 1.0, share_seed: int = 0, **options: Any
) -> Source:
    """The source of `config.data.source`, or of an evaluator, without the records that a sidecar of `filter` refuses.

    `filter` lists keyword arguments of `align_jax.data.filter.Sidecar`. `share` < 1 keeps that share of the records,
    drawn by their ids and `share_seed`: a smaller share is a part of a larger one. The other options are the source's
    own.
    """
    if name not in SOURCES:
        raise AlignError(f"data.source.name: expected one of {sorted(SOURCES)}, found {name!r}")
    module, cls = SOURCES[name]
    source = call(getattr(importlib.import_module(module), cls), options, where=f"source {name!r}")
    if not len(source):
        problems = ", ".join(f"{count:,} {reason}" for reason, count in source.problems.items())
        found = f"found none ({problems})" if problems else "found none"
        raise AlignError(f"source {name!r}: expected at least one record, {found}; check its path and split")
    if not filter and share == 1:
        return source
    from align_jax.data.filter import drawn, filtered  # which imports this module

    where = f"source {name!r}"
    source = filtered(source, filter, where=where) if filter else source
    return source if share == 1 else drawn(source, share, share_seed, where=where)
