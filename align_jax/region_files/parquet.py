"""Parquet, a row for each image: its id (key, image_id, img_id or id) and the arrays of `fields` as lists.

features is a list of n lists, or one list of n x F numbers; boxes a list of n lists of 4, or one of n x 4; labels and
scores are lists of n, probabilities is as features; image_w and image_h are numbers.
"""

import bisect
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.data.lru import Lru
from align_jax.data.source import BadExample
from align_jax.data.storage import Stored
from align_jax.region_files.fields import BACKGROUND_FIRST, BOXES, FEATURES, KNOWN, PLAIN, SHARES, Fields
from align_jax.region_files.reading import digest_of, files_of, local, refuse, text

KEYS = ("key", "image_id", "img_id", "id")
TABLES = FEATURES + BOXES + SHARES + PLAIN + BACKGROUND_FIRST
CACHED = 1 << 30  # bytes of row groups that are kept: neighbours are read together


class Parquet:
    """The rows of .parquet files."""

    def __init__(self, path: Sequence[str]):
        self._groups: list[tuple[Stored, int]] = []
        counts = []
        files = files_of(path, ending=".parquet")
        self.digest = digest_of(files)
        for file in files:
            try:
                metadata = pq.read_metadata(local(file))
            except pa.ArrowException as error:
                raise refuse(file.path, "parquet", error) from error
            self._groups += [(file, group) for group in range(metadata.num_row_groups)]
            counts += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._stops = list(accumulate(counts))
        self._tables: Lru[pa.Table] = Lru(CACHED, _bytes)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def name(self, index: int) -> str:
        number, row = self._place(index)
        file, group = self._groups[number]
        return f"{file.path}, row group {group}, row {row}"

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        number, row = self._place(index)
        table = self._tables.get(number, lambda: self._read(number))
        key = next(name for name in KEYS if name in table.column_names)
        found = {name: _value(name, table[name][row]) for name in table.column_names if name != key}
        for name in TABLES:  # one list of n x width numbers
            if (flat := found.get(name)) is not None and flat.ndim == 1:
                found[name] = _reshaped(found, name)
        if table[key][row].as_py() is None:
            raise BadExample("id missing")
        return text(table[key][row].as_py()), found

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._stops, index)
        return number, index - (self._stops[number - 1] if number else 0)

    def _read(self, number: int) -> pa.Table:
        file, group = self._groups[number]
        opened = pq.ParquetFile(local(file))
        names = [name for name in opened.schema_arrow.names if name in KNOWN]
        keys = [name for name in KEYS if name in opened.schema_arrow.names]
        if not keys:
            raise refuse(file.path, f"a column {', '.join(KEYS)}", f"only {', '.join(opened.schema_arrow.names)}")
        try:
            return opened.read_row_group(group, [keys[0], *names]).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise refuse(file.path, f"row group {group}", error) from error


def _bytes(table: pa.Table) -> int:
    return table.nbytes


def _reshaped(found: Fields, name: str) -> np.ndarray:
    boxes = next((found[other] for other in BOXES + SHARES if found.get(other) is not None), None)
    if name in BOXES + SHARES:
        rows = len(found[name]) // 4
    else:
        rows = 0 if boxes is None else len(boxes) if boxes.ndim == 2 else len(boxes) // 4
    if not rows or len(found[name]) % rows:
        raise BadExample("lists of different lengths")
    return found[name].reshape(rows, -1)


def _value(name: str, scalar: pa.Scalar) -> np.ndarray | None:
    """The array of a cell, nan for null inside; None for null."""
    if not scalar.is_valid:
        return None
    if not isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return np.asarray(scalar.as_py())
    rows, shape = scalar.values, [len(scalar.values)]
    while pa.types.is_nested(rows.type):
        lengths = (
            set(rows.value_lengths().to_pylist())
            if not pa.types.is_fixed_size_list(rows.type)
            else {rows.type.list_size}
        )
        if len(lengths) > 1 or rows.null_count:
            raise BadExample(f"{name} with rows of different lengths")
        shape.append(lengths.pop() if lengths else 0)
        rows = rows.flatten()
    return rows.to_numpy(zero_copy_only=False).reshape(shape)
