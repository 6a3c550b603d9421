"""Embeds images and texts to disk, in pieces that survive a kill.

python -m align_jax.embed --model=runs/demo --manifest=pairs.jsonl --images=photos --out=embeddings
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags
from tqdm import tqdm

from align_jax import files
from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.source import Record, Source
from align_jax.loading import load
from align_jax.model import Model
from align_jax.types import AlignError
from align_jax.weights import digest

PIECE = 4096  # records that are read, embedded and written at once; what a kill can cost
IMAGES = pa.schema([("id", pa.string()), ("group", pa.string()), ("label", pa.int32()), ("skipped", pa.string())])
TEXTS = pa.schema([("id", pa.string()), ("text", pa.string())])


def embed_source(model: Model, source: Source, out: Path, *, texts: bool = True) -> None:
    """Writes images.npy, texts.npy (f32 [n, D], unit rows) and a parquet beside each, row by row the same.

    images.parquet has a row per record: id, group, label, skipped (why the picture could not be read, or ""; its
    embedding is zero). texts.parquet has a row per text: id of its image, text; empty texts are left out, and all of
    them where the model reads none. Without `texts`, the two files of the images are all.

    Each record is read once, a piece at a time. A piece has the same four files; finished ones are kept, and used by
    the next run with the same weights and number of records.
    """
    names = ("images", "texts") if texts else ("images",)
    pieces = out / f"pieces-{digest(model.params, model.model_state)}-{len(source)}"
    with tqdm(total=len(source), unit="image", desc=f"embedding into {out}", disable=None) as bar:
        for start in range(0, len(source), PIECE):
            rows = range(start, min(start + PIECE, len(source)))
            if not (pieces / f"{start}").exists():
                partial = pieces / f"{start}.partial"
                _embed_piece(model, _Reader(source, rows, texts), partial)
                if files.is_writer():
                    partial.rename(pieces / f"{start}")
            bar.update(len(rows))
    if not files.is_writer():
        return
    folders = [pieces / f"{start}" for start in range(0, len(source), PIECE)]
    for name in names:
        _join(folders, out, name)
    shutil.rmtree(pieces)


class _Reader:
    """The images of some records."""

    def __init__(self, source: Source, rows: range, texts: bool):
        self._source, self._rows, self._texts = source, rows, texts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._rows[index]].image

    def about(self, index: int) -> Record:
        """The rest of a record, its texts where they are wanted."""
        record = self._source.about(self._rows[index])
        return record if self._texts else dataclasses.replace(record, texts=())


def _embed_piece(model: Model, reader: _Reader, folder: Path) -> None:
    with jax.set_mesh(model.mesh):
        images, bad = model.embedder.images(model.params, model.model_state, reader)
        records = [reader.about(i) for i in range(len(reader))]
        reads = "embed_texts" in model.embedder.functions  # a classifier does not
        pairs = [(record.id, text) for record in records for text in record.texts if reads and text.strip()]
        unique = {text: row for row, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        texts = np.zeros((0, images.shape[1]), images.dtype)
        if unique:
            texts = model.embedder.texts(model.params, model.model_state, list(unique))
    if not files.is_writer():
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "texts.npy", texts[[unique[text] for _, text in pairs]])
    rows = [
        {"id": record.id, "group": record.group, "label": record.label, "skipped": bad.get(i, "")}
        for i, record in enumerate(records)
    ]
    pq.write_table(pa.Table.from_pylist(rows, IMAGES), folder / "images.parquet")
    pq.write_table(pa.Table.from_pylist([{"id": i, "text": t} for i, t in pairs], TEXTS), folder / "texts.parquet")


def _join(folders: list[Path], out: Path, name: str) -> None:
    """One piece in memory at a time; each file appears whole."""
    parts = [np.load(folder / f"{name}.npy", mmap_mode="r") for folder in folders]
    shape = (sum(map(len, parts)), parts[0].shape[1])
    partial = out / f"{name}.partial"
    with partial.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            part.tofile(file)
    partial.replace(out / f"{name}.npy")
    with pq.ParquetWriter(partial, IMAGES if name == "images" else TEXTS) as writer:
        for folder in folders:
            writer.write_table(pq.read_table(folder / f"{name}.parquet"))
    partial.replace(out / f"{name}.parquet")


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    source = sources.make(name="manifest", path=values.manifest, images=values.images)
    if not len(source):
        raise AlignError(f"--manifest: expected at least one record, found none in {values.manifest}")
    embed_source(load(values.model), source, Path(values.out))


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "a work directory or an export", required=True)
    flags.DEFINE_string("manifest", None, "a .jsonl or .csv file of pairs: align_jax/data/manifest.py", required=True)
    flags.DEFINE_string("images", None, "folder of the manifest's images; by default its own")
    flags.DEFINE_string("out", None, "folder for images.npy, texts.npy and a parquet beside each", required=True)
    main_of(main)
