"""Softmax cross-entropy over classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """f32 [B] from logits f32 [B, C] and labels int [B]; a share `label_smoothing` of each target goes to all C alike.

    Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return -(1 - label_smoothing) * own - label_smoothing * log_probabilities.mean(1)
