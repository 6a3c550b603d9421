"""Small labelled pictures whose classes overlap, and a model whose embeddings of them are known."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from align_jax import evals, sharding
from align_jax.data.pairs import Pairs
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.evals.embedding import Embedder

SIDE = 2  # pixels of a picture
CLASSES = ("bee", "cat", "dog", "elk")


def image_features(params, model_state, inputs):
    """All pixels, mixed by `params` [12, D]."""
    pixels = inputs["image"].reshape(len(inputs["image"]), -1).astype(jnp.float32) / 255 - 0.5
    return jnp.matmul(pixels, params, precision="highest")


def embed_images(params, model_state, inputs):
    rows = image_features(params, model_state, inputs)
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


FUNCTIONS = {"embed_images": embed_images, "image_features": image_features}
PARAMS = np.random.default_rng(7).normal(size=(3 * SIDE * SIDE, 10)).astype(np.float32)


def write(folder: Path, count: int, *, seed: int = 0, noise: int = 70, classes=CLASSES, broken=()) -> dict:
    """Options of a source of `count` pictures: one of each class in turn, its own colours and noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(1).integers(60, 196, (len(classes), SIDE, SIDE, 3))
    rows = []
    for i in range(count):
        label = i % len(classes)
        pixels = (own[label] + rng.integers(-noise, noise, own[label].shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"id": f"n{i}", "image": f"{i}.png", "text": classes[label], "label": classes[label]})
    for i in broken:
        (folder / f"{i}.png").write_bytes(b"no picture")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "manifest", "path": str(folder / "pairs.jsonl")}


def embedder(devices: int = 1) -> Embedder:
    pairs = Pairs(WordPiece((*SPECIAL, "a")), resize=SIDE, crop=SIDE, flip=False, text_length=6)
    return Embedder(FUNCTIONS, pairs, mesh=sharding.make_mesh(devices=devices), batch_size=32)


def evaluator(section: dict, folder: Path, devices: int = 1):
    (made,) = evals.make({"e": section}, embedder(devices), functions=FUNCTIONS, workdir=folder)
    return made


def results(section: dict, folder: Path, devices: int = 1, params=PARAMS) -> dict:
    return {result.name: result for result in evaluator(section, folder, devices).run(params, {})}


def rows_of(options: dict, function: str = "embed_images", params=PARAMS):
    """(rows, labels) as the model makes them."""
    one = embedder()
    source = one.open(options)
    rows, bad = one.images(params, {}, source, function=function)
    read = [i for i in range(len(source)) if i not in bad]
    return rows[read], np.array([source.about(i).label for i in read])
