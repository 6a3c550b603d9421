"""Position = step (design decision 6): row r of step s is position s * N + r of one seeded order (data/order.py).

What a position yields depends on (seed, position) alone, so a resumed run, or one on more hosts, sees the same
examples, and a checkpoint keeps no reader state. A record that is bad for good is replaced by a draw from (seed,
position, attempt); an error of the storage is waited out, and stops the run if it stays.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from align_jax.data import order as orders
from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError

ATTEMPTS = 100  # draws for one position before the data set is called unusable
WAITS = (1.0, 5.0, 25.0)  # seconds before a record that the storage did not give is asked for again
REMEMBERED = 1000  # steps of which the replaced records are known
Row = dict[str, np.ndarray]
Skip = dict[str, Any]  # {"position", "id", "reason"} of a record that was replaced


@dataclasses.dataclass(frozen=True)
class Stream:
    """The training rows of one process, by step."""

    source: Source
    transform: Callable[[Record, np.random.Generator], Row]
    batch_size: int  # rows of the global batch
    rows: range  # those that this process reads
    steps: int
    seed: int
    shuffle: str = "auto"  # align_jax/data/order.py says what these are
    window: int = 16  # blocks that are shuffled together
    threads: int = 2  # readers; PNG, JPEG and resizing release the interpreter lock
    prefetch: int = 4  # batches that each reader reads ahead
    _order: orders.Order = dataclasses.field(init=False, repr=False)
    # Step -> position -> how many records were skipped there, of the last steps that were read.
    _replaced: dict[int, Counter[int]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        order = orders.make(self.source, seed=self.seed, shuffle=self.shuffle, window=self.window)
        object.__setattr__(self, "_order", order)

    def from_step(self, start: int) -> Iterator[tuple[Row, list[Skip]]]:
        """Yields (local rows of the batch, what was skipped to fill them) from step `start` on."""
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.prefetch * self.threads)
        for step, (batch, skips) in enumerate(self.batches()[start:].to_iter_dataset(options), start):
            self._replaced[step] = Counter(skip["position"] for skip in skips)
            self._replaced.pop(step - REMEMBERED, None)
            yield batch, skips

    def batches(self) -> grain.MapDataset:
        """What `from_step` yields, at random access by step."""
        return grain.MapDataset.source(_Rows(self)).batch(len(self.rows), batch_fn=_collate)

    def ids(self, step: int) -> list[str]:
        """The ids of the records in this process's rows of a step.

        Of one of the last thousand steps that were read, these are the records that were used. Of any other, those that
        the order puts there, not knowing which of them were bad and replaced.
        """
        ids = self.source.ids()
        replaced = self._replaced.get(step, Counter())
        positions = [step * self.batch_size + row for row in self.rows]
        return [ids[self.record(position, replaced[position])[0]].as_py() for position in positions]

    def record(self, position: int, attempt: int = 0) -> tuple[int, np.random.Generator]:
        """(index of the record at a position once `attempt` were found to be bad, the random numbers of its visit)."""
        rng = np.random.default_rng((self.seed, position, attempt))
        return self._order.another(position, rng) if attempt else self._order.record(position), rng


class _Rows:
    """Random access to the rows of this process, step after step."""

    def __init__(self, stream: Stream):
        self._stream = stream

    def __len__(self) -> int:
        return self._stream.steps * len(self._stream.rows)

    def __getitem__(self, index: int) -> tuple[Row, list[Skip]]:
        stream = self._stream
        step, row = divmod(int(index), len(stream.rows))
        position = step * stream.batch_size + stream.rows[row]
        skips: list[Skip] = []
        for attempt in range(ATTEMPTS):
            found = self._visit(position, attempt, skips)
            if found is not None:
                return found, skips
        reasons = sorted({skip["reason"] for skip in skips})
        raise AlignError(f"data: {ATTEMPTS} records in a row cannot be used ({', '.join(reasons)}); check data.source")

    def _visit(self, position: int, attempt: int, skips: list[Skip]) -> Row | None:
        """The row; None where the record cannot be used, once the reason is among `skips`."""
        stream = self._stream
        for wait in (*WAITS, None):
            index, rng = stream.record(position, attempt)  # anew each time: a visit that broke off may have drawn
            name = f"record {index}"
            try:
                record = stream.source[index]
                name = record.id
                return stream.transform(record, rng)
            except BadExample as bad:
                skips.append({"position": position, "id": name, "reason": str(bad)})
                return None
            except OSError as error:
                if wait is None:
                    raise AlignError(
                        f"data: could not read {name} in {len(WAITS) + 1} tries over {sum(WAITS):.0f} s "
                        f"({' '.join(str(error).split())}); check the storage, then run the same command again"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _collate(rows: Sequence[tuple[dict[str, np.ndarray], list[Skip]]]) -> tuple[dict[str, np.ndarray], list[Skip]]:
    arrays = {name: np.stack([row[name] for row, _ in rows]) for name in rows[0][0]}
    return arrays, [skip for _, skips in rows for skip in skips]
