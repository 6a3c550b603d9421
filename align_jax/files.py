"""The files of a run: each appears whole or not at all, written by one process for all."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from align_jax.types import AlignError


def is_writer() -> bool:
    """Whether this process writes what is the same on all: process 0."""
    return jax.process_index() == 0


def check_writable(folder: Path, *, flag: str = "--workdir") -> None:
    """Makes the folder; AlignError, which names the flag that gave it, where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AlignError(f"{flag}: expected a folder to write into, found {folder}: {error.strerror}") from error


def write(path: Path, writer: Callable[[Path], Any], *, process: int = 0) -> None:
    """`writer(partial)`, then renamed to `path`; nothing on a process that does not write.

    Processes that know nothing of each other, each with a number of its own, may write the same file at once.
    """
    if not is_writer():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{process or ''}{path.suffix}")
    writer(partial)
    partial.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A path for a new folder; at the end it takes the name, and the place, of `folder`; after an error it is gone."""
    own = secrets.token_hex(4)  # other processes may write the same
    partial, before = (folder.with_name(f"{folder.name}.{state}-{own}") for state in ("partial", "before"))
    try:
        yield partial
        if folder.exists():
            folder.rename(before)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if before.exists() and not folder.exists():
            before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def check_free(folder: Path, *, force: bool, known_by: str) -> None:
    """Refuses to write where something stands, but for a folder of its kind, known by a file in it, with `force`."""
    if not folder.exists():
        return
    if not force:
        raise AlignError(f"{folder}: expected a folder that does not exist yet, found one; --force replaces it")
    if not (folder / known_by).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlignError(f"{folder}: expected a folder with {known_by} to replace, found none; choose another --out")


def write_json(path: Path, value: Any, *, process: int = 0) -> None:
    """Indented, as people read it."""
    write(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"), process=process)
