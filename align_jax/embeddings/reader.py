"""Reads a folder of embeddings: the rows of all its parts as one, mapped, not loaded."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.embeddings.layout import Layout, read_facts
from align_jax.types import AlignError


class Rows:
    """Rows f32 [n, D] of several arrays one after the other, read where they are asked for.

    `chosen`, int64, are the rows that count, in their order; None: all of them.
    """

    def __init__(self, arrays: Sequence[np.ndarray], chosen: np.ndarray | None = None):
        self._arrays, self._chosen = arrays, chosen
        self._firsts = np.cumsum([0, *map(len, arrays)])
        self.shape = (int(self._firsts[-1]) if chosen is None else len(chosen), arrays[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """f32 [k, D]; a view where they lie together in one f32 array."""
        if self._chosen is not None:
            return self._at(self._chosen[rows])
        if isinstance(rows, slice) and rows.step is None:
            return self._between(*rows.indices(len(self))[:2])
        return self._at(np.arange(len(self))[rows])

    def choose(self, rows: np.ndarray) -> "Rows":
        """Some of them, in the order of `rows`, int64."""
        return Rows(self._arrays, rows if self._chosen is None else self._chosen[rows])

    def _between(self, start: int, stop: int) -> np.ndarray:
        """Of the arrays, whatever is chosen."""
        parts = [
            array[max(start - first, 0) : stop - first]
            for array, first in zip(self._arrays, self._firsts[:-1].tolist(), strict=True)
            if first < stop and start < first + len(array)
        ] or [self._arrays[0][:0]]
        return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), np.float32)

    def _at(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.shape[1]), np.float32)
        owners = np.searchsorted(self._firsts, rows, side="right") - 1
        for owner in np.unique(owners):
            own = owners == owner
            found[own] = self._arrays[owner][rows[own] - self._firsts[owner]]
        return found


class Embeddings:
    """A folder in which every part is finished.

    Attributes: facts; left_out (reason -> records of the source without a row); texts_left_out (reason -> texts).
    """

    def __init__(self, folder: Path):
        """AlignError where a part is not finished, or damaged."""
        self.facts = read_facts(folder)
        self._layout = layout = Layout(folder, self.facts)
        if len(layout.finished) < self.facts.parts:
            raise AlignError(
                f"{folder}: expected {self.facts.parts} finished parts, found {len(layout.finished)}; start what makes "
                "them again, it goes on"
            )
        self._counts = [layout.finished[part]["rows"] for part in range(self.facts.parts)]
        self.left_out = _sum(layout, "left_out")
        self.texts_left_out = _sum(layout, "texts_left_out")

    def __len__(self) -> int:
        return sum(self._counts)

    @cached_property
    def images(self) -> Rows:
        """Unit rows of the pictures, [n, D]."""
        return Rows([self._array(self._layout.images(part), count) for part, count in self._given()])

    @cached_property
    def texts(self) -> Rows:
        """Unit rows of the captions, [n, D]: row i is the caption of picture i."""
        if self.facts.captions == "none":
            raise AlignError(f"{self._layout.folder}: expected embeddings of captions, found those of pictures alone")
        return Rows([self._array(self._layout.texts(part), count) for part, count in self._given()])

    def metadata(self, columns: Sequence[str] | None = None) -> pa.Table:
        """n rows, by default of all columns."""
        paths = [self._layout.metadata(part) for part, _ in self._given()]
        return pa.concat_tables(pq.read_table(path, columns=columns) for path in paths)

    def _given(self) -> list[tuple[int, int]]:
        """(part, rows) of the parts that have any; AlignError where none has."""
        given = [(part, count) for part, count in enumerate(self._counts) if count]
        if not given:
            raise AlignError(f"{self._layout.folder}: expected embeddings, found no row: {listed(self.left_out)}")
        return given

    def _array(self, path: Path, count: int) -> np.ndarray:
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise AlignError(f"{path}: expected {count:,} rows, found {error}; delete that folder") from error
        if len(found) != count:
            raise AlignError(f"{path}: expected {count:,} rows, found {len(found):,}; delete that folder")
        return found


def _sum(layout: Layout, key: str) -> Counter[str]:
    return sum((Counter(counts[key]) for counts in layout.finished.values()), Counter())


def listed(counts: Counter[str]) -> str:
    """'2 image unreadable, 1 text missing', or nothing."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def summary(folder: Path) -> str:
    """What stands in a folder, finished or not, in one line."""
    facts = read_facts(folder)
    layout = Layout(folder, facts)
    finished = layout.finished
    if len(finished) < facts.parts:
        return (
            f"{folder}: {len(finished):,} of {facts.parts:,} parts are finished; the others are those of other "
            "processes: wait for them, or start those again that have ended"
        )
    rows = sum(counts["rows"] for counts in finished.values())
    kind = "pictures" if facts.captions == "none" else "pairs"
    line = (
        f"{folder}: {rows:,} {kind} of {facts.records:,} records, {facts.parts:,} part{'s' if facts.parts > 1 else ''}"
    )
    if left_out := listed(_sum(layout, "left_out")):
        line += f"; left out: {left_out}"
    if texts := listed(_sum(layout, "texts_left_out")):
        line += f"; texts left out: {texts}"
    return line
