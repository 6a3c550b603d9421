"""Regions of images on disk: what `align_jax.regions` writes, read by key.

<folder>/
  regions.json       the facts; written last: where it stands, all is there
  index.parquet      a row for each image in the order of the keys' bytes: key, shard, record, count of its regions
  refused.parquet    a row for each image that is not there: key, reason
  shards/*.array_record   a tf.train.Example for each image

The Example has the bytes of little-endian arrays: features [n, F] and probabilities [n, C], where they are kept, of the
facts' dtype; boxes f32 [n, 4]; labels i32 [n]; scores f32 [n].
"""

import dataclasses
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from align_jax.data import example, listing, storage
from align_jax.data.lru import Lru
from align_jax.data.regions import Regions
from align_jax.data.source import BadExample
from align_jax.types import AlignError

VERSION = 2  # of the layout
FACTS, INDEX, REFUSED, SHARDS = "regions.json", "index.parquet", "refused.parquet", "shards"
DTYPES = ("float16", "float32")
RANDOM = "readahead_buffer_size:0,max_parallelism:0"  # as the library asks for where records are read one by one
OPEN = 64  # shards that are kept open


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What all regions of a folder have in common."""

    version: int = VERSION
    width: int  # F
    classes: tuple[str, ...] | int  # names that `Regions.labels` index, or how many where nobody knows them
    images: int
    regions: int
    dtype: str  # of features and probabilities on disk
    probabilities: bool  # whether they are kept
    origin: Mapping[str, Any]  # where they come from: a format and its files, or a detector and its pictures
    refused: Mapping[str, int]  # reason -> images that are not there
    changed: Mapping[str, int]  # what was done -> regions
    contents: str  # digest of all records' bytes, shard by shard

    @property
    def class_count(self) -> int:
        """C."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)


def read_facts(path: str) -> Facts:
    """Of the folder `path`, local or remote. AlignError where it holds no regions, or those of another layout."""
    name = storage.join(path, FACTS)
    try:
        found = json.loads(storage.read(name))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AlignError(f"{path}: expected regions, found no {FACTS}; make them with align_jax.regions") from error
    except ValueError as error:
        raise AlignError(f"{name}: expected JSON, found {error}; make the regions again") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise AlignError(f"{name}: expected version {VERSION}, found {version!r}; make the regions again")
    try:
        facts = Facts(**found)
    except TypeError as error:
        raise AlignError(f"{name}: expected the facts of regions, found {error}; make the regions again") from error
    classes = facts.classes
    return facts if isinstance(classes, int) else dataclasses.replace(facts, classes=tuple(classes))


class RegionStore:
    """Random access to the regions of images by key. Safe among threads; pickled, it is opened again from its path."""

    def __init__(self, path: str):
        """A folder, local or remote; AlignError where it holds no regions, or not all."""
        self.path, self.facts = storage.absolute(path), read_facts(path)
        name = storage.join(self.path, INDEX)
        try:
            self._index = pq.read_table(io.BytesIO(storage.read(name))).combine_chunks()
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise AlignError(f"{name}: expected the index of the regions, found {error}; make them again") from error
        if len(self._index) != self.facts.images:
            raise AlignError(
                f"{name}: expected {self.facts.images:,} images as {FACTS} says, found {len(self._index):,}; make the "
                "regions again"
            )
        self._keys = self._index["key"]
        self._readers: Lru[ArrayRecordReader] = Lru(OPEN, lambda reader: 1)

    def __reduce__(self) -> tuple[Callable[[str], "RegionStore"], tuple[str]]:
        return RegionStore, (self.path,)

    @property
    def width(self) -> int:
        """F of the features."""
        return self.facts.width

    @property
    def classes(self) -> tuple[str, ...] | int:
        """Names of the classes, or how many where nobody knows them."""
        return self.facts.classes

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return self._row(key) is not None

    def __getitem__(self, key: str) -> Regions:
        """f32 arrays. BadExample where none are stored for the key."""
        row = self._row(key)
        if row is None:
            raise BadExample("no regions stored")
        shard, record = self._index["shard"][row].as_py(), self._index["record"][row].as_py()
        path = storage.join(self.path, f"{SHARDS}/{shard}")
        try:
            reader = self._readers.get(shard, lambda: ArrayRecordReader(storage.local_copy(_stored(path)), RANDOM))
            stored = reader.read([record])[0]
        except (RuntimeError, IndexError) as error:
            raise storage.StorageError(
                f"{path}: expected record {record}, found it unreadable ({' '.join(str(error).split())}); make the "
                "regions again"
            ) from error
        return decode(stored, width=self.width, dtype=self.facts.dtype)

    def keys(self) -> pa.ChunkedArray:
        """All of them, as strings, in the order of their UTF-8 bytes."""
        return self._keys

    def _row(self, key: str) -> int | None:
        wanted, low, high = key.encode(), 0, len(self._keys)
        while low < high:
            middle = (low + high) // 2
            if self._keys[middle].as_py().encode() < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._keys) and self._keys[low].as_py() == key else None


def encode(key: str, regions: Regions, *, dtype: str) -> bytes:
    """The record of an image."""
    kept = {} if regions.probabilities is None else {"probabilities": _bytes(regions.probabilities, dtype)}
    return example.encode({
        "key": key, "features": _bytes(regions.features, dtype), "boxes": _bytes(regions.boxes, "float32"),
        "labels": _bytes(regions.labels, "int32"), "scores": _bytes(regions.scores, "float32"), **kept,
    })  # fmt: skip


def decode(record: bytes, *, width: int, dtype: str) -> Regions:
    """What `encode` wrote. BadExample where it is something else."""
    found = example.decode(record)
    try:
        scores = _array(found["scores"], "float32")
        count = len(scores)
        kept = _array(found["probabilities"], dtype).reshape(count, -1) if "probabilities" in found else None
        return Regions(
            _array(found["features"], dtype).reshape(count, width), _array(found["boxes"], "float32").reshape(count, 4),
            _array(found["labels"], "int32").reshape(count), scores, kept,
        )  # fmt: skip
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise BadExample("record unreadable") from error


def key_of(record_id: str, rule: str) -> str:
    """The key by which the regions of a record are stored, from its id.

    Args:
      rule: id: the id itself; stem: the file's name without folder and ending; number: the last digits of the stem,
        without zeros before them, as 391895 of COCO_val2014_000000391895.jpg.

    Raises:
      AlignError: for another rule.
      BadExample: for an id without digits.
    """
    check_rule(rule)
    return RULES[rule](record_id)


def check_rule(rule: str, *, where: str = "key") -> None:
    """Refuses what is no rule of `key_of`, by an AlignError that names `where` it stands."""
    if rule not in RULES:
        raise AlignError(f"{where}: expected one of {', '.join(RULES)}, found {rule!r}")


def _stem(record_id: str) -> str:
    return PurePosixPath(record_id).stem


def _number(record_id: str) -> str:
    found = re.findall(r"[0-9]+", _stem(record_id))
    if not found:
        raise BadExample("no number in the id")
    return str(int(found[-1]))


RULES: dict[str, Callable[[str], str]] = {"id": str, "stem": _stem, "number": _number}


def _stored(path: str) -> storage.Stored:
    file = listing.find(path)
    if file is None:
        raise storage.StorageError(f"{path}: expected a shard of regions, found none; make the regions again")
    return file


def _bytes(values: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()


def _array(values: list[Any], dtype: str) -> np.ndarray:
    """f32, or int32 of int32."""
    kind = np.dtype(dtype)
    return np.frombuffer(values[0], kind.newbyteorder("<")).astype(np.int32 if kind.kind == "i" else np.float32)
