"""Position = step (design decision 6): row r of step s is position s * N + r of one seeded order.

The order is endless: each epoch visits every record once, in a new order. What a position yields depends on (seed,
position) alone, so a resumed run, or one on more hosts, sees the same examples, and a checkpoint keeps no reader state.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import grain
import numpy as np

from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError

ATTEMPTS = 100  # draws for one position before the data set is called unusable
Skip = dict[str, Any]  # {"position", "id", "reason"} of a record that was replaced


@dataclasses.dataclass(frozen=True)
class Stream:
    """The training rows of one process, by step."""

    source: Source
    transform: Callable[[Record, np.random.Generator], dict[str, np.ndarray]]
    batch_size: int  # rows of the global batch
    rows: range  # those that this process reads
    steps: int
    seed: int
    threads: int = 2  # readers; PNG, JPEG and resizing release the interpreter lock
    prefetch: int = 4  # batches that each reader reads ahead

    def from_step(self, start: int) -> Iterator[tuple[dict[str, np.ndarray], list[Skip]]]:
        """Yields (local rows of the batch, what was skipped to fill them) from step `start` on."""
        rows = _Rows(self)
        batches = grain.MapDataset.source(rows).batch(len(self.rows), batch_fn=_collate)[start:]
        ahead = self.prefetch * self.threads
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)))

    def ids(self, step: int) -> list[str]:
        """Placeholder until the order lands."""
        return []


class _Rows:
    """Random access to the rows of this process, step after step."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._order = grain.MapDataset.range(len(stream.source)).seed(stream.seed).shuffle().repeat()

    def __len__(self) -> int:
        return self._stream.steps * len(self._stream.rows)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], list[Skip]]:
        stream = self._stream
        step, row = divmod(int(index), len(stream.rows))
        position = step * stream.batch_size + stream.rows[row]
        skips: list[Skip] = []
        for attempt in range(ATTEMPTS):
            # A bad record is replaced by a draw that depends on (seed, position, attempt) alone.
            rng = np.random.default_rng((stream.seed, position, attempt))
            record_index = (
                int(cast(int, self._order[position])) if attempt == 0 else int(rng.integers(len(stream.source)))
            )
            name = f"record {record_index}"
            try:
                record = stream.source[record_index]
                name = record.id
                return stream.transform(record, rng), skips
            except BadExample as bad:
                skips.append({"position": position, "id": name, "reason": str(bad)})
        reasons = sorted({skip["reason"] for skip in skips})
        raise AlignError(f"data: {ATTEMPTS} records in a row cannot be used ({', '.join(reasons)}); check data.source")


def _collate(rows: Sequence[tuple[dict[str, np.ndarray], list[Skip]]]) -> tuple[dict[str, np.ndarray], list[Skip]]:
    arrays = {name: np.stack([row[name] for row, _ in rows]) for name in rows[0][0]}
    return arrays, [skip for _, skips in rows for skip in skips]
