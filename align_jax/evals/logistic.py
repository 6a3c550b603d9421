"""Multinomial logistic regression on rows that lie split over the devices, by L-BFGS.

The loss is scikit-learn's: the sum of the rows' cross-entropies + l2 / 2 x the squared weights, without the biases, so
that l2 = 1 / C. It is computed divided by the number of rows, in f32, a block of rows at a time: logits of all rows
never stand in memory.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from align_jax import sharding

BLOCK = 4096  # rows of a block


class Logistic(NamedTuple):
    """weights f32 [D, C] and bias f32 [C], -inf for classes that had no example."""

    weights: Any
    bias: Any

    def logits(self, rows: jax.Array) -> jax.Array:
        """f32 [n, C]."""
        return jnp.matmul(rows, self.weights, precision="highest") + self.bias[None, :]


class Fitted(NamedTuple):
    """A model, after how many steps, and the norm of its gradient as a share of that at zero weights."""

    model: Logistic
    steps: int
    gradient: float


def zeros(width: int, classes: int) -> Logistic:
    """Where a search starts."""
    return Logistic(np.zeros((width, classes), np.float32), np.zeros(classes, np.float32))


def cross_entropy(model: Logistic, rows: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The sum over rows [n, D] with labels int32 [n], each times its weight [n]."""
    return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(model.logits(rows), labels))


def predict(mesh: jax.sharding.Mesh, model: Logistic, rows: np.ndarray, k: int) -> np.ndarray:
    """int32 [n, k]: the classes of rows f32 [n, D], the likeliest first."""
    count = BLOCK * mesh.size
    found = []
    with jax.set_mesh(mesh):
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            placed = sharding.place(mesh, {"row": _own(mesh, _padded(part, min(count, _up(len(part), mesh.size))))})
            found.append(np.asarray(_likeliest(mesh, k, model, placed["row"]))[: len(part)])
    return np.concatenate(found)


class Regression:
    """Rows f32 [n, D] with labels int [n] of `classes`, put on the devices once and fitted many times."""

    def __init__(self, mesh: jax.sharding.Mesh, rows: np.ndarray, labels: np.ndarray, classes: int):
        self._mesh, self._labels, self._classes = mesh, labels, classes
        self._shape = rows.shape
        self._block = min(BLOCK, _up(-(-len(rows) // mesh.size), 8))
        self._count = _up(len(rows), self._block * mesh.size)
        self._rows = sharding.place(mesh, {"row": self._own(rows)})

    def fit(
        self, used: np.ndarray, l2: float, *, start: Logistic | None = None, tolerance: float, most: int
    ) -> Fitted:  # fmt: skip
        """The model of the rows where bool [n] `used`, from `start` or zero.

        Ends where the norm of the gradient is at most `tolerance` of that at zero weights, or after `most` steps.
        """
        present = np.bincount(self._labels[used], minlength=self._classes) > 0
        zero = zeros(self._shape[1], self._classes)
        start = zero if start is None else start._replace(bias=np.where(np.isfinite(start.bias), start.bias, 0))
        bias = np.where(present, np.float32(0), np.float32(-np.inf))
        shared = {"absent": bias, "l2": np.float32(l2), "count": np.float32(used.sum())}
        weight = self._own(used.astype(np.float32))
        # What is not used may be of a class that is not there, whose loss is infinite, and 0 x infinity is nan.
        label = np.where(weight > 0, self._own(self._labels.astype(np.int32)), np.int32(present.argmax()))
        rows = self._rows | sharding.place(self._mesh, {"weight": weight, "label": label})
        with jax.set_mesh(self._mesh):
            model, steps, gradient = _lbfgs(self._block, shared, rows, zero, start, tolerance, most)
        weights, found = np.asarray(model.weights), np.asarray(model.bias)
        return Fitted(Logistic(weights, found + bias), int(steps), float(gradient))

    def _own(self, values: np.ndarray) -> np.ndarray:
        return _own(self._mesh, _padded(values, self._count))


def _up(count: int, of: int) -> int:
    return -(-count // of) * of


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    return np.pad(values, [(0, count - len(values))] + [(0, 0)] * (values.ndim - 1))


def _own(mesh: jax.sharding.Mesh, values: np.ndarray) -> np.ndarray:
    own = sharding.local_rows(mesh, len(values))
    return values[own.start : own.stop]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _likeliest(mesh: jax.sharding.Mesh, k: int, model: Logistic, rows: jax.Array) -> jax.Array:
    return sharding.whole(mesh, jax.lax.top_k(model.logits(rows), k)[1])


@functools.partial(jax.jit, static_argnums=0)
def _lbfgs(
    block: int, shared: dict[str, Any], rows: dict[str, Any], zero: Logistic, start: Logistic, tolerance: Any, most: Any
) -> tuple[Logistic, jax.Array, jax.Array]:
    def local(shared: Any, rows: dict[str, Any]) -> tuple[tuple[()], jax.Array]:
        model, absent = shared
        model = Logistic(model.weights, model.bias + absent)

        @jax.checkpoint  # its logits are computed again for the gradient, not kept
        def one(part: dict[str, Any]) -> jax.Array:
            return cross_entropy(model, part["row"], part["label"], part["weight"])

        blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows)
        return (), sharding.total(jnp.sum(jax.lax.map(one, blocks)))

    def loss(model: Logistic) -> jax.Array:
        _, found = sharding.per_device(local)((model, shared["absent"]), rows)
        return (found + shared["l2"] / 2 * jnp.sum(model.weights**2)) / shared["count"]

    search = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    scale = optax.tree.norm(jax.grad(loss)(zero))

    def step(carry: Any) -> Any:
        model, state, _, steps = carry
        value, gradient = value_and_grad(model, state=state)
        updates, state = search.update(gradient, state, model, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(model, updates), state, optax.tree.norm(optax.tree.get(state, "grad")), steps + 1

    def going(carry: Any) -> jax.Array:
        _, _, norm, steps = carry
        return (norm > tolerance * scale) & (steps < most)

    begin = (start, search.init(start), jnp.float32(jnp.inf), jnp.int32(0))
    model, _, norm, steps = jax.lax.while_loop(going, step, begin)
    return model, steps, norm / jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)
