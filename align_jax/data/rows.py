"""What a shard holds, gathered while it is read from end to end: its records, and what is no record."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from align_jax.data import captions
from align_jax.data.source import BadExample

BATCH = 1 << 16  # rows of one Arrow batch


class BadShard(Exception):
    """The rest of a shard that cannot be read, for good. `str` is the reason; `key` what it broke off at, or empty."""

    def __init__(self, reason: str, key: str = ""):
        super().__init__(reason)
        self.key = key


class Problem(NamedTuple):
    """Something in a shard that is no record."""

    reason: str
    key: str  # empty where it concerns the shard


def schema(places: Sequence[str]) -> pa.Schema:
    """Of the rows of a shard. `places`: where a record stands in it, whole numbers that its format knows."""
    known = {"id": pa.string(), "texts": pa.list_(pa.large_string()), "group": pa.string(), "label": pa.string()}
    return pa.schema(known | dict.fromkeys(places, pa.int64()))


class Rows:
    """Collects the records of one shard, in order, and counts its problems by reason."""

    def __init__(self, prefix: str, places: Sequence[str]):
        """`prefix`: what tells its keys from those of other shards."""
        self.problems: list[Problem] = []
        self._prefix, self._schema = prefix, schema(places)
        self._seen: set[str] = set()
        self._batches: list[pa.RecordBatch] = []
        self._clear()

    def add(
        self,
        key: str,
        texts: Iterable[bytes | str],
        *,
        group: str | None = None,
        label: str | None = None,
        **place: int,
    ) -> None:
        """A record, or a problem where its key was there before (the first stands) or no text can be used."""
        try:
            if key in self._seen:
                raise BadExample("key repeated")
            self._seen.add(key)
            clean = captions.usable(texts)
        except BadExample as bad:
            self.problem(str(bad), key)
            return
        row: dict[str, Any] = {"id": f"{self._prefix}/{key}", "texts": clean, "group": group, "label": label} | place
        for name, values in self._columns.items():
            values.append(row[name])
        if len(self._columns["id"]) == BATCH:
            self._flush()

    def problem(self, reason: str, key: str = "") -> None:
        """Something that is no record."""
        self.problems.append(Problem(reason, key))

    def table(self) -> pa.Table:
        """The records so far."""
        if self._columns["id"]:
            self._flush()
        return pa.Table.from_batches(self._batches, self._schema)

    def _flush(self) -> None:
        self._batches.append(pa.record_batch(self._columns, schema=self._schema))
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
