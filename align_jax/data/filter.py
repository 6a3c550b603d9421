"""Which records of a source take part, by sidecar files keyed by record id: shards are never written anew.

A filter is applied once, when a source is opened, as an index before the shuffle; nothing is filtered while reading.
Opening takes about 100 bytes of memory for each id of the source and of a sidecar, one sidecar at a time; the index
that stays takes 8 bytes a record.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv, json

from align_jax.config import call
from align_jax.data import listing, storage
from align_jax.data.source import BadExample, File, Record, Source
from align_jax.types import AlignError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Files that say which records take part: those that they list, or those whose `column` allows it.

    `path`: .txt with one id a line, or .parquet, .csv or .jsonl with a column `id`; local or in a bucket, and a pattern
    where it is several files. `column`: a number in [min, max], or a text that is `equals`; a record without one, or
    with NaN, does not take part. None: all that are listed do.
    """

    path: str
    column: str | None = None
    min: float | None = None
    max: float | None = None
    equals: str | None = None

    def __post_init__(self):
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        ways = bool(bounds) + (self.equals is not None)
        if ways != (self.column is not None):
            raise AlignError(
                f"filter {self.path}: expected a column with min, max or both, or with equals, or none of them, found "
                f"column={self.column!r}, min={self.min!r}, max={self.max!r}, equals={self.equals!r}"
            )
        if any(bound != bound for bound in bounds):
            raise AlignError(f"filter {self.path}: expected numbers as min and max, found {self.min!r}, {self.max!r}")

    def read(self) -> tuple[pa.ChunkedArray, np.ndarray, list[File]]:
        """(ids as strings, bool: whether each may take part, what was read)."""
        kinds = {"id": pa.string()}
        if self.column is not None:
            kinds[self.column] = pa.float64() if self.equals is None else pa.string()
        found = [_read(file.path, kinds) for file in listing.expand(self.path, where=f"filter {self.path}")]
        table, read = pa.concat_tables(part for part, _ in found), [file for _, file in found]
        ids = table["id"]
        if ids.null_count:
            raise AlignError(f"filter {self.path}: expected an id in each row, found {ids.null_count} rows without one")
        if self.column is None:
            return ids, np.ones(len(ids), bool), read
        if self.equals is not None:
            same = pc.call_function("equal", [table[self.column], pa.scalar(self.equals)])
            return ids, same.fill_null(False).to_numpy(), read
        scores = table[self.column].to_numpy()  # null becomes NaN, which no bound allows
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        return ids, (scores >= low) & (scores <= high), read


class Filtered(Source):
    """The records of `source` at the indices `kept`, which rise."""

    def __init__(
        self,
        source: Source,
        kept: np.ndarray,
        problems: Mapping[str, int] = MappingProxyType({}),
        sidecars: Sequence[File] = (),
    ):
        if not len(kept):
            raise AlignError(f"filter: expected a record left of each part, found none of {len(source)}; leave it out")
        self._source, self._kept, self._sidecars = source, kept, tuple(sidecars)
        self.classes, self.object_classes = source.classes, source.object_classes
        self.problems = MappingProxyType(Counter(source.problems) + Counter(problems))
        if source.blocks is not None:  # those of which a record is left
            self.blocks = np.unique(np.searchsorted(kept, source.blocks))
            self.blocks = self.blocks[self.blocks < len(kept)]
        self.parts = []
        first = 0
        for part, weight in source.parts:
            low, high = np.searchsorted(kept, (first, first + len(part)))
            self.parts.append((Filtered(part, kept[low:high] - first), weight))
            first += len(part)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._kept[index])]

    def about(self, index: int) -> Record:
        """All of a record but its image."""
        return self._source.about(int(self._kept[index]))

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        mask = np.zeros(len(self._source), bool)
        mask[self._kept] = True
        return self._source.ids().filter(pa.array(mask))

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        for index in range(len(self)):
            try:
                yield from self.about(index).texts
            except BadExample:  # counted when it is met in training
                continue

    def files(self) -> list[File]:
        """The files of the source, and the sidecars."""
        return [*self._source.files(), *self._sidecars]


def filtered(source: Source, filter: Sequence[Mapping[str, Any]], *, where: str) -> Filtered:
    """The records that all sidecars of `filter` allow.

    `problems` counts what each left out of those that the ones before it allowed, and its ids that the source has not.

    Raises AlignError for a sidecar that cannot be read, an id that stands twice in a sidecar or in the source, or when
    no record is left.
    """
    ids = source.ids()
    allowed = np.ones(len(ids), bool)
    problems: Counter[str] = Counter()
    sidecars: list[File] = []
    for number, options in enumerate(filter):
        if isinstance(options, str):  # what a single sidecar, not in a list, comes apart into
            raise AlignError(f"{where}: expected filter as a list of {{'path': ...}}, found {options!r} in it")
        sidecar = call(Sidecar, options, where=f"{where}: filter[{number}]")
        listed, may, read = sidecar.read()
        sidecars += read
        rows = _rows(ids, listed, sidecar.path, where)
        known = rows < len(ids)
        problems[f"filter {sidecar.path}: id unknown to the source"] += int((~known).sum())
        has, passes = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        has[rows[known]] = True
        passes[rows[known]] = may[known]
        problems[f"filter {sidecar.path}: not listed"] += int((allowed & ~has).sum())
        problems[f"filter {sidecar.path}: refused by {sidecar.column}"] += int((allowed & has & ~passes).sum())
        allowed &= passes
    if not allowed.any():
        counts = ", ".join(f"{count} {reason}" for reason, count in (+problems).items())
        raise AlignError(f"{where}: expected a record that its filter allows, found none of {len(ids)} ({counts})")
    pa.default_memory_pool().release_unused()  # what the dictionaries took
    return Filtered(source, np.flatnonzero(allowed), +problems, sidecars)


