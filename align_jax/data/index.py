"""Shards are read from end to end once; from then on an index on disk says what they hold and where it stands.

<folder>/index.arrow has a row a record, in the order of the shards: id, texts, group, label, shard and place. It is
memory-mapped: opening reads its end alone, and the system may drop any page again. <folder>/problems.jsonl lists what
is no record.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from absl import logging

from align_jax.data.columns import Columns
from align_jax.data.indexing import ABOUT, FILE, PROBLEMS, Scan, Shard, build
from align_jax.data.storage import Stored
from align_jax.types import AlignError


class Index:
    """The rows of all shards, on disk, and what is known of each shard. Safe among threads."""

    def __init__(self, folder: Path):
        """Opens what `indexing.build` wrote."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(folder / FILE))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise AlignError(f"{folder / FILE}: expected an index of shards; delete {folder} to index anew") from error
        about = json.loads(table.schema.metadata[ABOUT])
        self.request: dict[str, Any] = about["request"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.shards = [Shard(*shard) for shard in about["shards"]]
        self.problems: Counter[str] = Counter()
        for shard in self.shards:
            self.problems.update(shard.problems)
        self.rows = Columns(table)


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
    new = not (folder / FILE).exists()
    if new:
        try:
            build(folder, files, scan, places=places, prefixes=prefixes, request=request)
        except OSError as error:
            raise AlignError(
                f"{folder}: expected to write an index of {len(files)} shards there, found {error}; give another "
                "folder as data.source.index"
            ) from error
    index = Index(folder)
    if new:
        _tell(index, folder)
    if index.request != request:
        raise AlignError(
            f"{folder}: expected the index of {request}, found that of {index.request}; give another data.source.index "
            "or delete it to index anew"
        )
    _check(index, files, folder)
    return index


def _tell(index: Index, folder: Path) -> None:
    found = ", ".join(f"{count} {reason}" for reason, count in index.problems.most_common())
    if found:
        logging.warning(
            "%d shards indexed: %d records; left out: %s; listed in %s",
            len(index.shards), len(index.rows), found, folder / PROBLEMS,
        )  # fmt: skip


def _check(index: Index, files: Sequence[Stored], folder: Path) -> None:
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
                f"put back what was there or delete {folder} to index anew"
            )
