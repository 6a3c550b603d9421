"""Convolution of all channels with all filters: as XLA's own operation, or on CPU as a product of matrices.

XLA:CPU takes up to 20 times longer for the weight gradient of a convolution than for that of a matrix product: at the
stem of the demo's tower it was a fifth of the whole step. So there each position's k x k patch is laid out as a row.

Shapes: x [B, H, W, C], kernel [k, k, C, F] of the same float dtype, result [B, H', W', F].
"""

import jax
import jax.numpy as jnp
from jax import lax

from align_jax.models.depthwise import Padding, pad, shifts
from align_jax.models.lowering import by_platform


def dense_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves x, with the lowering that suits the platform."""
    return by_platform(
        x,
        kernel,
        cpu=lambda x, kernel: patch_conv(x, kernel, stride, padding),
        default=lambda x, kernel: xla_conv(x, kernel, stride, padding),
    )


def xla_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution as one XLA operation."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def patch_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution as [B H' W', k k C] patches times [k k C, F]."""
    k, _, channels, filters = kernel.shape
    padded = pad(x, padding)
    rows, columns = ((side - k) // stride + 1 for side in padded.shape[1:3])
    patches = shifts(padded, k, stride, rows, columns)
    flat = jnp.concatenate(patches, axis=-1).reshape(-1, k * k * channels)
    return (flat @ kernel.reshape(-1, filters)).reshape(x.shape[0], rows, columns, filters)
