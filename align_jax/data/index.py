"""Shards are read from end to end once; from then on an index on disk says what they hold and where it stands.

<folder>/index.arrow has a row a record, in the order of the shards: id, texts, group, label, shard and place. It is
memory-mapped: opening reads its end alone, and the system may drop any page again. <folder>/problems.jsonl lists what
is no record. A shard's rows are written beside it as soon as they are known, so that a build that was ended goes on.
"""

import fcntl
import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from align_jax.data.rows import BATCH, Problem, Rows, schema
from align_jax.data.storage import Stored
from align_jax.types import AlignError

LAYOUT = 1  # of the files; another number, another index
THREADS = 16  # shards that are read at a time: in a bucket each waits for its answers
Scan = Callable[[Stored, Rows], None]  # reads a shard into its rows


class Shard(NamedTuple):
    """A file of the index, as it was when it was read."""

    path: str
    size: int
    mark: str
    records: int
    digest: str  # of its rows: ids, texts and places
    problems: dict[str, int]  # reason -> count


class Index:
    """The rows of all shards, on disk. Safe among threads."""

    def __init__(self, folder: Path):
        """Opens what `build` wrote."""
        self.folder = folder
        try:
            table = pa.ipc.open_file(pa.memory_map(str(folder / FILE))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise AlignError(f"{folder / FILE}: expected an index of shards; delete {folder} to index anew") from error
        about = json.loads(table.schema.metadata[b"align_jax"])
        self.request: dict[str, Any] = about["request"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.shards = [Shard(*shard) for shard in about["shards"]]
        self.problems = sum((Counter(shard.problems) for shard in self.shards), Counter())
        self._table = table
        self._columns = {name: table.column(name).chunks for name in table.column_names}
        self._starts = np.cumsum([0, *map(len, self._columns["id"])]).tolist()

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        """One row, by column."""
        number = bisect_right(self._starts, index) - 1
        return {name: chunks[number][index - self._starts[number]].as_py() for name, chunks in self._columns.items()}

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows, not copied."""
        return self._table.column(name)

    def texts(self) -> Iterator[str]:
        """The texts of all rows, in order."""
        for chunk in self._columns["texts"]:
            yield from chunk.flatten().to_pylist()


FILE = "index.arrow"
PROBLEMS = "problems.jsonl"


def open_index(
    folder: Path,
    files: Sequence[Stored],
    scan: Scan,
    *,
    places: Sequence[str],
    prefixes: Sequence[str],
    request: Mapping[str, Any],
) -> Index:
    """The index of `files` in `folder`, built where it is not there yet.

    Args:
      scan: reads a shard into its rows. places: columns that say where a record stands in its shard.
      prefixes: what the ids of each shard begin with. request: the options that the index depends on.

    Raises AlignError where the folder has the index of another request, or where a shard is missing, new or changed.
    """
    if not (folder / FILE).exists():
        try:
            _build(folder, files, scan, places, prefixes, request)
        except OSError as error:
            raise AlignError(
                f"{folder}: expected to write an index of {len(files)} shards there, found {error}; give another "
                "folder as data.source.index"
            ) from error
    index = Index(folder)
    if index.request != request:
        raise AlignError(
            f"{folder}: expected the index of {request}, found that of {index.request}; give another data.source.index "
            "or delete it to index anew"
        )
    _check(index, files)
    return index


def _check(index: Index, files: Sequence[Stored]) -> None:
    known = {shard.path: (shard.size, shard.mark) for shard in index.shards}
    found = {file.path: (file.size, file.mark) for file in files}
    for what, paths in (
        ("missing", [path for path in known if path not in found]),
        ("changed", [path for path in known if found.get(path, known[path]) != known[path]]),
        ("new", [path for path in found if path not in known]),
    ):
        if paths:
            raise AlignError(
                f"expected the {len(known)} shards that were indexed, found {len(paths)} {what}, first {paths[0]}; "
                f"put back what was there or delete {index.folder} to index anew"
            )


def _build(
    folder: Path,
    files: Sequence[Stored],
    scan: Scan,
    places: Sequence[str],
    prefixes: Sequence[str],
    request: Mapping[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the process ends, however it ends
        if (folder / FILE).exists():  # another process was faster
            return
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        paths = [_part_path(parts, file, request) for file in files]

        def read(number: int) -> None:
            rows = Rows(prefixes[number], places)
            scan(files[number], rows)
            _write_part(paths[number], files[number], rows)

        todo = [number for number, path in enumerate(paths) if not path.exists()]
        with ThreadPoolExecutor(THREADS) as pool:
            running = [pool.submit(read, number) for number in todo]
            bar = tqdm(as_completed(running), "indexing", len(files), initial=len(files) - len(todo), unit="shard", disable=None)  # noqa: E501
            try:
                for done in bar:
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)
        _join(folder, paths, places, request)
        shutil.rmtree(parts)
