"""Loss and gradients of a small ALIGN on 1 and 8 devices, in all ways to compute them, against the plain loss on one.

Run by test_losses.py, in float64, in the way that has most of them in it; with --all in every way and in f32 too
(launch/soak.sh prove). In a process of its own, since float64 is a setting of the whole process.
"""

import sys
from typing import NamedTuple

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

import jax.numpy as jnp
import numpy as np

from align_jax import sharding, split
from align_jax.losses.contrastive import FORMS
from align_jax.models.randomness import row_keys
from align_jax.tasks import align

split.SMALL = 64  # so that parameters of a small model are split too


def make(dtype: str, *, scan: bool = False, remat: str = "none", **fields) -> align.Align:
    """A small task with equal neighbours among its blocks and layers, all of it in `dtype`, dropout on.

    Maps end at 4 x 4 and groups have 4 rows: statistics over fewer values make gradients ill-conditioned.
    """
    how = {"scan": scan, "remat": remat}
    return align.build(
        image={"width": 0.25, "bn_group_size": 4, "stages": ((1, 3, 1, 64), (3, 3, 6, 96)), "strides": (2, 2), **how},
        text={"size": "tiny", "layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.1, **how},
        embedding=16, image_projection=True, image_size=32, text_length=8, vocab_size=64,
        dtype=dtype, param_dtype=dtype, **fields,
    )  # fmt: skip


def gradients(task, params, model_state, batch, devices, fsdp):
    """(loss, gradients, new batch statistics) through the task, as the loop calls it."""
    mesh = sharding.make_mesh(devices=devices, fsdp=fsdp)
    with jax.set_mesh(mesh):
        rng = jax.random.key(5)

        def loss(params):
            value, aux = task.loss(params, model_state, (), sharded, rng, jnp.int32(0))
            return value, aux.model_state

        sharded = sharding.place(mesh, batch)
        placed = jax.device_put(params, sharding.of_state(mesh, params))
        (value, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(placed)
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


class Way(NamedTuple):
    """To compute the step."""

    devices: int
    micro_batches: int
    form: str
    fsdp: int = 1
    gather: str = "step"
    scan: bool = False
    remat: str = "none"


WAYS = {
    "float64": [Way(8, 8, "ring", fsdp=8, gather="block", scan=True, remat="block")],
}
if "--all" in sys.argv:
    split = [(1, "step"), (2, "block"), (8, "step"), (8, "block")]
    every = [
        Way(devices, parts, form, *(how if devices > 1 else (1, "step")), scan, remat)
        for devices in (1, 8)
        for (parts, form), how in zip(zip((1, 2, 4, 8), (*FORMS, "ring"), strict=True), split, strict=True)
        for scan, remat in ((False, "none"), (True, "block"))
    ]  # fmt: skip
    WAYS = {"float64": every, "float32": every}
ROWS = 256  # groups of 4 in 8 micro-batches on 8 devices

LIMITS = {"float64": 1e-9, "float32": 5e-5}
for dtype in WAYS:
    limit = LIMITS[dtype]
    plain = make(dtype)
    batch = plain.dummy_batch(ROWS)
    params, model_state = jax.jit(plain.init)(jax.random.key(0), batch)
    reference = plainly(plain, params, model_state, batch)
    for way in WAYS[dtype]:
        task = make(
            dtype, scan=way.scan, remat=way.remat, micro_batches=way.micro_batches, loss_form=way.form, loss_block=24,
            gather=way.gather,
        )  # fmt: skip
        found = gradients(task, params, model_state, batch, way.devices, way.fsdp)
        for name, one, other in zip(("loss", "gradients", "statistics"), found, reference, strict=True):
            error = worst(one, other)
            print(f"{dtype} {way} {name}: {error:.1e}")
            assert error <= limit, (dtype, way, name, error)
    print(f"{dtype} loss and gradients agree")
