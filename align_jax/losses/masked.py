"""The losses of masked modelling and of matching (ImageBERT section 4.3; facts: ImageBERT sections 3 and 9).

Each is a (sum, count), so that parts of a batch add up exactly; `counted` says which rows take part at all.
The paper prints cross-entropy and squared distance with a leading minus; they are positive here.
"""

import jax
import jax.numpy as jnp

from align_jax.types import Mean


def masked_words(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> tuple[Mean, Mean]:
    """(negative log-likelihood, accuracy) over words: logits f32 [B, M, V], labels int [B, M], -1 where there is none,
    counted bool [B].
    """
    there = (labels >= 0) & counted[:, None]
    return _named(logits, jnp.maximum(labels, 0), there)


def masked_classes(logits: jax.Array, labels: jax.Array, hidden: jax.Array, counted: jax.Array) -> tuple[Mean, Mean]:
    """(cross-entropy, accuracy) against the detector's own class: logits f32 [B, R, C], labels int [B, R], -1 where it
    is not known, hidden bool [B, R], counted bool [B].
    """
    there = (labels >= 0) & hidden & counted[:, None]
    return _named(logits, jnp.maximum(labels, 0), there)


def masked_distributions(
    logits: jax.Array, probabilities: jax.Array, hidden: jax.Array, counted: jax.Array
) -> tuple[Mean, Mean]:
    """(Kullback-Leibler divergence from the detector's distribution over classes, how often both have the same best).

    probabilities f32 [B, R, C], each row with a sum of 1, or all 0 where the class is not known; the rest as in
    `masked_classes`. UNITER's MRC-kl (Chen et al. 2020, arXiv 1909.11740, section 3.3); its gradient is that of the
    cross-entropy with a soft target.
    """
    there = probabilities.any(-1) & hidden & counted[:, None]
    own = jax.scipy.special.xlogy(probabilities, probabilities) - probabilities * jax.nn.log_softmax(logits)
    right = logits.argmax(-1) == probabilities.argmax(-1)
    return _mean(own.sum(-1), there), _mean(right, there)


def masked_features(
    predicted: jax.Array, features: jax.Array, hidden: jax.Array, counted: jax.Array, *, over: str
) -> Mean:
    """Squared distance of predicted and true features, f32 [B, R, F] both.

    `over` "regions": as in the paper, summed over the F numbers of a region; "numbers": their mean, which is F times
    smaller and cannot outweigh the other losses.
    """
    squares = jnp.square(predicted - features)
    there = hidden & counted[:, None]
    return _mean(squares.sum(-1) if over == "regions" else squares.mean(-1), there)


def matching(logits: jax.Array, match: jax.Array) -> tuple[Mean, Mean]:
    """(binary cross-entropy, accuracy) of logits f32 [B] that image and text belong together; match bool [B]."""
    signed = jnp.where(match, logits, -logits)
    everywhere = jnp.ones_like(match)
    return _mean(jax.nn.softplus(-signed), everywhere), _mean(signed > 0, everywhere)


def _named(logits: jax.Array, labels: jax.Array, there: jax.Array) -> tuple[Mean, Mean]:
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    return _mean(-own, there), _mean(logits.argmax(-1) == labels, there)


def _mean(values: jax.Array, there: jax.Array) -> Mean:
    kept = jnp.where(there, values.astype(jnp.float32), 0.0)
    return Mean(kept.sum(), there.sum().astype(jnp.float32))
