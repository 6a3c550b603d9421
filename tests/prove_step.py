"""Loss and gradients of the tiny ALIGN on 1 and on 8 devices, and against the plain loss on one: run by test_losses.py.

A process of its own, since float64 is a setting of the whole process.
"""

import dataclasses

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.losses.contrastive import contrastive_loss
from align_jax.models.randomness import row_keys
from align_jax.tasks import align


def make(dtype: str) -> align.Align:
    """The tiny task, all of it in `dtype`."""
    tiny = align.tiny()
    fields = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    model = tiny.model.clone(
        image_tower=tiny.model.image_tower.clone(**fields),
        text_tower=tiny.model.text_tower.clone(**fields),
        param_dtype=fields["param_dtype"],
    )
    return dataclasses.replace(tiny, model=model)


def gradients(task, params, model_state, batch, devices):
    """(loss, gradients, new batch statistics) through the task, as the loop calls it."""
    mesh = sharding.make_mesh(devices=devices)
    with jax.set_mesh(mesh):
        rng = jax.random.key(5)

        def loss(params):
            value, aux = task.loss(params, model_state, (), sharded, rng, jnp.int32(0))
            return value, aux.model_state

        sharded = sharding.place(mesh, batch)
        (value, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((value, grads, state))


def plainly(task, params, model_state, batch):
    """The same without a mesh: one forward pass over all rows and the dense loss."""

    def loss(params):
        (image, text), state = task.model.apply(
            {"params": params, **model_state},
            jnp.asarray(batch["image"]).astype(task.model.param_dtype) / 127.5 - 1.0,
            batch["text_ids"], batch["text_mask"], train=True, keys=row_keys(jax.random.key(5), 32),
            mutable=list(model_state),
        )  # fmt: skip
        parts = contrastive_loss(image, text, jnp.exp(params["log_temperature"]), label_smoothing=task.label_smoothing)
        return parts.loss.total / parts.loss.count, state

    (value, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((value, grads, state))


def worst(a, b):
    """Largest difference as a share of the largest entry of the tree."""
    size = max(np.abs(x).max() for x in jax.tree.leaves(b))
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) / size


for dtype, limit in (("float64", 1e-9), ("float32", 5e-5)):
    task = make(dtype)
    batch = task.dummy_batch(32)
    params, model_state = jax.jit(task.init)(jax.random.key(0), batch)
    reference = plainly(task, params, model_state, batch)
    for devices in (1, 8):
        found = gradients(task, params, model_state, batch, devices)
        for name, one, other in zip(("loss", "gradients", "statistics"), found, reference, strict=True):
            error = worst(one, other)
            print(f"{dtype} {devices} devices, {name}: {error:.1e}")
            assert error <= limit, (dtype, devices, name, error)
    print(f"{dtype} loss and gradients agree")
