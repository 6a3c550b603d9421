"""Texts and images that do not belong together: drawn from the source, or from a table of hard ones.

Both come from records by their places in the source, so that a table that a model has mined takes the same path as a
draw. What shows the same thing, by its group or by one of its texts, is never a negative.
"""

from collections.abc import Collection

import numpy as np

from align_jax.data.hard_negatives import HardNegatives
from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError

ATTEMPTS = 100


class Negatives:
    """Of the records of one source."""

    def __init__(self, source: Source, *, path: str = "", hard: float = 1.0):
        """`path`: a table of hard negatives, as `align_jax.mine` writes it; empty: none. `hard`: how often a record
        gets its negative from there; one of which the table has none, or no other, gets a random one.
        """
        if not 0 <= hard <= 1:
            raise AlignError(f"config.data.negatives.hard: expected a share of 0 to 1, found {hard}")
        self._source, self._hard = source, hard
        self._mined = HardNegatives(path, source) if path else None

    @property
    def digest(self) -> str:
        """Of the table; empty: there is none."""
        return self._mined.digest if self._mined else ""

    def text(self, record: Record, rng: np.random.Generator, *, without: Collection[str] = ()) -> str:
        """A text that does not belong to the record's image and is none of `without`."""
        taken = {plain(text) for text in (*record.texts, *without)}
        if self._mined is not None and rng.random() < self._hard:
            mined = [text for text in self._mined.texts(record.id) if plain(text) not in taken]
            if mined:
                return mined[rng.integers(len(mined))]
        for _ in range(ATTEMPTS):
            other = self._source.about(int(rng.integers(len(self._source))))
            texts = [text for text in other.texts if text.strip()]
            if not texts or other.group == record.group or other.id == record.id:
                continue
            text = texts[rng.integers(len(texts))]
            if plain(text) not in taken:
                return text
        raise BadExample("no negative text found")

    def image(self, record: Record, text: str, rng: np.random.Generator, *, without: Collection[str] = ()) -> Record:
        """A record to whose image the text, one of `record`, does not belong; its id is none of `without`."""

        def fits(place: int) -> bool:
            other = self._source.about(place)
            if other.group == record.group or other.id == record.id or other.id in without:
                return False
            return plain(text) not in map(plain, other.texts)

        if self._mined is not None and rng.random() < self._hard:
            for place in rng.permutation(self._mined.images(record.id)).astype(np.int64).tolist():
                if fits(place):
                    return self._source[place]
        for _ in range(ATTEMPTS):
            place = int(rng.integers(len(self._source)))
            if fits(place):
                return self._source[place]
        raise BadExample("no negative image found")


def plain(text: str) -> str:
    """By which texts are equal."""
    return " ".join(text.lower().split())
