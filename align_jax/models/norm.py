"""Batch normalisation over fixed groups of rows (design decision 3).

Ioffe & Szegedy 2015, section 3, with the statistics of "ghost" batches (Hoffer et al. 2017, section 4): group g is
rows [g*G, (g+1)*G) of the batch, wherever those rows live. ALIGN trained with 16 rows a core and reproductions of it
need the same 16, so G belongs to the recipe and not to the machine.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.Module):
    """Normalises x [B, ..., C] over groups of `group_size` rows; returns x's shape in `dtype`.

    Statistics are computed in the parameters' precision. Collection `batch_stats` holds the running `mean` and `var`
    [C]; the variance is the biased one, as in TensorFlow. Nothing crosses devices unless `group_size` is None: then all
    rows, here and along `axis_names`, are one group. `momentum` is TensorFlow's: the share of the old value that stays.
    """

    group_size: int | None = None
    momentum: float = 0.99
    epsilon: float = 1e-3
    axis_names: tuple[str, ...] = ()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        size = self.group_size if train and self.group_size else x.shape[0]
        if x.shape[0] % size:
            raise ValueError(f"BatchNorm: expected rows in groups of group_size={size}, found {x.shape[0]} rows")
        groups = x.astype(self.param_dtype).reshape(x.shape[0] // size, -1, x.shape[-1])
        if train:
            mean, var = self._statistics(groups)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new.mean(0)
        else:
            mean, var = running_mean.value[None], running_var.value[None]
        # One multiply and one add per entry: the rest has the size of the statistics.
        factor = scale[None] * lax.rsqrt(var + self.epsilon)
        mean, factor, bias = (v[:, None] for v in (mean, factor, bias[None]))
        return ((groups - mean) * factor + bias).astype(self.dtype).reshape(x.shape)

    def _statistics(self, groups: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mean and the biased variance [groups, C] of groups [groups, entries, C]."""
        mean = groups.mean(1)
        if self.group_size is None and self.axis_names:
            mean = lax.pmean(mean, self.axis_names)
        var = jnp.square(groups - mean[:, None]).mean(1)
        if self.group_size is None and self.axis_names:
            var = lax.pmean(var, self.axis_names)
        return mean, var
