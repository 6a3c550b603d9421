"""What a reader of stored regions is, and what readers share: random access to images, each read where it is asked for.

An image that cannot be read is a BadExample; files that hold something else as a whole are an AlignError.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Protocol

from align_jax.data import listing, storage
from align_jax.data.storage import Stored
from align_jax.region_files.fields import Fields
from align_jax.types import AlignError

FLAG = "--path"


class Reader(Protocol):
    """The images of some files, in an order that is always the same. Safe among threads."""

    digest: str  # of `digest_of` of the files

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called where it cannot be read."""
        ...

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        """(id of the image, what is stored of it)."""
        ...


def files_of(path: Sequence[str], *, ending: str) -> list[Stored]:
    """The files of patterns, or, of folders, those in them with that ending, at any depth."""
    found = {
        file.path: file
        for each in path
        for file in listing.expand(f"{each}/**/*{ending}" if os.path.isdir(each) else each, where=FLAG)
    }
    return [found[name] for name in sorted(found)]


def digest_of(files: Sequence[Stored]) -> str:
    """16 hexadecimal digits of names and sizes, and of local files of when they were written last.

    So a file that was written anew in its place, at the same size, is another one. A remote file's mark may be another
    after a mere copy, and does not count.
    """
    found = "\n".join(
        f"{file.path.rpartition('/')[2]} {file.size} {'' if storage.is_remote(file.path) else file.mark}"
        for file in files
    )
    return hashlib.blake2b(found.encode(), digest_size=8).hexdigest()


def local(file: Stored) -> str:
    """A path on this machine."""
    return storage.local_copy(file)


def refuse(path: str, expected: str, found: object) -> AlignError:
    """One line of a file that is not of its format."""
    return AlignError(f"{path}: expected {expected}, found {' '.join(str(found).split())}; check --read and {FLAG}")


def text(value: object) -> str:
    """An id as a text: of bytes, a number, or a text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
