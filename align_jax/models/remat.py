"""What the backward pass keeps of the forward pass, and what it computes anew (Chen et al. 2016, arXiv 1604.06174)."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

POLICIES = ("none", "block")  # or names of values that `named` marks


def rematerialised(
    policy: str | tuple[str, ...], apply: Callable[..., Any], *, looped: bool = False
) -> Callable[..., Any]:
    """`apply(*arrays)`, keeping everything ("none"), the arguments ("block"), or those and the values named.

    `looped`: it is the body of a loop, where nothing else can merge the two computations into one again.
    """
    if policy == "none":
        return apply
    names = () if policy == "block" else (policy,) if isinstance(policy, str) else policy
    kept = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint(apply, policy=kept, prevent_cse=not looped)


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, which a policy may name."""
    return checkpoint_name(x, name)


def check(policy: str | tuple[str, ...], names: tuple[str, ...]) -> None:
    """Refuses a policy that names what a model does not mark; ValueError."""
    chosen = (policy,) if isinstance(policy, str) else policy
    if policy not in POLICIES and not set(chosen) <= set(names):
        raise ValueError(f"remat: expected one of {POLICIES} or some of {names}, found {policy!r}")
