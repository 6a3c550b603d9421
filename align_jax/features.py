"""Features computed once: with both towers frozen, a run trains its heads on what they make of the central window.

Pieces stand in the cache folder, keyed by the weights and the fields of the tower, the data, and the view or the
vocabulary: a killed run goes on with the next piece, and a second one with the same towers computes nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import config as configs
from align_jax import files, published, towers
from align_jax.cache import cache_folder
from align_jax.config import Config
from align_jax.data.feature_rows import Features
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.data.source import BadExample, Source
from align_jax.evals.embedding import Embedder
from align_jax.evals.features import FeatureCache, data_digest, pieces
from align_jax.types import AlignError, ModelState, Params
from align_jax.weights import digest


def compute(
    embedder: Embedder, params: Params, model_state: ModelState, source: Source, config: Config, workdir: Path
) -> Features:
    """The features of all records of the training source; all processes call it together.

    `workdir` holds the vocabulary of the run.
    """
    data, task = configs.plain(config.data), configs.plain(config.task)
    records = data_digest(data["source"], source)
    preprocessing = embedder.pairs.preprocessing()
    vocabulary = {name: _of_file(workdir / name) for name in embedder.pairs.files()}
    image = towers.image_tower(task["image"], side=data["crop"])
    text = towers.text_tower(task["text"], vocab_size=data["vocab"]["size"])
    dtype = task.get("dtype", "float32")
    of_images = _digest(published.fields("image", image), task.get("pixels", DEFAULT_PIXELS), dtype, preprocessing)
    of_texts = _digest(
        published.fields("text", text), task.get("text_pooling", "cls"), dtype, data["text_length"], vocabulary,
        data["vocab"].get("lowercase", True),
    )  # fmt: skip
    folder = cache_folder() / "features"
    images, bad = FeatureCache(embedder, folder).of_source(
        params, model_state, source, function="image_features",
        name=f"{digest({'image_tower': params['image_tower']}, model_state)}-{records}-{of_images}",
    )  # fmt: skip
    name = f"{digest({'text_tower': params['text_tower']}, {})}-{records}-{of_texts}"

    def texts_of(part: range) -> dict[str, np.ndarray]:
        texts = [_texts(source, index) for index in part]
        rows = {text: -1 for record in texts for text in record}
        usable = [text for text in rows if _has_words(embedder, text)]
        rows |= {text: row for row, text in enumerate(usable)}
        found = embedder.texts(params, model_state, usable, function="text_features") if usable else np.zeros((0, 0))
        which = np.array([rows[text] for record in texts for text in record], np.int64)
        return {"rows": found.astype(np.float32), "which": which, "counts": np.array([len(record) for record in texts])}

    parts = [piece for _, piece in pieces(folder / name, len(source), texts_of, what="text_features", unit="record")]
    if not any(len(piece["rows"]) for piece in parts):
        raise AlignError("config.data.source: expected texts with words in them, found none; check its texts")
    first = np.cumsum([0, *(len(piece["rows"]) for piece in parts)])
    counts = np.concatenate([piece["counts"] for piece in parts])
    numbered = zip(parts, first[:-1], strict=True)
    which = [np.where(piece["which"] < 0, -1, piece["which"] + start) for piece, start in numbered]
    rows = np.concatenate([piece["rows"] for piece in parts if len(piece["rows"])])
    return Features(images, bad, rows, np.concatenate(which), np.cumsum(counts) - counts)


def _texts(source: Source, index: int) -> list[str]:
    """Those that are not blank; none of a record that cannot be used, which training will meet as such."""
    try:
        return [text for text in source.about(index).texts if text.strip()]
    except BadExample:
        return []


def _has_words(embedder: Embedder, text: str) -> bool:
    try:
        embedder.pairs.texts([text])
    except ValueError:
        return False
    return True


def _digest(*values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def _of_file(path: Path) -> str:
    """On the process that reads and writes the cache; the others ask it."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if files.is_writer() else ""
