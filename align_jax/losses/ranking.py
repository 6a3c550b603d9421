"""Losses of a pair's score against those of other pairs (ImageBERT section 4.4; facts: ImageBERT sections 6 and 9).

All are of scores [B, P]: of each row, column 0 is the score of the positive, a pair that belongs together, the others
those of negatives. Each gives a (sum, count), so that parts of a batch add up exactly. The paper prints the triplet
loss as max[0, s+, s-]; what is meant has a margin and a difference.
"""

import jax
import jax.numpy as jnp

from align_jax.types import Mean


def binary(scores: jax.Array) -> Mean:
    """Binary cross-entropy over all B x P pairs, each by itself."""
    signed = jnp.concatenate([scores[:, :1], -scores[:, 1:]], axis=1)
    return _mean(jax.nn.softplus(-signed))


def multi_class(scores: jax.Array) -> Mean:
    """Softmax cross-entropy of each row, whose class is the positive."""
    return _mean(-jax.nn.log_softmax(scores)[:, 0])


def triplet(scores: jax.Array, *, margin: float) -> Mean:
    """max(0, margin - positive + hardest) of each row; its hardest negative is the one with the highest score."""
    return _mean(jax.nn.relu(margin - scores[:, 0] + scores[:, 1:].max(1)))


def accuracy(scores: jax.Array) -> Mean:
    """How often the positive scores higher than all negatives; a tie is a miss."""
    return _mean((scores[:, 0] > scores[:, 1:].max(1)).astype(scores.dtype))


def _mean(values: jax.Array) -> Mean:
    return Mean(values.sum(), jnp.asarray(values.size, values.dtype))
