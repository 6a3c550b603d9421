"""Step A, shard by shard: everything is read, decoded and resized once, and what the rules need is written down.

A shard's folder holds
  records.parquet      a row per record: RECORDS, and a column "score:NAME" for each of `config.measures`
  ngrams.npy           uint64 [2, n]: hashes of all unigrams and bigrams of its texts, and how often each occurs
  images.array_record  the resized JPEG of each record, empty where there is none

The pictures are kept as ArrayRecord, since step C wants some of them, in order: a parquet row
group would be read whole for one. What is written depends on the source and the config alone.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from align_jax.curation import array_records, measures, ngrams
from align_jax.curation.candidates import Candidates
from align_jax.curation.perceptual import phash
from align_jax.data import images
from align_jax.data.source import BadExample, Source
from align_jax.types import AlignError

RECORDS = pa.schema([
    ("id", pa.string()), ("group", pa.string()), ("label", pa.int32()),
    ("reason", pa.string()),  # why the picture cannot be read, or ""; then the next four are 0
    ("width", pa.int32()), ("height", pa.int32()),  # pixels, before resizing
    ("image_hash", pa.uint64()),  # of the resized JPEG: equal for equal pixels
    ("phash", pa.uint64()),
    ("texts", pa.list_(pa.string())),  # candidates
    ("words", pa.list_(pa.int32())),  # unigrams of each text
    ("text_hashes", pa.list_(pa.uint64())),  # of the unigrams: equal but for case and punctuation; 0 without a word
    ("languages", pa.list_(pa.string())),  # of each text, "" where nothing says
])  # fmt: skip
IMAGES = "images.array_record"
BATCH = 64  # pictures that are held as pixels, and given to a classifier at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize:
    """How pictures are stored."""

    size: int = 346  # pixels of the square; the aspect is not kept, as ALIGN's own resize does not
    quality: int = 90  # of the JPEG, 1..100

    def __post_init__(self):
        if self.size < 1 or not 1 <= self.quality <= 100:
            raise AlignError(
                f"config.image: expected size of at least 1 and quality of 1..100, found {self.size} and {self.quality}"
            )


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads shards of one source. `read` may be called by several threads."""

    source: Source
    resize: Resize
    candidates: Candidates
    columns: measures.Columns
    score_columns: Mapping[str, str]  # measure -> column
    classifiers: Mapping[str, Callable[[Any], Any]]  # measure -> function of uint8 [B, size, size, 3]
    language_column: str = ""
    identify: Callable[[Any], Any] | None = None  # list of texts -> list of language codes

    def read(self, rows: range, folder: Path) -> None:
        """Writes the folder of these records."""
        folder.mkdir(parents=True)
        found: list[dict[str, Any]] = []
        with array_records.writing(folder / IMAGES) as append:
            for start in range(rows.start, rows.stop, BATCH):
                batch, encoded = self._batch(range(start, min(start + BATCH, rows.stop)))
                found += batch
                for image in encoded:
                    append(image)
        counts = _count_words(found)
        np.save(folder / "ngrams.npy", np.stack([counts.keys, counts.counts.astype(np.uint64)]))
        measured = [pa.field(f"score:{name}", pa.float64()) for name in (*self.score_columns, *self.classifiers)]
        schema = pa.schema([*RECORDS, *measured])
        pq.write_table(pa.Table.from_pylist(found, schema), folder / "records.parquet")

    def _batch(self, rows: range) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The facts and resized JPEGs of at most BATCH records."""
        extra = [self.columns.words(name, rows) for name in self.candidates.columns]
        found, encoded, pixels = [], [], []
        for place, row in enumerate(rows):
            facts, resized = self._record(row, [text for column in extra for text in column[place]])
            jpeg = b""
            if resized is not None:
                jpeg = simplejpeg.encode_jpeg(resized, self.resize.quality, "RGB", "420")
                facts["image_hash"] = int.from_bytes(hashlib.blake2b(jpeg, digest_size=8).digest(), "little")
                pixels.append((facts, resized))
            encoded.append(jpeg)
            found.append(facts)
        for name, column in self.score_columns.items():
            for facts, value in zip(found, self.columns.numbers(column, rows), strict=True):
                facts[f"score:{name}"] = value
        if pixels:
            for name, classify in self.classifiers.items():
                values = measures.scores(classify, np.stack([image for _, image in pixels]), f"config.measures.{name}")
                for (facts, _), value in zip(pixels, values, strict=True):
                    facts[f"score:{name}"] = value
        self._languages(found, rows)
        return found, encoded

    def _record(self, row: int, extra: list[str]) -> tuple[dict[str, Any], np.ndarray | None]:
        """The facts of one record, and its resized picture uint8 [size, size, 3] where it has one."""
        facts: dict[str, Any] = dict.fromkeys(RECORDS.names, 0) | {"reason": "", "label": -1, "texts": []}
        try:
            record = self.source[row]
        except BadExample as bad:
            name = self.source.ids()[row].as_py()
            return facts | {"id": name, "group": name, "reason": str(bad)}, None
        except OSError as error:
            raise AlignError(f"record {row}: cannot be read ({error}); mend that and run again") from error
        texts = self.candidates.of([*record.texts, *extra])
        facts |= {"id": record.id, "group": record.group, "label": record.label, "texts": texts}
        try:
            picture = images.decode(record.image)
        except BadExample as bad:
            return facts | {"reason": str(bad)}, None
        size = (self.resize.size, self.resize.size)
        resized = picture.resize(size, Image.Resampling.BILINEAR)
        facts |= {"width": picture.width, "height": picture.height, "phash": phash(resized)}
        return facts, np.ascontiguousarray(resized)

    def _languages(self, found: list[dict[str, Any]], rows: range) -> None:
        codes = self.columns.rows(self.language_column, rows) if self.language_column else [""] * len(rows)
        for facts, code in zip(found, codes, strict=True):
            facts["languages"] = [str(code or "")] * len(facts["texts"])
        texts = [text for facts in found for text in facts["texts"]]
        if self.identify is not None and texts:
            each = iter(measures.languages(self.identify, texts, "config.languages.function"))
            for facts in found:
                facts["languages"] = [next(each) for _ in facts["texts"]]


def _count_words(found: list[dict[str, Any]]) -> ngrams.Counts:
    """Completes the facts of some records by `words` and `text_hashes`; counts the n-grams of all their texts."""
    counter: Counter[str] = Counter()
    for facts in found:
        texts = [ngrams.words(text) for text in facts["texts"]]
        counter.update(ngram for words in texts for ngram in ngrams.ngrams(words))
        facts["words"] = [len(words) for words in texts]
        facts["text_hashes"] = [ngrams.hashed([" ".join(words)])[0] if words else 0 for words in texts]
    return ngrams.counted(ngrams.hashed(counter), np.fromiter(counter.values(), np.int64, len(counter)))


def read_images(folder: Path, rows: list[int]) -> list[bytes]:
    """Resized JPEGs of some records of a shard's folder, in the order of `rows`."""
    return array_records.read(folder / IMAGES, rows)
