"""Rows of an Arrow table that is in memory, or memory-mapped, in as many chunks as it came."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def class_numbers(labels: pa.ChunkedArray, classes: Sequence[str]) -> pa.ChunkedArray:
    """The place of each label in `classes`, int32; -1 for null."""
    options = pc.SetLookupOptions(pa.array(classes, labels.type))
    # Chunk by chunk: of all at once Arrow makes one chunk.
    found = [pc.call_function("index_in", [chunk], options).fill_null(-1) for chunk in labels.chunks]
    return pa.chunked_array(found, pa.int32())


class Columns:
    """A table whose rows can be read one by one, each in some microseconds. Safe among threads."""

    def __init__(self, table: pa.Table):
        """The columns of `table` must be cut into the same chunks."""
        self._table = table
        self._chunks = {name: table.column(name).chunks for name in table.column_names}
        lengths = [len(chunk) for chunk in next(iter(self._chunks.values()))]
        self._starts = np.cumsum([0, *lengths]).tolist()

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` by column; lists as lists, null as None."""
        number = bisect_right(self._starts, index) - 1
        return {name: chunks[number][index - self._starts[number]].as_py() for name, chunks in self._chunks.items()}

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, not copied."""
        return self._table.column(name)

    def flat(self, name: str) -> Iterator[Any]:
        """The values of all lists of a column, in order."""
        for chunk in self._chunks[name]:
            yield from chunk.flatten().to_pylist()
