"""Texts and images that do not belong together: drawn from the source, or from a table of hard ones.

Both come from records by their places in the source, so that a table that a model has mined takes the same path as a
draw. What shows the same thing, by its group or by one of its texts, is never a negative.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError

ATTEMPTS = 100
COLUMNS = ("id", "texts", "images")  # of a table: a record, texts that are near its image, records near its texts


class Negatives:
    """Of the records of one source."""

    def __init__(self, source: Source, *, path: str = "", hard: float = 1.0):
        """`path`: a parquet file as `align_jax.mine` writes it; empty: none. `hard`: how often a record that is in it
        gets its negative from there."""
        if not 0 <= hard <= 1:
            raise AlignError(f"config.data.negatives.hard: expected a share of 0 to 1, found {hard}")
        self._source, self._hard = source, hard if path else 0.0
        self._texts: Mapping[str, Sequence[str]] = {}
        self._images: Mapping[str, Sequence[str]] = {}
        self._places: Mapping[str, int] = {}
        if path:
            self._texts, self._images = read(path)
            self._places = {name.as_py(): index for index, name in enumerate(source.ids())}
            if not self._texts.keys() & self._places.keys():
                raise AlignError(
                    f"config.data.negatives.path: expected negatives of records of config.data.source, found none in "
                    f"{path}; mine them from this source"
                )

    def text(self, record: Record, rng: np.random.Generator) -> str:
        """A text that does not belong to the record's image."""
        own = {_plain(text) for text in record.texts}
        mined = self._texts.get(record.id, ())
        for _ in range(ATTEMPTS):
            if mined and rng.random() < self._hard:
                text = mined[rng.integers(len(mined))]
            else:
                other = self._source.about(int(rng.integers(len(self._source))))
                texts = [text for text in other.texts if text.strip()]
                if not texts or other.group == record.group or other.id == record.id:
                    continue
                text = texts[rng.integers(len(texts))]
            if _plain(text) not in own:
                return text
        raise BadExample("no negative text found")

    def image(self, record: Record, text: str, rng: np.random.Generator) -> Record:
        """A record to whose image the text, one of `record`, does not belong."""
        mined = [name for name in self._images.get(record.id, ()) if name in self._places]
        for _ in range(ATTEMPTS):
            if mined and rng.random() < self._hard:
                place = self._places[mined[rng.integers(len(mined))]]
            else:
                place = int(rng.integers(len(self._source)))
            other = self._source.about(place)
            if other.group == record.group or other.id == record.id:
                continue
            if _plain(text) not in {_plain(one) for one in other.texts}:
                return self._source[place]
        raise BadExample("no negative image found")


def read(path: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """({record: texts}, {record: records}) of a table. AlignError where it is none."""
    if not Path(path).is_file():
        raise AlignError(f"config.data.negatives.path: expected a file of align_jax.mine, found no {path}")
    try:
        table = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    except Exception as error:  # pyarrow raises its own kinds for what is no parquet, KeyError for missing columns
        raise AlignError(
            f"config.data.negatives.path: expected a parquet file with columns {', '.join(COLUMNS)}, found none in "
            f"{path} ({' '.join(str(error).split())})"
        ) from error
    ids = table["id"]
    return dict(zip(ids, table["texts"], strict=True)), dict(zip(ids, table["images"], strict=True))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
