"""A part while it is made: its pieces survive a kill, its files appear whole, in their places, at the end."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align_jax import files
from align_jax.embeddings.layout import Layout

CAPTION = pa.field("caption", pa.string())
SAMPLES = pa.schema(
    [
        ("image_path", pa.string()), CAPTION, ("id", pa.string()), ("group", pa.string()), ("label", pa.int32()),
        ("class", pa.string()), ("row", pa.int64()),
    ]
)  # fmt: skip
LEFT_OUT = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])


@dataclasses.dataclass
class Piece:
    """What became of some records that follow each other."""

    images: np.ndarray  # [n, D]
    texts: np.ndarray | None  # [n, D]; None where no captions are read
    samples: list[dict[str, Any]]  # n rows of SAMPLES
    left_out: list[dict[str, Any]]  # of LEFT_OUT
    texts_left_out: Counter[str]  # reason -> texts

    def save(self, path: Path) -> None:
        """An .npz with JSON for what are no embeddings."""
        about = json.dumps([self.samples, self.left_out, self.texts_left_out]).encode()
        texts = {} if self.texts is None else {"texts": self.texts}
        arrays: dict[str, Any] = {"images": self.images, "about": np.frombuffer(about, np.uint8), **texts}
        files.write(path, lambda partial: np.savez(partial, **arrays))

    @classmethod
    def load(cls, path: Path) -> "Piece":
        """What `save` wrote."""
        with np.load(path) as arrays:
            samples, left_out, texts_left_out = json.loads(arrays["about"].tobytes())
            return cls(arrays["images"], arrays.get("texts"), samples, left_out, Counter(texts_left_out))


def join(pieces: Sequence[Piece]) -> Piece:
    """One of several."""
    first = pieces[0]
    return Piece(
        np.concatenate([piece.images for piece in pieces]),
        None if first.texts is None else np.concatenate([piece.texts for piece in pieces if piece.texts is not None]),
        [row for piece in pieces for row in piece.samples],
        [row for piece in pieces for row in piece.left_out],
        sum((piece.texts_left_out for piece in pieces), Counter()),
    )


class Part:
    """Part `number`, from where a kill has left it. `next` is the first record that is still to come."""

    def __init__(self, layout: Layout, number: int):
        self._layout, self._number = layout, number
        self.records = layout.facts.part(number)
        self.done = layout.counts(number).exists()
        self._folder = layout.unfinished(number)
        self._saved: list[Path] = []
        self._pieces: list[Piece] = []
        self.next = self.records.stop if self.done else self.records.start
        pieces = {_span(path)[0]: path for path in self._folder.glob("*-*.npz") if path.stem.count(".") == 0}
        while self.next in pieces:
            self._saved.append(pieces[self.next])
            self.next = _span(self._saved[-1])[1]

    def add(self, piece: Piece, stop: int) -> None:
        """The records from `next` to `stop`."""
        self._pieces.append(piece)
        self.next = stop

    def save(self) -> None:
        """Writes down what has been added, against a kill."""
        if self._pieces:
            start = _span(self._saved[-1])[1] if self._saved else self.records.start
            path = self._folder / f"{start}-{self.next}.npz"
            join(self._pieces).save(path)
            self._saved.append(path)
            self._pieces = []

    def finish(self) -> None:
        """Writes the files of the part, each whole, the counts last."""
        whole = join([*map(Piece.load, self._saved), *self._pieces])
        self._pieces = []
        layout, number = self._layout, self._number
        schema = SAMPLES if whole.texts is not None else SAMPLES.remove(SAMPLES.get_field_index(CAPTION.name))
        if whole.samples:
            if whole.texts is not None:
                self._put(layout.texts(number), lambda path: _save(path, whole.texts))
            table = pa.Table.from_pylist(whole.samples, schema)
            self._put(layout.metadata(number), lambda path: pq.write_table(table, path))
            self._put(layout.images(number), lambda path: _save(path, whole.images))
        left_out = pa.Table.from_pylist(whole.left_out, LEFT_OUT)
        self._put(layout.left_out(number), lambda path: pq.write_table(left_out, path))
        counts = {
            "records": len(self.records),
            "rows": len(whole.samples),
            "left_out": dict(sorted(Counter(row["reason"] for row in whole.left_out).items())),
            "texts_left_out": dict(sorted(whole.texts_left_out.items())),
        }
        self._put(layout.counts(number), lambda path: path.write_text(json.dumps(counts, indent=2) + "\n"))
        shutil.rmtree(self._folder)
        self.done = True

    def _put(self, path: Path, writer: Callable[[Path], Any]) -> None:
        """A file of the part. What is not yet whole lies elsewhere: other programs take any name in these folders."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{path.name}.partial"
        writer(partial)
        partial.replace(path)


def _span(path: Path) -> tuple[int, int]:
    """(first record, stop) of a piece."""
    first, _, stop = path.stem.partition("-")
    return int(first), int(stop)


def _save(path: Path, rows: Any) -> None:
    with path.open("wb") as file:  # np.save would add an ending to the name
        np.save(file, rows)
