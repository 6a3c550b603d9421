"""The members of a tar: POSIX (ustar and pax) and GNU headers, as tar(5) lays them out.

Not by `tarfile`, which ends at a damaged header as if the archive ended there, and keeps all members in memory.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from align_jax.data.rows import BadShard

BLOCK = 512
REGULAR = (b"0", b"7", b"\0")
EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders, whatever size their header gives
SPECIAL = (b"x", b"g", b"L", b"K")  # what they hold is said of the next member, or of all
LONGEST = 1 << 20  # bytes of a long name or a pax header: more is damage
_OCTAL = re.compile(rb"[ ]*([0-7]+)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_PAX = re.compile(rb"([0-9]{1,7}) ([^=]+)=", re.DOTALL)


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of its contents
    size: int


def members(stream: BinaryIO, size: int) -> Iterator[Member]:
    """All regular files, in order; the stream stands at the contents of each.

    Blocks of zeros are passed over, so that tars put together by `cat` are read whole.
    Raises BadShard where the tar of `size` bytes is cut ("shard truncated", also without its mark of the end) or a
    header is damaged ("shard damaged", or "shard unreadable" where it is the first).
    """
    position, ended, count = 0, False, 0
    extra: dict[str, bytes] = {}  # what special members say of the next one
    while position < size:
        stream.seek(position)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise BadShard("shard truncated")
        position += BLOCK
        if not any(block):
            ended = True
            continue
        if not _checksum_is_right(block):
            raise BadShard("shard damaged" if count else "shard unreadable")
        ended = False
        count += 1
        kind, length, name = block[156:157], _number(block[124:136]), _name(block)
        if kind not in SPECIAL:
            length, name = int(extra.get("size", length)), extra.get("path", name)
            extra = {}
        if kind in EMPTY:
            length = 0
        text = name.decode("utf-8", "backslashreplace")
        if length > size - position:
            raise BadShard("shard truncated", text)
        if kind in (b"x", b"L"):
            extra |= _special(stream, kind, length)
        elif kind == b"S":
            raise BadShard("shard with a sparse member", text)
        elif kind in REGULAR:
            yield Member(text, position, length)
        position += -(-length // BLOCK) * BLOCK
    if not ended:
        raise BadShard("shard truncated" if size else "shard empty")


def _special(stream: BinaryIO, kind: bytes, length: int) -> dict[str, bytes]:
    """What a pax header or GNU's long name says of the next member: its path and size."""
    if length > LONGEST:
        raise BadShard("shard damaged")
    data = stream.read(length)
    if kind == b"L":
        return {"path": data.partition(b"\0")[0]}
    found: dict[str, bytes] = {}
    while data.strip(b"\0"):
        match = _PAX.match(data)
        if match is None or not match.end() < int(match[1]) <= len(data):
            raise BadShard("shard damaged")
        key, value = match[2], data[match.end() : int(match[1]) - 1]
        if key == b"size" and not _DECIMAL.fullmatch(value):
            raise BadShard("shard damaged")
        if key in (b"path", b"size"):
            found[key.decode()] = value
        data = data[int(match[1]) :]
    return found


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    # GNU's own headers keep times where POSIX has the first part of a long name.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    """Octal digits, or big-endian binary where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise BadShard("shard damaged")
    return int(match[1], 8)


def _checksum_is_right(block: bytes) -> bool:
    """The sum of all bytes, its own field as spaces; some old programs summed signed bytes."""
    match = _OCTAL.match(block[148:156])
    if match is None:
        return False
    stored = int(match[1], 8)
    rest = (block[:148] + block[156:]).replace(b"\0", b"")  # most of a header is zeros
    total = sum(rest) + 8 * ord(" ")
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in rest)
