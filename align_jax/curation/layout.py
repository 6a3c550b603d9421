"""The files of a curation: what stands where, that each appears whole or not at all, and that inputs never change.

<workdir>/
  config.json, inputs.json        what it was started with; another config or source is refused
  shards/shard-00000-of-00012.*   the result
  keep/00000-of-00003.parquet     for each raw record: id, rule ("" if kept), texts, text_rules
  report.json, report.html        written last: where they stand, all is done
  work/                           sidecars of the steps; may be deleted when all is done
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from align_jax.types import AlignError


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


def same_or_refuse(path: Path, found: Mapping[str, Any], free: tuple[str, ...] = ()) -> None:
    """Writes flat `found` to `path`, or refuses what differs from what stands there, but for the keys `free`."""
    if not path.exists():
        write_json(path, found)
        return
    before = json.loads(path.read_text("utf-8"))
    for key in sorted(before | dict(found)):
        if key not in free and before.get(key) != found.get(key):
            raise AlignError(
                f"{path.parent} was made with {key} = {before.get(key)!r}, this run has {found.get(key)!r}; "
                "give another --workdir or the same value"
            )
