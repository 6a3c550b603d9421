"""Parquet tables of images and texts: as Hugging Face datasets, img2dataset or your own job writes them."""

import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.data import storage
from align_jax.data.lru import Lru
from align_jax.data.rows import Rows
from align_jax.data.shards import Paths, Shards, listed
from align_jax.data.source import BadExample
from align_jax.data.storage import Stored
from align_jax.types import AlignError

OPEN = 256  # files whose footers are kept
UNREADABLE = (pa.ArrowException, OSError)  # what pyarrow raises of a damaged file; storage raises errors of its own
BUFFER = 1 << 16  # bytes read at a time where pyarrow asks for less


class ParquetShards(Shards):
    """Random access to the rows of parquet files; a row group is read and decompressed once for its neighbours.

    An image is a column of bytes, of {bytes, path} as Hugging Face datasets have it, or of paths relative to the file.
    Whether an image is there is seen when it is drawn, not when the columns of text are indexed.

    Args:
      path: files, as patterns with braces or wildcards, local or remote.
      image: column of the image. texts: columns of a text or a list of texts.
      key: column that tells a row from others of its file; None for its number. group, label: columns, or None.
      index: folder of the index; None for one in the cache folder.
      cache_mb: megabytes of row groups that are kept.
    """

    def __init__(self, *, path: Paths, image: str = "image", texts: Paths = "text", key: str | None = None,
                 group: str | None = None, label: str | None = None, index: str | None = None,
                 cache_mb: int = 1024):  # fmt: skip
        if cache_mb < 0:
            raise AlignError(f"data.source.cache_mb: expected at least 0, found {cache_mb}")
        options = {"image": image, "texts": listed(texts), "key": key, "group": group, "label": label}
        scan = functools.partial(scan_shard, **options)
        super().__init__("parquet", path, index, scan, ("row_group", "row"), **options)
        self._column = image
        self._groups: Lru[pa.ChunkedArray] = Lru(cache_mb << 20, _size)
        self._metadata: Lru[pq.FileMetaData] = Lru(OPEN, lambda metadata: 1)
        shard, row_group = (self._rows.column(name).to_numpy() for name in ("shard", "row_group"))
        self.blocks = self._runs(shard, row_group)

    def _image(self, index: int, file: Stored, row: Mapping[str, Any]) -> bytes | str:
        number = row["row_group"]
        value = self._groups.get((file, number), lambda: self._read(file, number))[row["row"]].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return storage.join(file.path.rpartition("/")[0], value)
        return value or b""

    def _read(self, file: Stored, number: int) -> pa.ChunkedArray:
        metadata = self._metadata.get(file, lambda: _metadata(file))
        try:
            return _row_group(file, metadata, number, [self._column]).column(self._column)
        except UNREADABLE as error:
            raise BadExample("row group unreadable") from error


def _size(images: pa.ChunkedArray) -> int:
    return images.nbytes


def scan_shard(
    file: Stored, rows: Rows, *, image: str, texts: list[str], key: str | None, group: str | None, label: str | None
) -> None:
    """Reads the texts of a file into its rows."""
    wanted = [*texts, *(name for name in (key, group, label) if name)]
    try:
        metadata = _metadata(file)
        known = metadata.schema.to_arrow_schema()
    except UNREADABLE:
        rows.problem("shard unreadable" if file.size else "shard empty")
        return
    missing = [name for name in (image, *wanted) if name not in known.names]
    if missing:
        raise AlignError(
            f"{file.path}: expected the columns {', '.join((image, *wanted))}, found no {missing[0]} in {known.names}; "
            "name them by data.source.image and data.source.texts"
        )
    if not _is_image(known.field(image).type):
        raise AlignError(
            f"{file.path}: expected column {image} to hold bytes, {{bytes, path}} or paths, found "
            f"{known.field(image).type}"
        )
    first = 0
    for number in range(metadata.num_row_groups):
        try:
            table = _row_group(file, metadata, number, wanted)
        except UNREADABLE:
            rows.problem("row group unreadable", str(first))
        else:
            _add(rows, first, number, table, texts, key, group, label)
        first += metadata.row_group(number).num_rows


def _add(
    rows: Rows, first: int, number: int, table: pa.Table, texts: list[str], key: str | None, group: str | None,
    label: str | None,
) -> None:  # fmt: skip
    """Adds a row group, whose first row is row `first` of its file."""
    columns = {name: _bytes(table.column(name)).to_pylist() for name in table.column_names}

    def value(name: str | None, row: int) -> str | None:
        found = columns[name][row] if name else None
        return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else found and str(found)

    for row in range(len(table)):
        own = value(key, row) if key else str(first + row)
        if own is None:
            rows.problem("key missing", str(first + row))
            continue
        found = [text for name in texts for text in _texts(columns[name][row])]
        rows.add(own, found, group=value(group, row), label=value(label, row), row_group=number, row=row)


def _texts(value: Any) -> list[bytes]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, bytes)]


def _bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings, and lists of them, as bytes: a file may hold what is no UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _bytes(column.cast(kind.value_type))
    if _is_text(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.large_list(pa.large_binary())) if _is_text(kind.value_type) else column
    return column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool({"bytes", "path"} & {field.name for field in kind})
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _metadata(file: Stored) -> pq.FileMetaData:
    with storage.open_stream(file, BUFFER) as stream:
        return pq.read_metadata(stream)


def _row_group(file: Stored, metadata: pq.FileMetaData, number: int, columns: list[str]) -> pa.Table:
    """Some columns of a row group; what stands together in the file comes with one read."""
    with storage.open_stream(file, BUFFER) as stream:
        return pq.ParquetFile(stream, metadata=metadata, pre_buffer=True).read_row_group(number, columns)
