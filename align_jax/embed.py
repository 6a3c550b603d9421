"""Embeds images and texts to disk, in pieces that survive a kill.

python -m align_jax.embed --model=runs/demo --manifest=pairs.jsonl --images=photos --out=embeddings
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags
from tqdm import tqdm

from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.source import Source
from align_jax.model import Model, load
from align_jax.types import AlignError

PIECE = 4096  # records whose embeddings are written at once; what a kill can cost

MODEL = flags.DEFINE_string("model", None, "a work directory or an export")
MANIFEST = flags.DEFINE_string("manifest", None, "a .jsonl or .csv file of pairs; see align_jax/data/manifest.py")
IMAGES = flags.DEFINE_string("images", None, "folder of the manifest's images; by default its own")
OUT = flags.DEFINE_string("out", None, "folder to write: images.npy, texts.npy, images.parquet, texts.parquet")


def embed_source(model: Model, source: Source, out: Path) -> None:
    """Writes images.npy, texts.npy (f32 [n, D], unit rows) and a parquet of ids and texts beside each.

    images.parquet has a row per image: id, group, label, skipped (the reason where the picture could not be read; its
    embedding is zero). texts.parquet has a row per text: id of its image, text. Finished pieces are kept and not
    computed again.
    """
    out.mkdir(parents=True, exist_ok=True)
    pieces = out / "pieces"
    pieces.mkdir(exist_ok=True)
    starts = range(0, len(source), PIECE)
    with tqdm(total=len(source), unit="image", desc=f"embedding into {out}", disable=None) as bar:
        for start in starts:
            records = [source[i] for i in range(start, min(start + PIECE, len(source)))]
            if not (pieces / f"{start}.npz").exists():
                _embed_piece(model, records, pieces / f"{start}.npz")
            bar.update(len(records))
    parts = [np.load(pieces / f"{start}.npz") for start in starts]
    for name in ("images", "texts"):
        np.save(out / f"{name}.npy", np.concatenate([part[name] for part in parts]))
    skipped = np.concatenate([part["skipped"] for part in parts]).tolist()
    records = [source[i] for i in range(len(source))]
    columns = {
        "id": [r.id for r in records], "group": [r.group for r in records],
        "label": [r.label for r in records], "skipped": skipped,
    }  # fmt: skip
    pq.write_table(pa.table(columns), out / "images.parquet")
    pairs = [(r.id, text) for r in records for text in r.texts if text.strip()]
    pq.write_table(pa.table({"id": [i for i, _ in pairs], "text": [t for _, t in pairs]}), out / "texts.parquet")
    shutil.rmtree(pieces)


def _embed_piece(model: Model, records: list[sources.Record], path: Path) -> None:
    images, bad = model.embedder.images(model.params, model.model_state, [record.image for record in records])
    texts = [text for record in records for text in record.texts if text.strip()]
    unique = list(dict.fromkeys(texts))
    rows = (
        model.embedder.texts(model.params, model.model_state, unique)
        if unique
        else np.zeros((0, images.shape[1]), np.float32)
    )
    number = {text: i for i, text in enumerate(unique)}
    skipped = np.array([bad.get(i, "") for i in range(len(records))])
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, images=images, texts=rows[[number[text] for text in texts]], skipped=skipped)
    partial.replace(path)


def main(_: list[str]) -> None:
    """Checks the flags."""
    if MANIFEST.value is None:
        raise AlignError("expected --manifest=pairs.jsonl, found none")
    source = sources.make(name="manifest", path=MANIFEST.value, images=IMAGES.value)
    embed_source(load(MODEL.value), source, Path(OUT.value))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "out"])
    main_of(main)
