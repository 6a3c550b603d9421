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

        x = x.astype(self.param_dtype)
        if not train:
            # Nothing here depends on the number of rows: exported, it is a multiply and an add beside the convolution,
            # which runtimes take into it.
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            factor, shift = (v.reshape(*(1,) * (x.ndim - 1), -1) for v in (factor, shift))
            return (x * factor + shift).astype(self.dtype)
        entries = x.reshape(x.shape[0], -1, x.shape[-1])
        mean, var = self._statistics(entries)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new.mean(0)
        # One multiply and one add per entry: the rest has the size of the statistics.
        factor = scale[None] * lax.rsqrt(var + self.epsilon)
        factor, shift = (
            jnp.repeat(v, x.shape[0] // v.shape[0], 0)[:, None] for v in (factor, bias[None] - mean * factor)
        )
        return (entries * factor + shift).astype(self.dtype).reshape(x.shape)

    def _statistics(self, entries: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mean and the biased variance [groups, C] of entries [B, positions, C]."""
        rows = entries.shape[0]
        size = self.group_size or rows
        if rows % size:
            raise ValueError(f"BatchNorm: expected rows in groups of group_size={size}, found {rows} rows")

        # Each row first: XLA:CPU reduces a group's rows and positions together, with their gradient, 7 times slower.
        def average(y):
            return y.mean(1).reshape(rows // size, size, -1).mean(1)

        mean, square = average(entries), average(jnp.square(entries))
        if self.group_size is None and self.axis_names:
            mean, square = lax.pmean((mean, square), self.axis_names)
        return mean, jnp.maximum(square - jnp.square(mean), 0)  # rounding can leave less than nothing
