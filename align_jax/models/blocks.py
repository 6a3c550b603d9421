"""Chains of blocks: how the parameters of each arrive, what it keeps, and one program for those that are equal.

Blocks are modules of their own, named block_3 or layer_3, in whatever way their chain is computed: parameters, the
optimizer and checkpoints know nothing of it. A block uses its matrices in its `dtype`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.models import remat

ALL = -1  # of a tower's `locked`: the whole tower
_IN_BLOCK = re.compile(r"(^|/)(block|layer)_\d+/")
# (an unbound module, its variables, x, what `chain` was given for this block) -> (x, new variables)
Apply = Callable[..., tuple[jax.Array, Any]]


def in_block(path: str) -> bool:
    """Whether the parameter at this path belongs to a block of a chain."""
    return _IN_BLOCK.search(path) is not None


def chain(
    call: Callable[..., jax.Array], blocks: Sequence[nn.Module], x: jax.Array, given: Sequence[Any], *,
    policy: str | tuple[str, ...], scan: bool,
) -> jax.Array:  # fmt: skip
    """x through `call(block, x, given[i])` of each block.

    Args:
      call: applies a bound block. Arrays that are the same for all may be closed over.
      given: a pytree of numbers or arrays for each block.
      policy: what the backward pass keeps of each block: see `remat`.
      scan: neighbours of equal fields and shapes run as one loop, which compiles once, over their stacked parameters;
        the stack, and that of their gradients, take memory.
    """
    if blocks[0].is_initializing():
        for block, own in zip(blocks, given, strict=True):
            x = call(block, x, own)
        return x
    for start, stop in _runs(blocks) if scan else ((i, i + 1) for i in range(len(blocks))):
        run = blocks[start:stop]
        apply = remat.rematerialised(policy, _functional(call, run[0]), looped=len(run) > 1)
        if len(run) == 1:
            x, new = apply(run[0].variables, x, given[start])
            _store(run[0], new)
            continue
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[_as_used(block) for block in run])
        shared = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *given[start:stop])

        def step(x: jax.Array, own: Any, apply: Apply = apply) -> tuple[jax.Array, Any]:
            return apply(own[0], x, own[1])

        x, new = jax.lax.scan(step, x, (stacked, shared))
        for i, block in enumerate(run):
            _store(block, jax.tree.map(lambda leaf, i=i: leaf[i], new))
    return x


def _functional(call: Callable[..., jax.Array], block: nn.Module) -> Apply:
    """(variables, x, given) -> (x, new variables) of any block like this one."""
    alone = block.clone(parent=None, name=None)
    changing = [name for name in block.variables if name != "params" and block.is_mutable_collection(name)]

    def apply(variables: Any, x: jax.Array, given: Any) -> tuple[jax.Array, Any]:
        dtypes = {"params": getattr(block, "dtype", None)}
        whole = {name: sharding.gather_block(tree, dtypes.get(name)) for name, tree in variables.items()}
        return alone.apply(whole, x, given, mutable=changing, method=call)

    return apply


def _as_used(block: nn.Module) -> Any:
    """Its variables, matrices in its dtype: a stack of them is half the size, and their gradients are no other."""
    dtype = getattr(block, "dtype", None)

    def cast(x: Any) -> Any:
        return x if dtype is None or isinstance(x, sharding.Part) or x.ndim < 2 else x.astype(dtype)

    variables = dict(block.variables)
    variables["params"] = jax.tree.map(cast, variables["params"], is_leaf=lambda x: isinstance(x, sharding.Part))
    return variables


def _store(block: nn.Module, new: Any) -> None:
    for collection, tree in new.items():
        for name, value in tree.items():
            block.put_variable(collection, name, value)


def _runs(blocks: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """[start, stop) of neighbours that one loop can run."""

    def kind(block: nn.Module) -> Any:
        shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), block.variables)
        return block.clone(parent=None, name=None), shapes

    kinds = [kind(block) for block in blocks]
    borders = [i for i in range(1, len(blocks)) if kinds[i] != kinds[i - 1]]
    return list(zip([0, *borders], [*borders, len(blocks)], strict=True))
