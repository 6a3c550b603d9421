"""ArrayRecord files with one record a group, uncompressed (JPEG does not shrink), so that any record is one read."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

OPTIONS = "group_size:1,uncompressed"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends a record. OSError where the disk takes no more, which the library calls RuntimeError."""
    file = ArrayRecordWriter(str(path), OPTIONS)

    def append(record: bytes) -> None:
        with _as_os_error():
            file.write(record)

    try:
        yield append
    finally:
        with _as_os_error():
            file.close()


def read(path: Path, rows: Sequence[int]) -> list[bytes]:
    """Some records, in the order of `rows`."""
    if not rows:
        return []
    reader = ArrayRecordReader(str(path))
    try:
        return list(reader.read(list(rows)))
    finally:
        reader.close()


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from error
