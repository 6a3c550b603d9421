"""Checks of what a user has downloaded: what is wrong is one line that says what was expected and what is there."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align_jax.types import AlignError

PIECE = 1 << 24  # characters that are read at once
BETWEEN = re.compile(r"[\s,]*")


def require(name: str, source: Path, needs: Iterable[str]) -> None:
    """Refuses a folder that lacks one of the files, or of the folders (with a slash at the end), that `name` needs."""
    needs = list(needs)
    missing = [need for need in needs if not _is_there(source / need, folder=need.endswith("/"))]
    if missing:
        found = sorted(entry.name + "/" * entry.is_dir() for entry in source.iterdir())
        raise AlignError(
            f"{name}: expected {', '.join(needs)} in {source}, found no {', '.join(missing)} among {found[:10]}; "
            f"python -m align_jax.build --list says what to download"
        )


def _is_there(path: Path, *, folder: bool) -> bool:
    return path.is_dir() if folder else path.is_file()


def require_images(named_by: Path, source: Path, images: Iterable[str]) -> None:
    """Refuses images, paths relative to `source`, that are named but not there."""
    there: dict[str, set[str]] = {}
    missing: list[str] = []
    total = 0
    for image in images:
        folder, _, file = image.rpartition("/")
        if folder not in there:
            there[folder] = set(os.listdir(source / folder)) if (source / folder).is_dir() else set()
        total += 1
        if file not in there[folder]:
            missing.append(image)
    if missing:
        raise AlignError(
            f"{named_by}: expected the {total} images that it names in {source}, found no {missing[0]} "
            f"and {len(missing) - 1} others; download or unpack them again"
        )


def read_json(path: Path) -> Any:
    """The contents of a JSON file."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise AlignError(f"{path}: expected JSON, found {error}; download it again") from error


def check_keys(value: Any, keys: Iterable[str], *, where: str) -> None:
    """Refuses what is no JSON object, or lacks one of the keys."""
    if not isinstance(value, dict) or not set(keys) <= set(value):
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise AlignError(f"{where}: expected the keys {sorted(keys)}, found {found}; download it again")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text, gzipped if its name ends so. Only a newline ends a line, as the distributors count."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise AlignError(f"{path}: expected UTF-8 text, found {error}; download it again") from error
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_items(path: Path) -> Iterator[tuple[Any, str]]:
    """(value, its JSON text) of each object in a file that is one list of objects; reads it piece by piece."""
    decode = json.JSONDecoder().raw_decode
    # JSON is ASCII but for its texts: of those, bytes that are no UTF-8 show as surrogates and cannot be written.
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        text, at = file.read(PIECE), 0
        begin = re.match(r"\s*\[", text)
        if begin is None:
            raise AlignError(f"{path}: expected a list in JSON, found {text[:40]!r}; download it again")
        at = begin.end()
        while True:
            gap = BETWEEN.match(text, at)
            at = gap.end() if gap else at
            if text[at : at + 1] == "]":
                return
            try:
                value, end = decode(text, at)
            except json.JSONDecodeError as error:  # cut by the end of the piece, or none
                piece = file.read(PIECE)
                if not piece:
                    raise AlignError(f"{path}: expected objects in JSON, found {error}; download it again") from error
                text, at = text[at:] + piece, 0
                continue
            yield value, text[at:end]
            at = end
