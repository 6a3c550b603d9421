"""Which regions of an image a model has to predict (ImageBERT section 4.3; facts: ImageBERT section 3)."""

import jax
import jax.numpy as jnp

from align_jax.models.randomness import fold


def hide(present: jax.Array, keys: jax.Array, *, share: float, zeroed: float) -> tuple[jax.Array, jax.Array]:
    """(to be predicted, and of those with features of zero), bool [B, R] each, of present bool [B, R].

    Each present region is hidden with probability `share`, and one at least where there is any; a hidden one loses its
    features with probability `zeroed`. `keys` [B] are those of the rows.
    """
    regions = present.shape[1:]
    drawn = jax.vmap(lambda key: jax.random.uniform(key, regions))(fold(keys, 0))
    drawn = jnp.where(present, drawn, jnp.inf)
    hidden = (drawn < share) | ((drawn == drawn.min(1, keepdims=True)) & present)
    lost = jax.vmap(lambda key: jax.random.bernoulli(key, zeroed, regions))(fold(keys, 1))
    return hidden, hidden & lost
