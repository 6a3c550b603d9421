"""Multinomial logistic regression by SGD with momentum, on rows that the host hands over some steps at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from align_jax import sharding
from align_jax.evals.embedding import SLOW
from align_jax.evals.logistic import Logistic, cross_entropy, zeros

STEPS = 64  # whose rows lie on the devices at a time


def fit(
    mesh: jax.sharding.Mesh, rows: np.ndarray, labels: np.ndarray, classes: int, *, learning_rate: float,
    momentum: float, batch_size: int, epochs: int, decay: float, every: int, seed: int,
) -> Logistic:  # fmt: skip
    """The model after `epochs` over rows f32 [n, D] with labels int [n], each in an order of its own, from zero.

    The loss of a step is the mean cross-entropy of its batch; the last batch of an epoch has what is left. The
    learning rate is multiplied by `decay` after each `every` epochs. No weight decay, no augmentation.
    """
    batch = min(batch_size, len(rows))
    steps = -(-len(rows) // batch)
    optimizer = optax.sgd(optax.exponential_decay(learning_rate, every * steps, decay, staircase=True), momentum)

    def step(carry: Any, rows: dict[str, jax.Array]) -> tuple[Any, tuple[()]]:
        model, state = carry

        def loss(model: Logistic) -> jax.Array:
            return cross_entropy(model, rows["row"], rows["label"], rows["weight"]) / jnp.sum(rows["weight"])

        updates, state = optimizer.update(jax.grad(loss)(model), state, model)
        return (optax.apply_updates(model, updates), state), ()

    @jax.jit
    def run(carry: Any, placed: dict[str, jax.Array]) -> Any:
        by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), placed)
        return jax.tree.map(lambda x: sharding.whole(mesh, x), jax.lax.scan(step, carry, by_step)[0])

    start = zeros(rows.shape[1], classes)
    carry: Any = (start, optimizer.init(start))
    width = -(-batch // mesh.size) * mesh.size
    own = sharding.local_rows(mesh, width)
    rng = np.random.default_rng(seed)
    with jax.set_mesh(mesh):
        for _ in tqdm(range(epochs), "SGD", unit="epoch", delay=SLOW, leave=False, disable=None):
            order = np.full((steps, width), -1)  # -1: no row
            order[:, :batch].flat[: len(rows)] = rng.permutation(len(rows))
            for first in range(0, steps, STEPS):
                drawn = order[first : first + STEPS, own.start : own.stop].T
                local = {"row": rows[drawn], "label": labels[drawn].astype(np.int32)}
                local["weight"] = (drawn >= 0).astype(np.float32)
                carry = run(carry, sharding.place(mesh, local))
    return Logistic(np.asarray(carry[0].weights), np.asarray(carry[0].bias))
