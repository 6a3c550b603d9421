"""Several sources in one, each with a weight: its share of the training rows, whatever its size."""

import bisect
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from align_jax.data.source import File, Record, Source, make
from align_jax.types import AlignError


class Mixture(Source):
    """The records of all parts, one part after the other; in training each part goes through epochs of its own.

    Ids and groups get the number of their part in front, "0/1f600": two sources may use the same.

    Args:
      sources: each {"name": ..., "weight": 2.0, ...}: the options of a source, its `filter` among them, and its weight
        (1 if left out). A part of weight 2 is read twice as often as one of weight 1.

    Raises AlignError for a weight that is not a positive number, a part that cannot be opened or is empty, or parts
    with different classes, of images or of objects; a part may have none.
    """

    def __init__(self, *, sources: Sequence[Mapping[str, Any]]):
        if not sources:
            raise AlignError("data.source.sources: expected at least one source of the mixture, found none")
        self.parts = [_part(number, options) for number, options in enumerate(sources)]
        self._sources = [part for part, _ in self.parts]
        self._firsts = [0]
        for part in self._sources:
            self._firsts.append(self._firsts[-1] + len(part))
        self.classes = self._same("classes", "leave out the labels of one")
        self.object_classes = self._same("object_classes", "give only one")
        self.problems = MappingProxyType(
            {
                f"{reason} (source {number})": count
                for number, part in enumerate(self._sources)
                for reason, count in part.problems.items()
            }
        )

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, index: int) -> Record:
        number, part, place = self._part_of(index)
        return _numbered(number, part[place])

    def about(self, index: int) -> Record:
        """All of a record but its image."""
        number, part, place = self._part_of(index)
        return _numbered(number, part.about(place))

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        chunks = [
            pc.call_function("binary_join_element_wise", [pa.scalar(str(number)), chunk, pa.scalar("/")])
            for number, part in enumerate(self._sources)
            for chunk in part.ids().chunks
        ]
        return pa.chunked_array(chunks, pa.string())

    def texts(self) -> Iterator[str]:
        """All texts, in order; weights do not count here."""
        return (text for part in self._sources for text in part.texts())

    def files(self) -> list[File]:
        """The files of all parts."""
        return [file for part in self._sources for file in part.files()]

    def _part_of(self, index: int) -> tuple[int, Source, int]:
        """(number of the part, the part, the record's index in it)."""
        number = bisect.bisect_right(self._firsts, index) - 1
        return number, self._sources[number], index - self._firsts[number]

    def _same(self, name: str, help: str) -> tuple[str, ...]:
        """The attribute of all parts that have such names."""
        found: dict[tuple[str, ...], int] = {}
        for number, part in enumerate(self._sources):
            if names := getattr(part, name):
                found.setdefault(names, number)
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise AlignError(
                f"data.source.sources: expected the same {name.replace('_', ' ')} in all parts that have any, found "
                f"{len(one)} in source {first} and {len(other)} others in source {second}; {help}"
            )
        return next(iter(found), ())


def _numbered(number: int, record: Record) -> Record:
    return dataclasses.replace(record, id=f"{number}/{record.id}", group=f"{number}/{record.group}")


def _part(number: int, given: Mapping[str, Any]) -> tuple[Source, float]:
    if isinstance(given, str):  # what a single source, not in a list, comes apart into
        raise AlignError(f"data.source.sources: expected a list of {{'name': ...}}, found {given!r} in it")
    options = dict(given)
    weight = options.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise AlignError(
            f"data.source.sources[{number}].weight: expected a positive number, found {weight!r}; leave the source out "
            "to read nothing of it"
        )
    try:
        return make(**options), weight
    except AlignError as error:
        raise AlignError(f"data.source.sources[{number}]: {error}") from error
