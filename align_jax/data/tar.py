"""webdataset: tar files in which the members of one record stand together and share a key, 000.jpg beside 000.txt."""

import functools
import json
from typing import Any, BinaryIO, NamedTuple

from align_jax.data import storage
from align_jax.data.rows import BadShard, Rows
from align_jax.data.shards import ByteRanges, Paths, listed
from align_jax.data.storage import Stored
from align_jax.data.tar_members import members
from align_jax.types import AlignError

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
BUFFER = 1 << 14  # bytes read at a time from a local tar: headers and texts, while images are passed over


class TarShards(ByteRanges):
    """Random access to webdataset's shards, with images as their encoded bytes. Compressed tars are refused.

    As in webdataset, a key is what stands before the first dot of a member's name, folders included. Members are
    counted as problems where they are no record: without image, without text, with a key that was there before.

    Args:
      path: shards, as patterns with braces or wildcards, local or remote.
      texts: endings of the members with a text, or "json.<field>" for a text or list of texts in the .json member.
      images: endings of the members with an image; the first that is there counts.
      key, group, label: "json.<field>" for what the .json member says of a record; None for the key of its members as
        its key, and neither group nor label.
      index: folder of the index; None for one in the cache folder.
      block: records that one request fetches from a bucket (1 where the order is global).
      cache_mb: megabytes of such blocks that are kept.
    """

    def __init__(self, *, path: Paths, texts: Paths = "txt", images: Paths = IMAGES, key: str | None = None,
                 group: str | None = None, label: str | None = None, index: str | None = None, block: int = 256,
                 cache_mb: int = 512):  # fmt: skip
        names = Names(tuple(listed(texts)), tuple(listed(images)), key, group, label)
        scan = functools.partial(scan_shard, names=names)
        super().__init__("tar", path, index, scan, block=block, cache_mb=cache_mb, **names._asdict())


class Names(NamedTuple):
    """Which members and fields hold what of a record: the options of `TarShards`."""

    texts: tuple[str, ...] = ("txt",)
    images: tuple[str, ...] = IMAGES
    key: str | None = None
    group: str | None = None
    label: str | None = None

    def read(self) -> set[str]:
        """Endings of the members that are read when a shard is indexed."""
        return {name.partition(".")[0] for name in (*self.texts, self.key, self.group, self.label) if name}


def scan_shard(file: Stored, rows: Rows, *, names: Names) -> None:
    """Reads a shard into its rows."""
    with storage.open_stream(file, storage.CHUNK if storage.is_remote(file.path) else BUFFER) as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise AlignError(f"{file.path}: expected a tar that is not compressed, found gzip; run: gunzip on it")
        stream.seek(0)
        scan_tar(stream, file.size, rows, names)


def scan_tar(stream: BinaryIO, size: int, rows: Rows, names: Names) -> None:
    """Reads a tar of `size` bytes into its rows. What is whole before a cut or a damage is kept."""
    wanted, images = names.read(), set(names.images)
    key = None
    found: dict[str, Any] = {}  # of the key: ending -> (offset, size) or, of a text, its bytes

    def end() -> None:
        if key is not None:
            _add(rows, key, found, names)
        found.clear()

    try:
        for member in members(stream, size):
            own, ending = split(member.name)
            if not ending:
                rows.problem("member without ending", member.name)
                continue
            if own != key or ending in found:
                end()
                key = own
            found[ending] = stream.read(member.size) if ending in wanted else (member.offset, member.size)
    except BadShard as bad:
        broken = split(bad.key)[0]
        # The record at which it broke off is not whole.
        if broken == key or not (wanted & found.keys() and images & found.keys()):
            found.clear()
            key = None
        rows.problem(str(bad), broken)
    end()


def split(name: str) -> tuple[str, str]:
    """(key, ending in small letters) of a member, parted at the first dot of its last name; ending "" without one."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return (folder + slash + stem, ending.lower()) if stem else (name, "")


def _add(rows: Rows, key: str, found: dict[str, Any], names: Names) -> None:
    image = next((found[ending] for ending in names.images if ending in found), None)
    if image is None:
        rows.problem("image missing", key)
    elif not image[1]:
        rows.problem("image empty", key)
    else:
        own, group, label = (_value(found, name) for name in (names.key, names.group, names.label))
        texts = [text for name in names.texts for text in _texts(found, name)]
        rows.add(own or key, texts, group=group, label=label, offset=image[0], size=image[1])


def _value(found: dict[str, Any], name: str | None) -> str | None:
    """What a record has under one name of the options `key`, `group` and `label`."""
    if name is None:
        return None
    ending, _, field = name.partition(".")
    try:
        value = json.loads(found[ending])[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if value is None else str(value)


def _texts(found: dict[str, Any], name: str) -> list[bytes] | list[str]:
    """The texts that a record has under one name of the option `texts`."""
    ending, _, field = name.partition(".")
    stored = found.get(ending)
    if stored is None or not field:
        return [] if stored is None else [stored]
    try:
        values = json.loads(stored)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, str)]
