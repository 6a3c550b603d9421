"""ArrayRecord files of image-text pairs: what `align_jax.curate` writes, and tfds stores."""

import functools
from collections.abc import Mapping
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from align_jax.data import storage
from align_jax.data.lru import Lru
from align_jax.data.pair_example import PairExample
from align_jax.data.rows import Rows
from align_jax.data.shards import Paths, Shards, listed
from align_jax.data.storage import Stored

RANDOM = "readahead_buffer_size:0,max_parallelism:0"  # as the library asks for where records are read one by one
TOGETHER = 64  # records that are read at a time while a shard is indexed
OPEN = 64  # shards that are kept open


class ArrayRecordShards(Shards):
    """Random access to ArrayRecord files of tf.train.Example; those of a bucket are copied to the cache folder first.

    Args:
      path: shards, as patterns with braces or wildcards, local or remote.
      image, texts, key: features, as in `PairExample`; key None for the number of the record in its shard.
      group, label: features that may be there.
      index: folder of the index; None for one in the cache folder.
    """

    def __init__(self, *, path: Paths, image: str = "jpg", texts: Paths = "txt", key: str | None = "key",
                 group: str | None = "group", label: str | None = "label", index: str | None = None):  # fmt: skip
        options = {"image": image, "texts": listed(texts), "key": key, "group": group, "label": label}
        self._pair = PairExample(image, tuple(listed(texts)), key, group, label)
        self._readers: Lru[ArrayRecordReader] = Lru(OPEN, lambda reader: 1)
        scan = functools.partial(scan_shard, pair=self._pair)
        super().__init__("array_record", path, index, scan, ("record",), **options)

    def _image(self, index: int, file: Stored, row: Mapping[str, Any]) -> bytes:
        reader = self._readers.get(file, lambda: ArrayRecordReader(storage.local_copy(file), RANDOM))
        try:
            return self._pair.picture(reader.read([row["record"]])[0])
        except (RuntimeError, IndexError) as error:  # it could be read when it was indexed
            raise storage.StorageError(f"{file.path}: expected record {row['record']}, found {error}") from error


def scan_shard(file: Stored, rows: Rows, *, pair: PairExample) -> None:
    """Reads a shard into its rows. Where records stand is written at its end: of one that is cut nothing is left."""
    reader = ArrayRecordReader(storage.local_copy(file))
    if not reader.ok():
        rows.problem("shard unreadable" if file.size else "shard empty")
        return
    count = reader.num_records()
    for start in range(0, count, TOGETHER):
        numbers = range(start, min(start + TOGETHER, count))
        try:
            records = reader.read(numbers.start, numbers.stop)
        except RuntimeError:  # one of them at least is damaged
            reader = ArrayRecordReader(storage.local_copy(file))
            records = [_read(file, number) for number in numbers]
        for number, record in zip(numbers, records, strict=True):
            if record is None:
                rows.problem("record unreadable", str(number))
            else:
                pair.add(rows, number, record, record=number)


def _read(file: Stored, number: int) -> bytes | None:
    """One record, by a reader of its own, since after a damage a reader gives nothing; None where it is damaged."""
    try:
        return ArrayRecordReader(storage.local_copy(file), RANDOM).read([number])[0]
    except RuntimeError:
        return None
