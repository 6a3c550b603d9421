"""Randomness that belongs to the row (design decision 4).

Every row of the global batch owns a key, fold_in(step key, row number), so a step draws the same numbers on any mesh
and for any number of micro-batches, and two devices never share a mask by accident. `keys` is a [B] array of typed
keys, or None for inference: then every function here is the identity.
"""

import jax
import jax.numpy as jnp


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """[rows] keys, one for each row of the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows, dtype=jnp.uint32))


def fold(keys: jax.Array | None, site: int | jax.Array) -> jax.Array | None:
    """The keys of one place in the model: sites that differ draw independently."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, site)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales the rest to keep the mean."""
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def drop_path(x: jax.Array, keep: float | jax.Array, keys: jax.Array | None) -> jax.Array:
    """Stochastic depth (Huang et al. 2016): keeps a row of a residual branch x [B, ...] with probability `keep`."""
    if keys is None or (isinstance(keep, float) and keep == 1.0):
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep))(keys)
    return jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))
