"""Which record stands at which position of a run: endless, and a function of (seed, position) alone.

`shuffle` of `make` is `config.data.shuffle`:
  global  each epoch visits every record once, any record anywhere.
  blocks  each epoch visits every record once, but what is cheap to read together (`Source.blocks`) comes together: the
          blocks are permuted, and the records of `window` blocks that follow one another are permuted among themselves.
  auto    blocks where the source has them, global otherwise.
A mixture orders each of its parts so, by itself, and takes them in turns by weight.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol, cast

import grain
import numpy as np

from align_jax.data.source import Source
from align_jax.types import AlignError


class Order(Protocol):
    """Positions 0, 1, ... to record indices. Safe to share between threads."""

    def record(self, position: int) -> int:
        """The record at a position."""
        ...

    def another(self, position: int, rng: np.random.Generator) -> int:
        """A record drawn in its place, should it be unusable; from the same part of a mixture."""
        ...


def make(source: Source, *, seed: int, shuffle: str, window: int) -> Order:
    """The order of a source's records; `window` is in blocks."""
    if shuffle not in ("auto", "global", "blocks"):
        raise AlignError(f"config.data.shuffle: expected 'auto', 'global' or 'blocks', found {shuffle!r}")
    if window < 1:
        raise AlignError(f"config.data.shuffle_window: expected at least 1 block, found {window}")
    if source.parts:
        parts = [
            make(part, seed=_seed(seed, number), shuffle=shuffle, window=window)
            for number, (part, _) in enumerate(source.parts)
        ]
        return Turns(parts, [len(part) for part, _ in source.parts], [weight for _, weight in source.parts])
    if shuffle == "global" or (shuffle == "auto" and source.blocks is None):
        return Global(len(source), seed)
    if source.blocks is None:
        raise AlignError(
            "config.data.shuffle: expected a source that is stored in blocks, found one where any record costs the "
            "same; set it to 'auto' or 'global'"
        )
    return Blocks(source.blocks, len(source), seed, window)


class Global:
    """A new permutation of all `count` records in each epoch, of which nothing is held in memory."""

    def __init__(self, count: int, seed: int):
        self._count = count
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def record(self, position: int) -> int:
        """The record at a position."""
        return int(cast(int, self._order[position]))

    def another(self, position: int, rng: np.random.Generator) -> int:
        """Any record."""
        return int(rng.integers(self._count))


class _Epoch(NamedTuple):
    """The blocks of one epoch in their order."""

    starts: np.ndarray  # first record of each
    offsets: np.ndarray  # [blocks + 1]: records of the epoch that come before each


class Blocks:
    """Blocks are permuted anew in each epoch; the records of `window` of them in a row are permuted among themselves.

    Held in memory: 16 bytes a block for each of the last few epochs, 4 bytes a record for each of the last few windows.
    """

    def __init__(self, blocks: np.ndarray, count: int, seed: int, window: int):
        """`blocks`: first records, rising from 0; `count`: all records."""
        self._starts = np.asarray(blocks, np.int64)
        self._sizes = np.diff(self._starts, append=count)
        if self._starts[0] != 0 or (self._sizes < 1).any():
            raise ValueError(f"blocks: expected first records that rise from 0 to below {count}, found {blocks}")
        self._count, self._seed, self._window = count, seed, window
        # Readers that run ahead stand in two epochs, and in a few windows, at once.
        self._epoch = functools.lru_cache(4)(self._make_epoch)
        self._shuffled = functools.lru_cache(32)(self._make_shuffled)

    def record(self, position: int) -> int:
        """The record at a position."""
        number, place = divmod(position, self._count)
        epoch = self._epoch(number)
        window = (int(np.searchsorted(epoch.offsets, place, side="right")) - 1) // self._window
        first = int(epoch.offsets[window * self._window])
        place = first + int(self._shuffled(number, window)[place - first])
        block = int(np.searchsorted(epoch.offsets, place, side="right")) - 1
        return int(epoch.starts[block] + place - epoch.offsets[block])

    def another(self, position: int, rng: np.random.Generator) -> int:
        """Any record, not one of the same blocks: they may be damaged together."""
        return int(rng.integers(self._count))

    def _make_epoch(self, number: int) -> _Epoch:
        order = np.random.default_rng((self._seed, number)).permutation(len(self._starts))
        return _Epoch(self._starts[order], np.concatenate([[0], np.cumsum(self._sizes[order])]))

    def _make_shuffled(self, number: int, window: int) -> np.ndarray:
        offsets = self._epoch(number).offsets[window * self._window :][: self._window + 1]
        places = np.arange(offsets[-1] - offsets[0], dtype=np.uint32)
        # NumPy takes (a, b) and (a, b, 0) for the same seed, and the first is that of the blocks.
        return np.random.default_rng((self._seed, number, window + 1)).permutation(places)


class Turns:
    """Orders that take turns by weight.

    Among the first p positions, for any p, a part has its share of p but for less than 1 + ln(number of parts).
    """

    def __init__(self, orders: Sequence[Order], counts: Sequence[int], weights: Sequence[float]):
        """`counts`: records of each part; their indices follow one another."""
        self._orders = orders
        self._firsts = [sum(counts[:number]) for number in range(len(counts))]
        exact = [Fraction(str(weight)) for weight in weights]  # of what was written: 0.1 is a tenth
        unit = math.lcm(*(weight.denominator for weight in exact))
        shares = [int(weight * unit) for weight in exact]
        self._total = sum(shares)
        self._shares = sorted(enumerate(shares), key=lambda item: -item[1])  # the bound needs the largest first

    def record(self, position: int) -> int:
        """The record at a position."""
        part, place = self._turn(position)
        return self._firsts[part] + self._orders[part].record(place)

    def another(self, position: int, rng: np.random.Generator) -> int:
        """A record of the same part."""
        part, place = self._turn(position)
        return self._firsts[part] + self._orders[part].another(place, rng)

    def _turn(self, position: int) -> tuple[int, int]:
        """Whose turn it is, and how many it has had.

        The first part gets a position whenever its share of the positions so far reaches the next whole number; what it
        leaves is dealt among the others in the same way.
        """
        left = self._total
        for part, share in self._shares:
            had = position * share // left
            if (position + 1) * share // left > had:
                return part, had
            position, left = position - had, left - share
        raise AssertionError("the last part takes what is left")


def _seed(*numbers: int) -> int:
    """32 bits that differ for other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
