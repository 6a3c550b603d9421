"""Step C, shard by shard: writes what is kept. The bytes depend on the keep-lists and the sidecars alone."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from align_jax.curation import array_records
from align_jax.curation.facts import Resize, read_images
from align_jax.data import example
from align_jax.types import AlignError

FORMATS = {"array_record": "array_record", "webdataset": "tar"}  # name in the config -> ending of the files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """How the kept pairs are stored.

    array_record: tf.train.Example with key (the id), jpg, txt (all kept texts), group, and label where there is one.
    webdataset: tars in img2dataset's layout, for each pair NNNNNNNNN.jpg, .txt (its first text) and .json (key,
    caption, texts, group, label, width, height, original_width, original_height).
    """

    format: str = "array_record"
    records_per_shard: int = 10_000

    def __post_init__(self):
        if self.format not in FORMATS:
            raise AlignError(f"config.output.format: expected one of {sorted(FORMATS)}, found {self.format!r}")

    @property
    def ending(self) -> str:
        """Of the files."""
        return FORMATS[self.format]


class Kept(NamedTuple):
    """One pair to be written."""

    place: int  # among all that are kept
    image: bytes  # JPEG
    texts: Sequence[str]
    facts: dict[str, Any]  # id, group, label, width, height


class Places:
    """Where the kept records are: `shards` and `rows`, int32 [kept], in the order of the source."""

    def __init__(self, keep: Sequence[Path], facts: Sequence[Path]):
        self._keep, self._facts = keep, facts
        rows = [
            np.array([not rule for rule in pq.read_table(path, columns=["rule"])["rule"].to_pylist()]) for path in keep
        ]
        self.rows = np.concatenate([np.flatnonzero(kept).astype(np.int32) for kept in rows])
        self.shards = np.repeat(np.arange(len(keep), dtype=np.int32), [int(kept.sum()) for kept in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: range) -> Iterator[Kept]:
        """The records of these places, one sidecar in memory at a time."""
        place = places.start
        part = slice(places.start, places.stop)
        for shard in np.unique(self.shards[part]).tolist():
            rows = self.rows[part][self.shards[part] == shard].tolist()
            texts = pq.read_table(self._keep[shard], columns=["texts"]).take(rows)["texts"].to_pylist()
            columns = ["id", "group", "label", "width", "height"]
            facts = pq.read_table(self._facts[shard] / "records.parquet", columns=columns).take(rows).to_pylist()
            images = read_images(self._facts[shard], rows)
            for image, own, about in zip(images, texts, facts, strict=True):
                yield Kept(place, image, own, about)
                place += 1


def write(path: Path, records: Iterator[Kept], output: Output, resize: Resize) -> None:
    """One shard."""
    if output.format == "array_record":
        with array_records.writing(path) as append:
            for kept in records:
                append(_example(kept))
    else:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for kept in records:
                for name, contents in _members(kept, resize).items():
                    member = tarfile.TarInfo(name)  # of the year 1970: the bytes do not depend on when it was written
                    member.size = len(contents)
                    tar.addfile(member, io.BytesIO(contents))


def _example(kept: Kept) -> bytes:
    label = {} if kept.facts["label"] < 0 else {"label": kept.facts["label"]}
    return example.encode(
        {"key": kept.facts["id"], "jpg": kept.image, "txt": list(kept.texts), "group": kept.facts["group"]} | label
    )


def _members(kept: Kept, resize: Resize) -> dict[str, bytes]:
    facts = {
        "key": kept.facts["id"], "caption": kept.texts[0], "texts": list(kept.texts), "group": kept.facts["group"],
        "label": kept.facts["label"], "width": resize.size, "height": resize.size,
        "original_width": kept.facts["width"], "original_height": kept.facts["height"],
    }  # fmt: skip
    name = f"{kept.place:09d}"  # an id may hold dots and slashes, which would end the name for a reader
    return {
        f"{name}.jpg": kept.image,
        f"{name}.txt": kept.texts[0].encode(),
        f"{name}.json": json.dumps(facts, ensure_ascii=False).encode(),
    }
