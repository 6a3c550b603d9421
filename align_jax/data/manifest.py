"""Your own pairs: a jsonl or csv file beside a folder of images, either of them local or in a bucket."""

import codecs
import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align_jax.data import captions, listing, storage
from align_jax.data.columns import Columns, class_numbers
from align_jax.data.rows import BATCH
from align_jax.data.source import File, Record, Source
from align_jax.types import AlignError

NAMES = ("image", "id", "group", "label")
PAIR = pa.schema([*((name, pa.large_string()) for name in NAMES), ("texts", pa.list_(pa.large_string()))])
LINE = pa.schema([*((name, pa.large_string()) for name in NAMES), ("text", pa.large_string())])  # of a csv
LONGEST = 1 << 30  # characters of a field of a csv; by default Python stops at 131,072


class Manifest(Source):
    """jsonl lines {"image": path, "texts": [..]} (or "text": ".."), csv with columns image, text (one row a pair).

    Image paths are relative to `images`, or to the folder of the manifest. Optional fields: "id", "label" (a class
    name; classes are the sorted labels) and "group" (records that show the same thing; by default the image). The rows
    are held in memory as Arrow columns, which takes about the size of the file.
    """

    def __init__(self, *, path: str, images: str | None = None):
        if not path.endswith((".jsonl", ".csv")):
            raise AlignError(f"data.source.path: expected a .jsonl or .csv file, found {path}")
        file = listing.find(path)
        if file is None:
            raise AlignError(f"data.source.path: expected a .jsonl or .csv file, found no {path}")
        self._folder = images or path.rpartition("/")[0]
        if not storage.is_remote(self._folder) and not os.path.isdir(self._folder or "."):
            raise AlignError(f"data.source.images: expected a folder, found no {self._folder}")
        digest = hashlib.blake2b(digest_size=8)
        with storage.open_stream(file) as stream:
            lines = _lines(stream, digest)
            try:
                table = _jsonl(path, lines) if path.endswith(".jsonl") else _csv(path, lines)
            except UnicodeDecodeError as error:
                raise AlignError(f"{path}: expected UTF-8, found byte {error.object[error.start]:#x}") from error
        labels = table.column("label")
        self.classes = tuple(sorted(labels.unique().drop_null().to_pylist()))
        numbers = class_numbers(labels, self.classes)
        self._rows = Columns(table.set_column(table.column_names.index("label"), "label", numbers))
        self._file = File(path, len(table), file.size, digest.hexdigest())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows.row(range(len(self))[index])
        name, group = (row["image"] if row[field] is None else row[field] for field in ("id", "group"))
        return Record(name, storage.join(self._folder, row["image"]), tuple(row["texts"]), group, row["label"])

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return pc.call_function("coalesce", [self._rows.column("id"), self._rows.column("image")]).cast(pa.string())

    def files(self) -> list[File]:
        """The manifest."""
        return [self._file]

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return self._rows.flat("texts")


def _lines(stream: Iterable[bytes], digest: Any) -> Iterator[str]:
    """The lines of a file in UTF-8, which may begin with a mark, each added to the digest of the whole."""
    mark = codecs.BOM_UTF8
    for line in stream:  # not str.splitlines, which also splits at U+2028 inside a text
        digest.update(line)
        yield line.removeprefix(mark).decode()
        mark = b""


def _table(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as columns, some at a time: as Python objects they would take ten times the memory."""
    batches = []
    while part := list(islice(rows, BATCH)):
        batches.append(pa.RecordBatch.from_pylist(part, schema))
    return pa.Table.from_batches(batches, schema)


def _jsonl(path: str, lines: Iterator[str]) -> pa.Table:
    return _table((_pair(path, number, line) for number, line in enumerate(lines, 1) if line.strip()), PAIR)


def _pair(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = {key: value for key, value in json.loads(line).items() if value is not None}
    except (ValueError, AttributeError, RecursionError):
        row = {}
    texts = [row["text"]] if "text" in row else row.get("texts")
    if (
        not isinstance(row.get("image"), str)
        or not isinstance(texts, list)
        or not all(isinstance(t, str) for t in texts)
    ):
        raise AlignError(
            f'{path}:{number}: expected {{"image": path, "texts": [text, ..]}}, found {line.strip()[:80]!r}'
        )
    # JSON can hold halves of surrogate pairs, which UTF-8 cannot.
    names = {name: str(row[name]).encode("utf-8", "backslashreplace").decode() for name in NAMES if name in row}
    return names | {"texts": [captions.clean(text) for text in texts]}


def _csv(path: str, lines: Iterator[str]) -> pa.Table:
    """One record an image, in the order of their first rows, which also give id, group and label."""
    csv.field_size_limit(LONGEST)
    reader = csv.DictReader(lines)
    try:
        if not {"image", "text"} <= set(reader.fieldnames or ()):
            raise AlignError(f"{path}: expected columns image and text, found {reader.fieldnames}")
        table = _table(_csv_rows(path, reader), LINE)
    except csv.Error as error:
        raise AlignError(f"{path}: expected values and commas, found after line {reader.line_num}: {error}") from error
    if not len(table):
        return PAIR.empty_table()
    image = table.column("image").dictionary_encode().combine_chunks().indices.to_numpy()
    order = np.argsort(image, kind="stable")  # rows of one image together, images as they first came
    starts = np.flatnonzero(np.diff(image[order], prepend=-1))
    text = table.column("text").take(order).combine_chunks()
    texts = pa.ListArray.from_arrays(np.append(starts, len(order)).astype(np.int32), text)
    return (
        table.drop_columns("text").take(order[starts]).combine_chunks().append_column("texts", texts).select(PAIR.names)
    )


def _csv_rows(path: str, reader: csv.DictReader) -> Iterator[dict[str, Any]]:
    for row in reader:
        if not row["image"]:
            raise AlignError(f"{path}:{reader.line_num}: expected an image path, found none")
        yield {name: row.get(name) or None for name in NAMES} | {"text": captions.clean(row["text"] or "")}
