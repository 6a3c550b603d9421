"""TFRecord files of image-text pairs, read without TensorFlow.

A record is its length (uint64), the masked CRC-32C of these 8 bytes, its bytes and their masked CRC-32C, all
little-endian: the comment at the head of tensorflow/core/lib/io/record_writer.h.
"""

import functools
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from align_jax.data import storage
from align_jax.data.pair_example import PairExample
from align_jax.data.rows import BadShard, Rows
from align_jax.data.shards import ByteRanges, Paths, listed
from align_jax.data.source import BadExample
from align_jax.data.storage import Stored
from align_jax.types import AlignError

_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")


class TfRecordShards(ByteRanges):
    """Random access to TFRecord files of tf.train.Example, as img2dataset writes them. Compressed files are refused.

    Args:
      path: shards, as patterns with braces or wildcards, local or remote.
      image, texts, key: features, as in `PairExample`; key None for the number of the record in its shard.
      group, label: features that may be there.
      index, block, cache_mb: as of `TarShards`.
    """

    def __init__(self, *, path: Paths, image: str = "jpg", texts: Paths = "txt", key: str | None = "key",
                 group: str | None = "group", label: str | None = "label", index: str | None = None, block: int = 256,
                 cache_mb: int = 512):  # fmt: skip
        options = {"image": image, "texts": listed(texts), "key": key, "group": group, "label": label}
        pair = PairExample(image, tuple(listed(texts)), key, group, label)
        scan = functools.partial(scan_shard, pair=pair)
        super().__init__("tfrecord", path, index, scan, block=block, cache_mb=cache_mb, **options)


def scan_shard(file: Stored, rows: Rows, *, pair: PairExample) -> None:
    """Reads a shard into its rows."""
    with storage.open_stream(file) as stream:
        head = stream.read(_HEAD.size)
        if head[:2] == b"\x1f\x8b" and not _is_head(head):
            raise AlignError(f"{file.path}: expected TFRecord that is not compressed, found gzip; run: gunzip on it")
        stream.seek(0)
        scan_records(stream, file.size, rows, pair=pair)


def scan_records(stream: BinaryIO, size: int, rows: Rows, *, pair: PairExample) -> None:
    """Reads a file of `size` bytes into its rows. What is whole before a cut or a damage is kept.

    The index keeps where an image stands in the file: reading it again needs no Example.
    """
    try:
        for number, (offset, record, sound) in enumerate(records(stream, size)):
            if not sound:
                rows.problem("record checksum wrong", str(number))
                continue
            try:
                image = pair.picture(record)
            except BadExample:  # counted as it is added
                image = b""
            pair.add(rows, number, record, offset=offset + record.find(image), size=len(image))
    except BadShard as bad:
        rows.problem(str(bad))


def records(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """(offset, bytes, whether their checksum is right) of each record.

    Raises BadShard where the file is cut ("shard truncated") or the checksum of a length is wrong ("shard damaged", or
    "shard unreadable" where it is the first).
    """
    position = 0
    while position < size:
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise BadShard("shard truncated")
        if not _is_head(head):
            raise BadShard("shard damaged" if position else "shard unreadable")
        length, _ = _HEAD.unpack(head)
        offset = position + _HEAD.size
        position = offset + length + _FOOT.size
        if position > size:
            raise BadShard("shard truncated")
        record = stream.read(length)
        (checksum,) = _FOOT.unpack(stream.read(_FOOT.size))
        yield offset, record, checksum == _masked(record)
    if not size:
        raise BadShard("shard empty")


def _is_head(head: bytes) -> bool:
    return len(head) == _HEAD.size and _HEAD.unpack(head)[1] == _masked(head[:8])


def _masked(data: bytes) -> int:
    """The checksum as it is stored: so that a checksum of data with checksums says something too."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
