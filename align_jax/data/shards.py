"""Sources of many shards, behind one index: what the formats share."""

import hashlib
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from align_jax.cache import cache_folder
from align_jax.data import listing, storage
from align_jax.data.index import open_index
from align_jax.data.indexing import Scan
from align_jax.data.lru import Lru
from align_jax.data.source import File, Record, Source
from align_jax.data.storage import Stored
from align_jax.types import AlignError

SPAN = 1 << 26  # bytes that one read of a block takes at most, or one image where that is larger
Paths = str | Sequence[str]


class Shards(Source):
    """Random access to the records of an index. A format adds how a shard is read, and where an image stands.

    Ids are <shard>/<key>: the shard's name without its ending, with the folders below the common one where two shards
    have the same name.
    """

    def __init__(self, kind: str, path: Paths, index: str | None, scan: Scan, places: Sequence[str], **options: Any):
        """`index`: folder of the index; by default one in the cache folder, by hash of `kind`, `path` and `options`."""
        patterns = listed(path)
        request = {"layout": 1, "kind": kind, "path": [storage.absolute(pattern) for pattern in patterns], **options}
        written = json.dumps(request)
        name = hashlib.blake2b(written.encode(), digest_size=16).hexdigest()
        folder = Path(index) if index else cache_folder() / "index" / name
        self._files = listing.expand(patterns)
        prefixes = names([file.path for file in self._files])
        opened = open_index(folder, self._files, scan, places=places, prefixes=prefixes, request=json.loads(written))
        self.classes = opened.classes
        self.problems: Mapping[str, int] = opened.problems
        self._rows, self._shards = opened.rows, opened.shards

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        row = self._rows.row(index)
        return _record(row, self._image(index, self._files[row["shard"]], row))

    def about(self, index: int) -> Record:
        """All of a record but its image: what stands in the index."""
        return _record(self._rows.row(range(len(self))[index]), b"")

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return self._rows.column("id")

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return self._rows.flat("texts")

    def files(self) -> list[File]:
        """The shards."""
        return [File(shard.path, shard.records, shard.size, shard.digest) for shard in self._shards]

    @abstractmethod
    def _image(self, index: int, file: Stored, row: Mapping[str, Any]) -> bytes | str:
        """The encoded image of record `index`, or its path."""

    def _runs(self, *columns: np.ndarray) -> np.ndarray:
        """First records of the runs in which no column changes, int64."""
        changes = np.zeros(len(self), bool)
        changes[:1] = True
        for column in columns:
            changes[1:] |= column[1:] != column[:-1]
        return np.flatnonzero(changes)


def _record(row: Mapping[str, Any], image: bytes | str) -> Record:
    group = row["id"] if row["group"] is None else row["group"]
    return Record(row["id"], image, tuple(row["texts"]), group, row["label"])


class ByteRanges(Shards):
    """Shards in which an image is a stretch of bytes. From a bucket, a block of neighbours comes with one request."""

    def __init__(
        self, kind: str, path: Paths, index: str | None, scan: Scan, *, block: int, cache_mb: int, **options: Any
    ):
        if block < 1 or cache_mb < 0:
            raise AlignError(f"data.source: expected a block of records and a cache, found {block=}, {cache_mb=}")
        super().__init__(kind, path, index, scan, ("offset", "size"), **options)
        self._blocks: Lru[bytes] = Lru(cache_mb << 20, len)
        if any(storage.is_remote(file.path) for file in self._files):
            records = np.array([shard.records for shard in self._shards])
            first = np.repeat(np.cumsum(records) - records, records)  # of each record's shard
            stretch = (np.arange(len(self)) - first) // block
            self.blocks = self._runs(first, stretch, self._rows.column("offset").to_numpy() // SPAN)

    def _image(self, index: int, file: Stored, row: Mapping[str, Any]) -> bytes:
        offset, end = row["offset"], row["offset"] + row["size"]
        if self.blocks is None:
            return storage.read_range(file, offset, end)
        number = int(np.searchsorted(self.blocks, index, side="right"))
        first = self._rows.row(int(self.blocks[number - 1]))
        last = self._rows.row(int(self.blocks[number] if number < len(self.blocks) else len(self)) - 1)
        start, stop = first["offset"], last["offset"] + last["size"]
        block = self._blocks.get((file, start), lambda: storage.read_range(file, start, stop))
        return block[offset - start : end - start]


def listed(value: Paths) -> list[str]:
    """One name, or several, as a list."""
    return [value] if isinstance(value, str) else list(value)


def names(paths: Sequence[str]) -> list[str]:
    """What tells the ids of each shard from those of the others."""
    stems = [_stem(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    folders = [path.split("/")[:-1] for path in paths]
    shared = 0
    while len({tuple(folder[: shared + 1]) for folder in folders}) == 1 and shared < min(map(len, folders)):
        shared += 1
    long = ["/".join([*folder[shared:], stem]) for folder, stem in zip(folders, stems, strict=True)]
    twice = [name for name, count in Counter(long).items() if count > 1]
    if twice:
        raise AlignError(f"data.source.path: expected shards of different names, found {twice[0]} with two endings")
    return long


def _stem(path: str) -> str:
    """The name without an ending of letters: "000" of 000.tar, but all of x.tfrecord-00000-of-00010."""
    return re.sub(r"(?<=.)\.[A-Za-z_]+$", "", path.rpartition("/")[2])
