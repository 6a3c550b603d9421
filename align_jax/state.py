"""TrainState: everything that a step changes, as plain pytrees."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from align_jax import paths, sharding, split
from align_jax.optim import Optimizer
from align_jax.types import Batch, ModelState, Params, PyTree, Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds. `step` counts finished steps and is the position in the data."""

    step: jax.Array  # scalar int32
    params: Params
    model_state: ModelState
    task_state: PyTree
    opt_state: dict[str, Any]
    rng: jax.Array  # typed key; step s draws from fold_in(rng, s)


def create(task: Task, optimizer: Optimizer, batch: Batch, *, seed: int, mesh: jax.sharding.Mesh) -> TrainState:
    """A fresh state, created on the devices where it will live."""
    where = jax.tree.map(lambda x: x.sharding, abstract(task, optimizer, batch, mesh=mesh))
    return jax.jit(_fresh(task, optimizer, batch), out_shardings=where)(jax.random.key(seed))


def abstract(task: Task, optimizer: Optimizer, batch: Batch, *, mesh: jax.sharding.Mesh) -> TrainState:
    """The shapes, dtypes and shardings of `create`'s result; costs no memory."""
    shapes = jax.eval_shape(lambda: _fresh(task, optimizer, batch)(jax.random.key(0)))
    parameters = {path: x.shape for path, x in paths.flatten(shapes.params).items()}
    split.check(task.split, parameters, mesh.shape["fsdp"])
    where = sharding.of_state(mesh, shapes, task.split)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, where)


def _fresh(task: Task, optimizer: Optimizer, batch: Batch) -> Any:
    def fresh(key: jax.Array) -> TrainState:
        init_key, rng = jax.random.split(key)
        params, model_state = task.init(init_key, batch)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            task_state=task.init_task_state(params, model_state),
            opt_state=optimizer.init(params),
            rng=rng,
        )

    return fresh
