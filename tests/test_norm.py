"""BatchNorm over groups of rows, against numpy and on eight devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from align_jax.models.norm import BatchNorm

X = np.random.default_rng(0).normal(2.0, 3.0, (16, 5, 4, 6)).astype(np.float32)
VARIABLES = {
    "params": {"scale": np.linspace(0.5, 1.5, 6, dtype=np.float32), "bias": np.linspace(-1, 1, 6, dtype=np.float32)},
    "batch_stats": {"mean": np.full(6, 0.3, np.float32), "var": np.full(6, 2.0, np.float32)},
}


def train(norm: BatchNorm, variables, x) -> tuple[Any, Any]:
    """(normalised x, new running statistics)."""
    y, state = norm.apply(variables, x, train=True, mutable="batch_stats")
    return y, state["batch_stats"]


@pytest.mark.parametrize("size", [4, 16, None])
def test_equals_numpy(size):
    groups = X.astype(np.float64).reshape(16 // (size or 16), -1, 6)
    mean, var = groups.mean(1), groups.var(1)
    normal = (groups - mean[:, None]) / np.sqrt(var[:, None] + 1e-3)
    expected = (normal * VARIABLES["params"]["scale"] + VARIABLES["params"]["bias"]).reshape(X.shape)
    y, stats = train(BatchNorm(size), VARIABLES, X)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.99 * 0.3 + 0.01 * mean.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.99 * 2.0 + 0.01 * var.mean(0), rtol=1e-6)


def test_inference_uses_running_statistics_for_any_number_of_rows():
    y: Any = BatchNorm(4).apply(VARIABLES, X[:3], train=False)
    expected = (X[:3] - 0.3) / np.sqrt(2.001) * VARIABLES["params"]["scale"] + VARIABLES["params"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_statistics_stay_unless_asked_for():
    BatchNorm(4).apply(VARIABLES, X, train=True)  # not mutable: nothing to store, no error
    stats: Any = BatchNorm(4).init(jax.random.key(0), X, train=True)["batch_stats"]
    assert not stats["mean"].any() and (stats["var"] == 1).all()


def test_refuses_rows_that_do_not_divide():
    with pytest.raises(ValueError, match="groups of group_size=3, found 16 rows"):
        train(BatchNorm(3), VARIABLES, X)


@pytest.mark.parametrize(
    "alone, spread",
    [(BatchNorm(2), BatchNorm(2)), (BatchNorm(None), BatchNorm(None, axis_names=("data",)))],
    ids=["groups", "synchronised"],
)
def test_eight_devices_equal_one(alone, spread):
    """Outputs, gradients of the input and the parameters, and statistics."""

    def run(norm, params, x):
        def loss(params, x):
            y, stats = train(norm, {**VARIABLES, "params": params}, x)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    def per_device(params, x):
        (_, (y, stats)), (param_gradient, x_gradient) = run(spread, jax.lax.pcast(params, "data", to="varying"), x)
        if spread.group_size:
            stats = jax.lax.pmean(stats, "data")
        return y, x_gradient, (jax.lax.psum(param_gradient, "data"), stats)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    out_specs = (P("data"), P("data"), P())
    program = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=(P(), P("data")), out_specs=out_specs))
    found = program(VARIABLES["params"], X)
    (_, (y, stats)), (param_gradient, x_gradient) = jax.jit(lambda p, x: run(alone, p, x))(VARIABLES["params"], X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        (y, x_gradient, (param_gradient, stats)),
    )
    if spread.group_size:
        forward = jax.shard_map(
            lambda v, x: train(spread, v, x)[0], mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")
        )
        text = jax.jit(forward).lower(VARIABLES, X).as_text()
        assert "all_reduce" not in text and "all_gather" not in text
