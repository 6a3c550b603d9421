"""What a row of the batch is compared with.

A *query* is a row of one side (an image), its *candidates* are rows of the other (the texts). The *logit* of two rows
is their cosine divided by the temperature, plus a bias in the sigmoid loss.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

DUPLICATES = ("negatives", "shared", "ignored")


class Marks(NamedTuple):
    """What tells rows apart; an image and its text have the same."""

    number: jax.Array  # int32 [B]: row in the global batch
    ids: jax.Array  # uint32 [B, K, 2]: what would make two rows duplicates, K ways, 64 bits each; K = 0: nothing


class Rows(NamedTuple):
    """Rows of one side of the global batch."""

    vectors: jax.Array  # [B, D], unit vectors
    marks: Marks


class Scale(NamedTuple):
    """From cosines to logits, both scalars."""

    temperature: jax.Array
    bias: jax.Array

    def logits(self, queries: Rows, candidates: Rows) -> jax.Array:
        """[B, M]. Full f32 products: at temperature 1/64 a TPU's default bf16 passes would move logits by 0.2."""
        cosines = jnp.matmul(queries.vectors, candidates.vectors.T, precision="highest")
        return cosines / self.temperature + self.bias

    def gradients(self, images: jax.Array, image_gradients: jax.Array, bias_gradient: jax.Array) -> "Scale":
        """The gradients of both, from those of the images [B, D] and the sum of those of all logits.

        A logit is cosine / temperature (and bias), so by the temperature it changes by -cosine / temperature ** 2; and
        the sum of cosine / temperature times gradient, over all logits of an image, is the image times its gradient.
        """
        return Scale(-jnp.sum(images * image_gradients) / self.temperature, bias_gradient)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which candidates count, and which of them are positives."""

    total: int  # N: rows of the global batch
    kept: int  # candidates of a query: itself and the rows that follow it
    duplicates: str  # of `DUPLICATES`

    def masks(self, queries: Rows, candidates: Rows) -> tuple[jax.Array, jax.Array]:
        """(allowed, positive), each bool [B, M] for B queries and M candidates."""
        mine, theirs = queries.marks, candidates.marks
        ahead = (theirs.number[None, :] - mine.number[:, None]) % self.total
        allowed, own = ahead < self.kept, ahead == 0
        if self.duplicates == "negatives" or not mine.ids.shape[1]:
            return allowed, own
        same = own | (mine.ids[:, None] == theirs.ids[None, :]).all(-1).any(-1)
        return (allowed, allowed & same) if self.duplicates == "shared" else (allowed & (own | ~same), own)


def gather(tree, axis_names: tuple[str, ...]):
    """The rows of all devices, in the order of the global batch."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_names, tiled=True), tree) if axis_names else tree
