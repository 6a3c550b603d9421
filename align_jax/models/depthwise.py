"""Depthwise convolution: each channel with its own k x k kernel (design decision 9).

There are two lowerings, chosen by the platform that the program is compiled for. TPU and GPU take XLA's grouped
convolution. On CPU that one is 17-84 times slower than torch's, so there the convolution is a sum of shifted
multiplies, with gradients written in the same way.

Shapes: x [B, H, W, C], kernel [k, k, 1, C] (the HWIO layout of a grouped convolution) of the same float dtype, result
[B, H', W', C]. Nothing here is padded silently: `padding` is ((top, bottom), (left, right)), each less than k.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from align_jax.models.lowering import by_platform

Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves every channel of x by itself, with the lowering that suits the platform."""
    return by_platform(
        x,
        kernel,
        cpu=lambda x, kernel: shifted_conv(x, kernel, stride, padding),
        default=lambda x, kernel: grouped_conv(x, kernel, stride, padding),
    )


def grouped_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution as one XLA operation with C groups."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution as a sum over the k*k taps of a shifted image times the tap's weights."""
    # Inside shard_map the zeros make both operands vary over the same mesh axes. Autodiff then sums the gradient of a
    # kernel that devices share, as it does for every built-in operation; XLA drops the additions.
    zero = (1, 1, 1, 1)
    return _shifted_conv(
        x + jnp.zeros_like(kernel, shape=zero), kernel + jnp.zeros_like(x, shape=zero), stride, padding
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted_conv(x, kernel, stride, padding):
    rows, columns = (
        (size + sum(pads) - taps) // stride + 1
        for size, pads, taps in zip(x.shape[1:3], padding, kernel.shape, strict=False)
    )
    views = shifts(pad(x, padding), kernel.shape[0], stride, rows, columns)
    return _weighted_sum(views, kernel.reshape(-1, kernel.shape[-1]))


def _forward(x, kernel, stride, padding):
    return _shifted_conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, gradient):
    x, kernel = residuals
    return _input_gradient(gradient, kernel, x.shape, stride, padding), _kernel_gradient(
        x, gradient, kernel, stride, padding
    )


def _input_gradient(gradient, kernel, shape, stride, padding):
    """[B, H, W, C]. Padded positions of one residue modulo the stride meet the same taps: a convolution for each."""
    (top, _), (left, _) = padding
    (_, height, width, channels), (_, rows, columns, _) = shape, gradient.shape
    q_rows, q_columns = math.ceil((top + height) / stride), math.ceil((left + width) / stride)

    def phase(p, q):
        taps = kernel[p::stride, q::stride, 0][::-1, ::-1]
        n, m = taps.shape[:2]
        padded = pad(gradient, ((n - 1, q_rows - rows), (m - 1, q_columns - columns)))
        views = [padded[:, i : i + q_rows, j : j + q_columns] for i, j in itertools.product(range(n), range(m))]
        return _weighted_sum(views, taps.reshape(-1, channels))

    phases = jnp.stack([jnp.stack([phase(p, q) for q in range(stride)], 3) for p in range(stride)], 2)
    image = phases.reshape(-1, q_rows * stride, q_columns * stride, channels)
    return image[:, top : top + height, left : left + width]


def _kernel_gradient(x, gradient, kernel, stride, padding):
    """[k, k, 1, C]. A scan over the rows of the batch with one [H', W', C] accumulator for each tap.

    XLA's own reduction of the products over (B, H, W) is 10 times slower: it does not vectorise.
    """
    k = kernel.shape[0]

    def accumulate(sums, row):
        image, cotangent = row
        views = shifts(pad(image[None], padding), k, stride, *cotangent.shape[:2])
        return [total + shift[0] * cotangent for total, shift in zip(sums, views, strict=True)], None

    zeros = [jnp.zeros_like(gradient, shape=gradient.shape[1:])] * (k * k)
    sums, _ = lax.scan(accumulate, zeros, (x, gradient))
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape)


def pad(x: jax.Array, padding: Padding) -> jax.Array:
    """x with zeros around its rows and columns."""
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def shifts(padded: jax.Array, k: int, stride: int, rows: int, columns: int) -> list[jax.Array]:
    """The k*k views [B, rows, columns, C] of a padded image, in the order of the taps."""
    return [
        padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i, j in itertools.product(range(k), range(k))
    ]


def _weighted_sum(images, weights):
    """sum_t images[t] * weights[t], weights [T, C]."""
    return functools.reduce(jnp.add, (image * weights[t][None, None, None] for t, image in enumerate(images)))


_shifted_conv.defvjp(_forward, _backward)
