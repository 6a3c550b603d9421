"""Builds the index of a sharded source: each shard is read once, and what was read stays when the build is ended.

The rows of a shard are written to <folder>/parts as soon as they are known; a later build goes on from there. The index
itself appears when it is whole.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from align_jax.data.columns import class_numbers
from align_jax.data.rows import BATCH, Rows, schema
from align_jax.data.storage import Stored

FILE = "index.arrow"
PROBLEMS = "problems.jsonl"
ABOUT = b"align_jax"  # key of the schema's metadata
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


def build(
    folder: Path,
    files: Sequence[Stored],
    scan: Scan,
    *,
    places: Sequence[str],
    prefixes: Sequence[str],
    request: Mapping[str, Any],
) -> None:
    """Writes the index of `files` to `folder`; arguments as those of `index.open_index`. OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the process ends, however it ends
        if (folder / FILE).exists():  # another process was faster
            return
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        paths = [parts / f"{_hash(json.dumps([*file, request]).encode())}.arrow" for file in files]

        def read(number: int) -> None:
            rows = Rows(prefixes[number], places)
            scan(files[number], rows)
            _write_part(paths[number], files[number], rows)

        _all(read, [number for number, path in enumerate(paths) if not path.exists()], len(files))
        _join(folder, paths, places, request)
        shutil.rmtree(parts)


def _all(read: Callable[[int], None], todo: Sequence[int], total: int) -> None:
    """Calls `read` for each of `todo`, in threads, with a bar; the first error ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(read, number) for number in todo]
        done = as_completed(running)
        try:
            for future in tqdm(done, "indexing", total, initial=total - len(todo), unit="shard", disable=None):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_part(path: Path, file: Stored, rows: Rows) -> None:
    table = rows.table()
    digest = _hash(*(batch.serialize() for batch in table.to_batches()))
    counts = Counter(problem.reason for problem in rows.problems)
    about = {
        "shard": Shard(*file, table.num_rows, digest, counts),
        "problems": rows.problems,
        "labels": table.column("label").unique().drop_null().to_pylist(),
    }
    _write(path, table.schema.with_metadata({ABOUT: json.dumps(about)}), table.to_batches())


def _join(folder: Path, paths: Sequence[Path], places: Sequence[str], request: Mapping[str, Any]) -> None:
    """One index of all parts, in their order; at most a batch and a part are in memory."""
    abouts = []
    with (folder / PROBLEMS).open("w", encoding="utf-8") as file:
        for path in paths:
            about = json.loads(_opened(path).schema.metadata[ABOUT])
            shard = Shard(*about["shard"])
            for reason, key in about["problems"]:
                file.write(json.dumps({"shard": shard.path, "key": key, "reason": reason}) + "\n")
            abouts.append((shard, about["labels"]))
    classes = sorted({label for _, labels in abouts for label in labels})
    about = {"request": request, "classes": classes, "shards": [shard for shard, _ in abouts]}
    fields = [field.with_type(pa.int32()) if field.name == "label" else field for field in schema(places)]
    whole = pa.schema([*fields, ("shard", pa.int32())], {ABOUT: json.dumps(about)})

    def tables() -> Iterator[pa.Table]:
        for number, path in enumerate(paths):
            table = _opened(path).read_all().replace_schema_metadata()
            label = class_numbers(table.column("label"), classes)
            table = table.set_column(table.column_names.index("label"), "label", label)
            yield table.append_column("shard", pa.repeat(pa.scalar(number, pa.int32()), len(table)))

    _write(folder / FILE, whole, _batches(tables()))


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """The rows of all tables in batches of BATCH, the last one smaller: many small shards would make many batches."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        count = sum(map(len, waiting))
        if count >= BATCH:
            together = pa.concat_tables(waiting)
            full = count - count % BATCH
            for start in range(0, full, BATCH):
                yield from together.slice(start, BATCH).combine_chunks().to_batches()
            waiting = [together.slice(full)]
    yield from pa.concat_tables(waiting).combine_chunks().to_batches()


def _write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Appears whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    partial.replace(path)


def _opened(path: Path) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _hash(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
