"""The one way to files: local paths, and buckets (gs://, s3://, whatever fsspec knows) read by byte ranges.

What passes on remote storage, a lost connection or a busy server, is tried again with growing waits; what does not pass
stops the run as a `StorageError`. It is never counted as a bad record: the record is as good as before.
"""

import io
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeVar

import fsspec
from absl import logging
from fsspec.core import url_to_fs

from align_jax.data.lru import Lru
from align_jax.types import AlignError

WAITS = (1, 2, 4, 8, 16)  # seconds before a read is tried again
CHUNK = 1 << 23  # bytes of one request where a remote file is read in order
LISTED = 8  # files of one folder from which on it is listed, instead of asked for each
OPEN = 128  # local files that are kept open
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # protocol -> extra of this package
# What another try cannot mend; all else may pass, since each library has errors of its own.
FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)

Info = Mapping[str, Any]  # of a file, as fsspec tells it
Value = TypeVar("Value")


class StorageError(AlignError):
    """A file that cannot be read now. It says nothing about its records."""


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


def expand(patterns: str | Sequence[str]) -> list[Stored]:
    """The files of one pattern or several, sorted by path, each once.

    Braces stand for several patterns, `{000..012}` with its zeros and `{a,b}`, and each of them must find a file; `*`,
    `?` and `[..]` stand for whatever is there.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = [absolute(name) for pattern in patterns for name in braces(pattern)]
    if not names:
        raise AlignError("data.source.path: expected a file or a pattern of files, found none")
    plain = {name for name in names if not re.search(r"[*?[]", name)}
    together = Counter(name.rpartition("/")[0] for name in plain)
    listed = {folder: _listing(folder) for folder, count in together.items() if count >= LISTED}
    found: dict[str, Stored] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if name not in plain:
            matches = _glob(name)
        elif folder in listed:
            matches = {name: listed[folder][last]} if last in listed[folder] else {}
        else:
            matches = _info(name)
        if not matches:
            raise AlignError(f"data.source.path: expected {name}, found no such file; check the path and the pattern")
        found |= {path: Stored(path, int(info["size"]), _mark(info)) for path, info in matches.items()}
    return [found[path] for path in sorted(found)]


def braces(pattern: str) -> list[str]:
    """The pattern once for each choice of its braces, as bash expands them; other braces stand for themselves."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        choices = listed.split(",")
    else:
        width = max(len(first), len(last)) if re.match("0[0-9]", first) or re.match("0[0-9]", last) else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in braces(head + choice + tail)]


def read(path: str) -> bytes:
    """The whole file. FileNotFoundError where there is none."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    fs, name = _filesystem(path)
    return _retried(lambda: fs.cat_file(name), path)


def read_range(file: Stored, start: int, stop: int) -> bytes:
    """Bytes [start, stop). Safe among threads."""
    if start >= stop:
        return b""
    try:
        if is_remote(file.path):
            fs, name = _filesystem(file.path)
            data = _retried(lambda: fs.cat_file(name, start=start, end=stop), file.path)
        else:
            handle = _handles.get(file, lambda: _Handle(os.open(file.path, os.O_RDONLY)))
            data = handle.read(start, stop)
    except OSError as error:
        raise StorageError(
            f"{file.path}: expected to read it, found {_line(error)}; mend that and start again"
        ) from error
    if len(data) != stop - start:
        raise StorageError(
            f"{file.path}: expected {file.size} bytes, found it shorter; it has changed since it was found: start again"
        )
    return data


def open_stream(file: Stored, buffer: int = CHUNK) -> BinaryIO:
    """The file from its start, to be read in order or by `seek`; `buffer` bytes are read at a time."""
    return io.BufferedReader(_Ranges(file), buffer)  # pyright: ignore[reportReturnType]


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

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def read(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop and (part := os.pread(self._descriptor, stop - start, start)):
            parts.append(part)  # Linux gives at most 2 GiB at a time
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self):
        os.close(self._descriptor)


_handles: Lru[_Handle] = Lru(OPEN, lambda handle: 1)


def _filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol = path.partition("://")[0]
    try:
        # Listings are not kept: a shard may have changed since.
        return url_to_fs(path, use_listings_cache=False) if is_remote(path) else url_to_fs(path)
    except ImportError as error:
        wanted = f'"align-jax[{EXTRAS[protocol]}]"' if protocol in EXTRAS else f"what reads it ({_line(error)})"
        raise AlignError(f"{path}: expected a package that reads {protocol}://; run: pip install {wanted}") from error
    except ValueError as error:
        raise AlignError(f"{path}: expected a path or a protocol that fsspec knows, found {protocol}://") from error


def _glob(pattern: str) -> dict[str, Info]:
    """Path -> what is known of it, of all files that match."""
    fs, name = _filesystem(pattern)
    found = _retried(lambda: fs.glob(name, detail=True), pattern)
    protocol = f"{pattern.partition('://')[0]}://" if is_remote(pattern) else ""
    return {
        path if is_remote(path) else protocol + path: info for path, info in found.items() if info["type"] == "file"
    }


def _listing(folder: str) -> dict[str, Info]:
    """Name -> what is known of it, of all files of a folder."""
    fs, name = _filesystem(folder)
    try:
        found = _retried(lambda: fs.ls(name, detail=True), folder)
    except FileNotFoundError:
        return {}
    return {info["name"].rpartition("/")[2]: info for info in found if info["type"] == "file"}


def _info(path: str) -> dict[str, Info]:
    """What is known of one file, by its path; empty where it is not there."""
    fs, name = _filesystem(path)
    try:
        info = _retried(lambda: fs.info(name), path)
    except FileNotFoundError:
        return {}
    return {path: info} if info["type"] == "file" else {}


def _mark(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created"):
        if info.get(name):
            return str(info[name])
    return ""


def _retried(call: Callable[[], Value], path: str) -> Value:
    """`call()`, again and again while what it raises may pass; FileNotFoundError as it is, all else as StorageError."""
    waits = iter(WAITS)
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:
            wait = next(waits, None)
            if wait is None or isinstance(error, FINAL):
                raise StorageError(
                    f"{path}: expected to read it, found {_line(error)}; start again when it can be read, a run goes "
                    "on from its last checkpoint"
                ) from error
            logging.warning("%s: %s; tried again in about %s s", path, _line(error), wait)
            time.sleep(wait * random.uniform(0.5, 1.5))  # not all hosts at once


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
