"""Shards are read from end to end once; from then on an index on disk says what they hold and where it stands.

<folder>/index.arrow has a row a record, in the order of the shards: id, texts, group, label, shard and place. It is
memory-mapped: opening reads its end alone, and the system may drop any page again. <folder>/problems.jsonl lists what
is no record.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from align_jax.data.indexing import FILE, Scan, Shard, build
from align_jax.data.storage import Stored
from align_jax.types import AlignError


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
            build(folder, files, scan, places=places, prefixes=prefixes, request=request)
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