def drawn(source: Source, share: float, seed: int, *, where: str) -> Filtered:
    """About `share` of the records, drawn by id and seed: which one is drawn depends on no other record."""
    if not 0 < share < 1:
        raise AlignError(f"{where}: expected 0 < share <= 1, found {share}")
    key = hashlib.blake2b(f"{seed}".encode(), digest_size=8).digest()
    numbers = (_number(f"{found}", key) for chunk in source.ids().chunks for found in chunk)
    kept = np.flatnonzero(np.fromiter(numbers, np.float64, len(source)) < share)
    return Filtered(source, kept, sidecars=[File(f"share {share} by seed {seed}", len(kept), 0, f"{share}-{seed}")])


def _number(name: str, key: bytes) -> float:
    """In [0, 1)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), key=key, digest_size=6).digest()) / 2**48


def _rows(ids: pa.ChunkedArray, listed: pa.ChunkedArray, path: str, where: str) -> np.ndarray:
    """int32 [listed]: the record of each listed id, or a number from len(ids) on where the source has no such id."""
    # One dictionary over both: its codes count up where an id is met for the first time.
    joined = pa.chunked_array([*ids.chunks, *listed.chunks], pa.string()).dictionary_encode()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in joined.chunks])
    of_source, of_listed = codes[: len(ids)], codes[len(ids) :]
    for found, names, name in ((of_source, ids, where), (of_listed, listed, f"filter {path}")):
        counts = np.bincount(found)
        if len(found) and counts.max() > 1:
            twice = names[int(np.flatnonzero(found == counts.argmax())[0])].as_py()
            raise AlignError(f"{name}: expected each id once, to filter by ids, found {twice!r} {counts.max()} times")
    return of_listed


def _read(path: str, kinds: dict[str, pa.DataType]) -> tuple[pa.Table, File]:
    """The columns `kinds`, null where there is no value; and the file."""
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if len(kinds) == 1:
        readers[".txt"] = _read_txt
    suffix = PurePosixPath(path).suffix
    if suffix not in readers:
        raise AlignError(f"filter {path}: expected a file that ends in one of {sorted(readers)}, found {suffix!r}")
    words = {pa.string(): "string", pa.float64(): "number"}
    expected = " and ".join(f"{name} (a {words[kind]})" for name, kind in kinds.items())
    try:
        data = storage.read(path)
        table = readers[suffix](pa.BufferReader(data), kinds)
    except FileNotFoundError as error:
        raise AlignError(f"filter {path}: expected a file, found none; check data.source.filter") from error
    except (pa.ArrowException, OSError) as error:
        found = " ".join(str(error).split())
        raise AlignError(f"filter {path}: expected {expected} in each row, found: {found}") from error
    for name in kinds:
        if name not in table.column_names or table[name].null_count == len(table):
            raise AlignError(f"filter {path}: expected {expected} in each row, found no {name}")
    return table, File(path, len(table), len(data), hashlib.blake2b(data, digest_size=8).hexdigest())


def _read_parquet(file: Any, kinds: dict[str, pa.DataType]) -> pa.Table:
    contents = pq.ParquetFile(file)
    table = contents.read([name for name in kinds if name in contents.schema_arrow.names])
    return table.cast(pa.schema([(name, kinds[name]) for name in table.column_names]))


def _read_csv(file: Any, kinds: dict[str, pa.DataType]) -> pa.Table:
    convert = csv.ConvertOptions(column_types=kinds, include_columns=list(kinds))  # "007" and "NA" are ids as they are
    return csv.read_csv(file, convert_options=convert)


def _read_txt(file: Any, kinds: dict[str, pa.DataType]) -> pa.Table:
    one_column = csv.ParseOptions(delimiter="\x1f", quote_char=False)  # a character that ends no id
    convert = csv.ConvertOptions(column_types=kinds)
    return csv.read_csv(file, csv.ReadOptions(column_names=["id"]), one_column, convert)


def _read_jsonl(file: Any, kinds: dict[str, pa.DataType]) -> pa.Table:
    parse = json.ParseOptions(explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore")
    return json.read_json(file, parse_options=parse)
