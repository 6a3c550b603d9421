"""Walking over rows in blocks of a fixed size, the last of which may overlap the one before."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


class Block(NamedTuple):
    """One of the blocks of some rows."""

    start: jax.Array  # the first row
    fresh: jax.Array  # bool [size]: rows that no block before has covered


def count(rows: int, size: int) -> int:
    """Blocks of at most `size` that cover `rows`."""
    return -(-rows // size)


def block(number: jax.Array, rows: int, size: int) -> Block:
    """Block `number` of `rows`; the last one ends with the last row, so that all have the same size without padding."""
    size = min(size, rows)
    start = jnp.minimum(number * size, rows - size)
    return Block(start, start + jnp.arange(size, dtype=jnp.int32) >= number * size)


def take(tree: Tree, at: Block) -> Tree:
    """The rows of the block, of every array."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at.start, at.fresh.shape[0]), tree)


def put(tree: Tree, part: Tree, at: Block) -> Tree:
    """`tree` with the block's rows replaced."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, at.start, 0), tree, part)
