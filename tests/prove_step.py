"""Loss and gradients of the tiny ALIGN on 1 and 8 devices, whole and in micro-batches, against the plain loss on one.

Run by test_losses.py, in a process of its own, since float64 is a setting of the whole process.
"""

import dataclasses
import functools
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.losses.contrastive import FORMS
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
            batch["text_ids"], batch["text_mask"], train=True, keys=row_keys(jax.random.key(5), ROWS),
            mutable=list(model_state),
        )  # fmt: skip
        parts = task.contrast(image, text, jnp.exp(params["log_temperature"]))
        return parts.loss.total / parts.loss.count, state

    (value, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((value, grads, state))


def worst(a, b):
    """Largest difference as a share of the largest entry of the tree."""
    size = max(np.abs(x).max() for x in jax.tree.leaves(b))
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) / size


# (devices, micro-batches, form of the loss). All pairs of the first two: prove_step.py --all
LAYOUTS = {"float64": [(1, 4, "dense"), (8, 1, "streamed"), (8, 8, "ring")],
           "float32": [(8, 4, "ring")]}  # fmt: skip
if "--all" in sys.argv:
    every = [
        (devices, parts, form) for devices in (1, 8) for parts, form in zip((1, 2, 4, 8), (*FORMS, "ring"), strict=True)
    ]
    LAYOUTS = {"float64": every, "float32": every}
ROWS = 256  # groups of 4 in 8 micro-batches on 8 devices

for dtype, limit in (("float64", 1e-9), ("float32", 5e-5)):
    task = make(dtype)
    batch = task.dummy_batch(ROWS)
    params, model_state = jax.jit(task.init)(jax.random.key(0), batch)
    reference = plainly(task, params, model_state, batch)
    for devices, micro_batches, form in LAYOUTS[dtype]:
        contrast = functools.partial(task.contrast, form=form, block=24)
        variant = dataclasses.replace(task, micro_batches=micro_batches, contrast=contrast)
        found = gradients(variant, params, model_state, batch, devices)
        for name, one, other in zip(("loss", "gradients", "statistics"), found, reference, strict=True):
            error = worst(one, other)
            print(f"{dtype} {devices} devices, {micro_batches} micro-batches, {form}, {name}: {error:.1e}")
            assert error <= limit, (dtype, devices, micro_batches, form, name, error)
    print(f"{dtype} loss and gradients agree")
