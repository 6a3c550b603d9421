"""The one way to files: local paths, and buckets (gs://, s3://, whatever fsspec knows) read by byte ranges.

What passes on remote storage, a lost connection or a busy server, is tried again with growing waits; what does not pass
stops the run as a `StorageError`. It is never counted as a bad record: the record is as good as before.
"""

import hashlib
import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from logging import getLogger
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from absl import logging
from fsspec.core import url_to_fs

from align_jax.cache import cache_folder
from align_jax.data.lru import Lru
from align_jax.types import AlignError

WAITS = (1, 2, 4, 8, 16)  # seconds before a read is tried again
FIRST = (1,)  # the same for what is asked before anything was read: more often it is a mistake than a passing fault
CHUNK = 1 << 23  # bytes of one request where a remote file is read in order
OPEN = 128  # local files that are kept open
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # protocol -> extra of this package
# What another try cannot mend; all else may pass, since each library has errors of its own.
FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)

Value = TypeVar("Value")

# They report each of their own tries with a traceback; what comes of it is told here, in a line.
for _library in ("gcsfs", "aiobotocore", "google.auth"):
    getLogger(_library).setLevel("CRITICAL")


class StorageError(AlignError):
    """A file that cannot be read now. It says nothing about its records."""


class UnknownProtocol(AlignError):
    """A path in a form that nothing here reads."""


class Stored(NamedTuple):
    """A file as it was found."""

    path: str  # absolute, or with its protocol
    size: int  # bytes
    mark: str  # changes with the contents: an etag, or else the time of the last change


def is_remote(path: str) -> bool:
    """Whether the path names a protocol."""
    return "://" in path


def absolute(path: str) -> str:
    """The path as any working directory reads it; a remote one as it is."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def join(folder: str, path: str) -> str:
    """`path` seen from `folder`, either of them local or remote."""
    if is_remote(path) or not is_remote(folder):
        return path if is_remote(path) else os.path.join(folder, path)
    return f"{folder.rstrip('/')}/{path}"


def read(path: str) -> bytes:
    """The whole file. FileNotFoundError where there is none."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    fs, name = filesystem(path)
    return retried(lambda: fs.cat_file(name), path)


def read_range(file: Stored, start: int, stop: int) -> bytes:
    """Bytes [start, stop). Safe among threads."""
    if start >= stop:
        return b""
    try:
        if is_remote(file.path):
            fs, name = filesystem(file.path)
            data = retried(lambda: fs.cat_file(name, start=start, end=stop), file.path)
        else:
            data = _handles.get(file, lambda: _Handle(file)).read(start, stop)
    except OSError as error:
        raise _unreadable(file.path, error) from error
    if len(data) != stop - start:
        raise _changed(file)
    return data


def open_stream(file: Stored, buffer: int = CHUNK) -> BinaryIO:
    """The file from its start, to be read in order or by `seek`; `buffer` bytes are read at a time."""
    return io.BufferedReader(_Ranges(file), buffer)  # pyright: ignore[reportReturnType]


def local_copy(file: Stored) -> str:
    """A path on this machine for libraries that read nothing else: of a remote file, a copy in the cache folder."""
    if not is_remote(file.path):
        try:
            _check_unchanged(file, os.stat(file.path))
        except OSError as error:
            raise _unreadable(file.path, error) from error
        return file.path
    name = hashlib.blake2b(repr(file).encode(), digest_size=16).hexdigest()
    copy = cache_folder() / "shards" / name
    if not copy.exists():
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=copy.parent) as folder, open_stream(file) as stream:
                partial = Path(folder) / name
                with partial.open("wb") as written:
                    shutil.copyfileobj(stream, written, CHUNK)
                partial.replace(copy)
        except OSError as error:
            raise StorageError(f"{copy}: expected room for a copy of {file.path}, found {_line(error)}") from error
    return str(copy)


class _Ranges(io.RawIOBase):
    """A file as a stream of ranges."""

    def __init__(self, file: Stored):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = read_range(self._file, self._at, min(self._at + len(buffer), max(self._file.size, self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Handle:
    """An open local file. It closes when nobody reads from it any more."""

    _descriptor = -1

    def __init__(self, file: Stored):
        self._descriptor = os.open(file.path, os.O_RDONLY)
        _check_unchanged(file, os.fstat(self._descriptor))

    def read(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop and (part := os.pread(self._descriptor, stop - start, start)):
            parts.append(part)  # Linux gives at most 2 GiB at a time
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self):
        if self._descriptor >= 0:
            os.close(self._descriptor)


_handles: Lru[_Handle] = Lru(OPEN, lambda handle: 1)


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec.AbstractFileSystem of a path, and the path as it wants it. AlignError where a package is missing."""
    protocol = path.partition("://")[0]
    try:
        # Listings are not kept: a shard may have changed since.
        return url_to_fs(path, use_listings_cache=False) if is_remote(path) else url_to_fs(path)
    except ImportError as error:
        wanted = f'"align-jax[{EXTRAS[protocol]}]"' if protocol in EXTRAS else f"what reads it ({_line(error)})"
        raise AlignError(f"{path}: expected a package that reads {protocol}://; run: pip install {wanted}") from error
    except ValueError as error:
        raise UnknownProtocol(f"{path}: expected a protocol that fsspec knows, found {protocol}://") from error


def retried(call: Callable[[], Value], path: str, waits: Iterable[float] | None = None) -> Value:
    """`call()`, again and again while what it raises may pass; FileNotFoundError as it is, all else as StorageError."""
    left = iter(WAITS if waits is None else waits)
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:
            wait = next(left, None)
            if wait is None or isinstance(error, FINAL):
                raise _unreadable(path, error) from error
            logging.warning("%s: %s; tried again in about %s s", path, _line(error), wait)
            time.sleep(wait * random.uniform(0.5, 1.5))  # not all hosts at once


def _check_unchanged(file: Stored, status: os.stat_result) -> None:
    if (status.st_size, str(status.st_mtime)) != (file.size, file.mark):
        raise _changed(file)


def _unreadable(path: str, error: Exception) -> StorageError:
    return StorageError(
        f"{path}: expected to read it, found {_line(error)}; start again when it can be read: a run goes on from its "
        "last checkpoint"
    )


def _changed(file: Stored) -> StorageError:
    return StorageError(f"{file.path}: expected {file.size} bytes as it was found, found it changed; start again")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
