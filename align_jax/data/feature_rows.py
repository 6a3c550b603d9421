"""Training rows of features that frozen towers made once of a source's pictures and texts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from align_jax.data.pairs import Pairs
from align_jax.data.source import BadExample, Record, Source


@dataclasses.dataclass(frozen=True)
class Features:
    """In memory: 4 bytes for each number of each picture and of each distinct text."""

    images: np.ndarray  # f32 [records, C]
    bad: Mapping[int, str]  # record whose picture cannot be read -> reason
    texts: np.ndarray  # f32 [distinct texts, width]
    which: np.ndarray  # int64: for each text that is not blank, record by record, its row in `texts`; -1: no word in it
    starts: np.ndarray  # int64 [records]: where the texts of a record begin in `which`


@dataclasses.dataclass(frozen=True)
class Numbered(Record):
    """A record that knows its place in the source."""

    index: int = -1


class FeatureRows(Source):
    """The records of `source` without their pictures, and `train`, which gives the rows that `pairs` would give of
    them, with features in place of what the towers read.
    """

    def __init__(self, source: Source, pairs: Pairs, features: Features):
        self._source, self._pairs, self._features = source, pairs, features
        self.classes, self.blocks, self.problems, self.parts = (
            source.classes, source.blocks, source.problems, source.parts
        )  # fmt: skip
        self.ids, self.texts, self.files = source.ids, source.texts, source.files

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Numbered:
        about = self._source.about(index)
        return Numbered(about.id, "", about.texts, about.group, about.label, about.text_ids, index=index)

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """{"image_features": f32 [C], "text_features": f32 [width], "ids"}: one visit, drawn as `Pairs.train` does."""
        assert isinstance(record, Numbered)
        number, text = self._pairs.draw(record, rng)
        row = self._features.which[self._features.starts[record.index] + number]
        if row < 0:
            raise BadExample("text empty")
        if record.index in self._features.bad:
            raise BadExample(self._features.bad[record.index])
        return {
            "image_features": self._features.images[record.index],
            "text_features": self._features.texts[row],
            "ids": self._pairs.ids(record, text),
        }
