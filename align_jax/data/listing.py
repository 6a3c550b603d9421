"""Which files there are: patterns with braces and wildcards, local or in a bucket."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align_jax.data.storage import FIRST, Stored, absolute, filesystem, is_remote, retried
from align_jax.types import AlignError

LISTED = 8  # files of one folder from which on it is listed, instead of asked for each
Info = Mapping[str, Any]  # of a file, as fsspec tells it


def expand(patterns: str | Sequence[str], *, where: str = "data.source.path") -> list[Stored]:
    """The files of one pattern or several, sorted by path, each once.

    Braces stand for several patterns, `{000..012}` with its zeros and `{a,b}`, and each of them must find a file; `*`,
    `?` and `[..]` stand for whatever is there.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = [absolute(name) for pattern in patterns for name in braces(pattern)]
    if not names:
        raise AlignError(f"{where}: expected a file or a pattern of files, found none")
    plain = {name for name in names if not re.search(r"[*?[]", name)}
    together = Counter(name.rpartition("/")[0] for name in plain)
    listed = {folder: _listing(folder) for folder, count in together.items() if count >= LISTED}
    found: dict[str, Stored] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if name not in plain:
            matches = _glob(name)
        else:
            info = listed[folder].get(last) if folder in listed else _info(name)
            matches = {name: info} if info else {}
        if not matches:
            raise AlignError(f"{where}: expected {name}, found no such file; check the path and the pattern")
        found |= {path: _stored(path, info) for path, info in matches.items()}
    return [found[path] for path in sorted(found)]


def find(path: str) -> Stored | None:
    """One file, whatever its name; None where it is not there."""
    info = _info(absolute(path))
    return _stored(absolute(path), info) if info else None


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


def _glob(pattern: str) -> dict[str, Info]:
    """Path -> what is known of it, of all files that match."""
    fs, name = filesystem(pattern)
    found = retried(lambda: fs.glob(name, detail=True), pattern, FIRST)
    protocol = f"{pattern.partition('://')[0]}://" if is_remote(pattern) else ""
    return {
        path if is_remote(path) else protocol + path: info for path, info in found.items() if info["type"] == "file"
    }


def _listing(folder: str) -> dict[str, Info]:
    """Name -> what is known of it, of all files of a folder."""
    fs, name = filesystem(folder)
    try:
        found = retried(lambda: fs.ls(name, detail=True), folder, FIRST)
    except FileNotFoundError:
        return {}
    return {info["name"].rpartition("/")[2]: info for info in found if info["type"] == "file"}


def _info(path: str) -> Info | None:
    """What is known of one file; None where there is none."""
    fs, name = filesystem(path)
    try:
        info = retried(lambda: fs.info(name), path, FIRST)
    except FileNotFoundError:
        return None
    return info if info["type"] == "file" else None


def _stored(path: str, info: Info) -> Stored:
    marks = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
    return Stored(path, int(info["size"]), next((str(info[name]) for name in marks if info.get(name)), ""))
