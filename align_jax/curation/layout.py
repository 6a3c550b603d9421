"""The files of a curation: what stands where, that each appears whole or not at all, and that inputs never change.

<workdir>/
  config.json, inputs.json        what it was started with; another config or source is refused
  shards/shard-00000-of-00012.*   the result
  keep/00000-of-00003.parquet     for each raw record: id, rule ("" if kept), texts, text_rules
  report.json, report.html        written last: where they stand, all is done
  work/                           sidecars of the steps; may be deleted when all is done
"""

import contextlib
import fcntl
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_jax.types import AlignError

RAW = "work/raw"  # the facts of the raw records; those of evaluation sources are work/evaluation-0, ...


def shard_name(index: int, count: int) -> str:
    """'00000-of-00012'."""
    return f"{index:05d}-of-{count:05d}"


def split(total: int, size: int) -> list[range]:
    """Ranges of `size`; the last may be shorter."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def pieces(total: int, size: int) -> list[str]:
    """Names of the shards that `split` makes."""
    count = math.ceil(total / size)
    return [shard_name(index, count) for index in range(count)]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name for a file or folder to write; it becomes `path` when the block ends well. AlignError on a full disk."""
    partial = path.with_name(f"{path.name}.partial")
    remove(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise AlignError(
            f"{path}: cannot be written ({error.strerror or error}); mend that and run again, what is finished stays"
        ) from error


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Indented, as people read it."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def refuse_other(path: Path, found: Mapping[str, Any], free: Sequence[str]) -> None:
    """Refuses what differs in flat `found` from what stands at `path`, but for the keys `free`."""
    if not path.exists():
        return
    before = json.loads(path.read_text("utf-8"))
    for key in sorted(before | dict(found)):
        if key not in free and before.get(key) != json.loads(json.dumps(found.get(key))):
            raise AlignError(
                f"{path.parent} was made with {key} = {before.get(key)!r}, this run has {found.get(key)!r}; "
                "give another --workdir or the same value"
            )


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds the work directory; AlignError where another process does. A process that is killed lets go."""
    path = workdir / "work" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlignError(f"{workdir}: another process is at work here; wait for it or end it") from error
        yield
