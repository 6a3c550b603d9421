"""A model whose embeddings are known: an image's are its pixels, a text's the sum of its words' vectors."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image

from align_jax import evals, sharding
from align_jax.data.pairs import Pairs
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.evals.embedding import Embedder

SIDE, WIDTH = 4, 48  # pixels of a picture's side; each of its values is a number of the embedding
WORDS = tuple("abcdefghijklmnopqrstuvwxyz")
PIECES = (*SPECIAL, *WORDS)
# Words that stand for nothing: vectors of whole numbers, so that ties are exact.
PARAMS = np.random.default_rng(0).integers(-2, 3, (len(PIECES), WIDTH)).astype(np.float32)
PARAMS[: len(SPECIAL)] = 0


def _unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def embed_images(params, model_state, inputs):
    """Values from -2 to 2, as `picture` wrote them."""
    return _unit((inputs["image"].astype(jnp.float32) - 128).reshape(len(inputs["image"]), WIDTH) / 50)


def embed_texts(params, model_state, inputs):
    """The sum of the words' vectors."""
    rows = params[inputs["text_ids"]] * inputs["text_mask"][..., None].astype(jnp.float32)
    return _unit(jnp.sum(rows, axis=1))


FUNCTIONS = {"embed_images": embed_images, "embed_texts": embed_texts}


def embedder(devices=1):
    """With pictures as they are."""
    pairs = Pairs(WordPiece(PIECES), resize=SIDE, crop=SIDE, flip=False, text_length=8)
    return Embedder(FUNCTIONS, pairs, mesh=sharding.make_mesh(devices=devices), batch_size=32)


def picture(words, noise=0.0, rng=None):
    """A picture whose embedding is that of `words`, but for a share of the values that are drawn."""
    values = sum(PARAMS[PIECES.index(word)] for word in words.split())
    if noise:
        values = np.where(rng.random(WIDTH) < noise, rng.integers(-2, 3, WIDTH), values)
    pixels = np.clip(values, -2, 2) * 50 + 128
    return Image.fromarray(pixels.reshape(SIDE, SIDE, 3).astype(np.uint8))


def write_pairs(folder, count, captions, seed=0, noise=0.6):
    """`count` pictures with `captions` texts of three words each, some of them equal, and their manifest."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        texts = [" ".join(rng.choice(WORDS[:9], 3)) for _ in range(captions)]
        picture(texts[0], noise, rng).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "texts": texts, "id": f"id{number}"})
    return write_manifest(folder, rows)


def write_manifest(folder, rows):
    """The options of the source."""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "manifest", "path": str(folder / "pairs.jsonl")}


def evaluators(sections, folder, devices=1):
    """Those of a config."""
    return evals.make(sections, embedder(devices), functions=FUNCTIONS, workdir=folder)


def results(sections, folder, devices=1, params=PARAMS):
    """Name -> result."""
    made = evaluators(sections, folder, devices)
    return {result.name: result for evaluator in made for result in evaluator.run(params, {})}
