"""The files of a run: each appears whole or not at all, written by one process for all."""

import json
import tempfile
from collections.abc import Callable
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


def write_json(path: Path, value: Any, *, process: int = 0) -> None:
    """Indented, as people read it."""
    write(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"), process=process)
