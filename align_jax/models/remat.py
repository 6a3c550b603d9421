"""What the backward pass keeps of the forward pass, and what it computes anew (Chen et al. 2016, arXiv 1604.06174)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

POLICIES = ("none", "block")  # or names of values that `named` marks


def rematerialised(policy: str | tuple[str, ...], apply: Callable[..., Any]) -> Callable[..., Any]:
    """`apply(module, *arrays)`, keeping everything ("none"), the arguments ("block"), or those and the values named."""
    if policy == "none":
        return apply
    if policy == "block":
        return nn.remat(apply)
    names = (policy,) if isinstance(policy, str) else policy
    return nn.remat(apply, policy=jax.checkpoint_policies.save_only_these_names(*names))


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, which a policy may name."""
    return checkpoint_name(x, name)


def check(policy: str | tuple[str, ...], names: tuple[str, ...]) -> None:
    """Refuses a policy that names what a model does not mark; ValueError."""
    chosen = (policy,) if isinstance(policy, str) else policy
    if policy not in POLICIES and not set(chosen) <= set(names):
        raise ValueError(f"remat: expected one of {POLICIES} or some of {names}, found {policy!r}")
