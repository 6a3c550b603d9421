"""A cross-encoder whose scores are known, beside the dual encoder of known_model: both see the same."""

import dataclasses

import jax
import jax.numpy as jnp
import known_model
import numpy as np
from known_model import PARAMS, PIECES, SIDE

from align_jax import evals, sharding
from align_jax.data.pairs import Pairs
from align_jax.data.text import WordPiece
from align_jax.evals.embedding import Embedder

CELLS = SIDE * SIDE


def image_tokens(params, model_state, inputs):
    """A token of three numbers for each pixel, which is present unless the pixel is black."""
    pixels = inputs["image"].astype(jnp.float32).reshape(-1, CELLS, 3)
    present = jnp.any(pixels > 0, axis=-1, keepdims=True)
    return jnp.concatenate([(pixels - 128) / 50, present.astype(jnp.float32)], axis=-1)


def score_tokens(params, model_state, inputs):
    """How well each word is met by the picture, none better than fully: no dot product."""
    seen = inputs["tokens"][..., :3] * inputs["tokens"][..., 3:]
    words = params[inputs["text_ids"]].reshape(*inputs["text_ids"].shape, CELLS, 3)
    met = jnp.tanh(jnp.einsum("bcn,blcn->bl", seen, words, precision="highest") / 40)
    return jnp.sum(met * inputs["text_mask"].astype(jnp.float32), axis=1)


FUNCTIONS = {"image_tokens": image_tokens, "score_tokens": score_tokens}


def by_hand(pixels, text):
    """The score of uint8 [4, 4, 3] with a text, in numpy."""
    seen = (pixels.astype(np.float64).reshape(-1) - 128) / 50
    return sum(np.tanh(seen @ PARAMS[PIECES.index(word)] / 40) for word in text.split())


@dataclasses.dataclass
class Dual:
    """What `align_jax.load` would give of the dual encoder of known_model."""

    functions = tuple(known_model.FUNCTIONS)
    params, model_state = PARAMS, {}

    def __post_init__(self):
        self.embedder = known_model.embedder()
        self.mesh = self.embedder.mesh


def embedder(devices=1, functions=FUNCTIONS, computes=""):
    pairs = Pairs(WordPiece(PIECES), resize=SIDE, crop=SIDE, flip=False, text_length=8)
    return Embedder(dict(functions), pairs, mesh=sharding.make_mesh(devices=devices), batch_size=16, computes=computes)


def evaluators(sections, folder, devices=1, load=lambda path: Dual()):
    """Those of a config of the cross-encoder."""
    return evals.make(sections, embedder(devices), functions=FUNCTIONS, workdir=folder, load=load)


def results(sections, folder, devices=1):
    """Name -> result."""
    made = evaluators(sections, folder, devices)
    with jax.set_mesh(sharding.make_mesh(devices=devices)):
        return {result.name: result for evaluator in made for result in evaluator.run(PARAMS, {})}
