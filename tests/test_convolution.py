"""The two lowerings of each convolution agree, with their gradients; the depthwise one inside shard_map as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from align_jax.models.convolution import dense_conv, patch_conv, xla_conv
from align_jax.models.depthwise import depthwise_conv, grouped_conv, shifted_conv

DEPTHWISE, DENSE = (shifted_conv, grouped_conv), (patch_conv, xla_conv)


def arrays(rows, height, width, k, dtype="float32", kinds=DEPTHWISE):
    rng = np.random.default_rng(0)
    shapes = (rows, height, width, 6), (k, k, 1, 6) if kinds == DEPTHWISE else (k, k, 6, 5)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def relative_errors(found, expected):
    return [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).max() / np.abs(b.astype(np.float64)).max()
        for a, b in zip(jax.device_get(found), jax.device_get(expected), strict=True)
    ]


def with_gradients(conv, stride, padding):
    """(x, kernel) -> (result, gradient of x, gradient of the kernel) of a sum of sines."""

    def loss(x, kernel):
        y = conv(x, kernel, stride, padding)
        return jnp.sum(jnp.sin(y)), y

    def run(x, kernel):
        gradients, y = jax.grad(loss, (0, 1), has_aux=True)(x, kernel)
        return y, *gradients

    return jax.jit(run)


@pytest.mark.parametrize("height, width", [(8, 6), (9, 7), (5, 8)])
@pytest.mark.parametrize("k, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("kinds", [DEPTHWISE, DENSE], ids=["depthwise", "dense"])
def test_lowerings_agree(kinds, k, stride, height, width):
    x, kernel = arrays(2, height, width, k, kinds=kinds)
    before, after = k // 2 - (stride - 1), k // 2
    padding = (before, after), (after, before)
    found, expected = (with_gradients(conv, stride, padding)(x, kernel) for conv in kinds)
    assert max(relative_errors(found, expected)) < 1e-5


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("bfloat16", 0.03)])
@pytest.mark.parametrize("kinds", [DEPTHWISE, DENSE], ids=["depthwise", "dense"])
def test_other_precisions(kinds, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, kernel = arrays(2, 9, 8, 3, dtype, kinds)
        padding = (0, 1), (0, 1)
        found, expected = (with_gradients(conv, 2, padding)(x, kernel) for conv in kinds)
        assert {array.dtype for array in found} == {jnp.dtype(dtype)}
        assert max(relative_errors(found, expected)) < tolerance


@pytest.mark.parametrize("shared", ["kernel", "varying kernel", "images"])
def test_inside_shard_map(shared):
    """Whichever operand the devices share, its gradient is summed over them, as for a built-in operation."""
    x, kernel = arrays(16, 8, 8, 3)
    padding = (0, 1), (0, 1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, kernel):
        if shared == "varying kernel":
            kernel = jax.lax.pcast(kernel, "data", to="varying")
        y = depthwise_conv(x, kernel, stride=2, padding=padding)
        return jax.lax.psum(jnp.sum(jnp.sin(y)), "data")

    specs = (P(), P("data")) if shared == "images" else (P("data"), P())
    if shared == "images":
        kernel = jnp.tile(kernel, (8, 1, 1, 1))  # each device's own

    def alone(x, kernel):
        kernels = jnp.split(kernel, 8) if shared == "images" else [kernel]
        return sum(jnp.sum(jnp.sin(grouped_conv(x, kernel, 2, padding))) for kernel in kernels)

    spread = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P())
    found, expected = (jax.jit(jax.grad(f, (0, 1)))(x, kernel) for f in (spread, alone))
    assert max(relative_errors(found, expected)) < 1e-5


@pytest.mark.parametrize("conv, kinds", [(depthwise_conv, DEPTHWISE), (dense_conv, DENSE)], ids=["depthwise", "dense"])
def test_only_cpu_takes_its_own(conv, kinds):
    x, kernel = arrays(2, 8, 8, 3, kinds=kinds)
    traced = jax.jit(lambda x, kernel: conv(x, kernel, stride=1, padding=((1, 1), (1, 1)))).trace(x, kernel)
    text = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")}
    assert {name: "stablehlo.convolution" in program for name, program in text.items()} == {
        "cpu": False,
        "tpu": True,
        "cuda": True,
    }
