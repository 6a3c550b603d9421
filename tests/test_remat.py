"""Rematerialisation: the same loss and gradients, with less kept for the backward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import relative_error

from align_jax import sharding
from align_jax.tasks import align

POLICIES = ("none", ("depthwise", "attention", "mlp"), "block")


def with_policy(policy):
    """The tiny task; of a list of names, each tower takes those that it marks."""
    tiny = align.tiny()
    image = policy if isinstance(policy, str) else ("depthwise",)
    text = policy if isinstance(policy, str) else ("attention", "mlp")
    model = tiny.model.clone(
        image_tower=tiny.model.image_tower.clone(remat=image), text_tower=tiny.model.text_tower.clone(remat=text)
    )
    return dataclasses.replace(tiny, model=model)


def loss_of(task, params, model_state, batch):
    return task.loss(params, model_state, (), batch, jax.random.key(3), jnp.int32(0))[0]


def test_values_and_gradients_are_the_same():
    batch = align.tiny().dummy_batch(32)
    params, model_state = jax.jit(align.tiny().init)(jax.random.key(0), batch)
    found = {}
    with jax.set_mesh(sharding.make_mesh(devices=1)):
        for policy in ("none", "block"):
            task = with_policy(policy)
            found[policy] = jax.jit(jax.value_and_grad(lambda p, t=task: loss_of(t, p, model_state, batch)))(params)
    for value, gradients in found.values():
        np.testing.assert_allclose(value, found["none"][0], rtol=1e-6)
        assert relative_error(gradients, found["none"][1]) < 1e-4


def test_less_is_kept():
    """Bytes that the forward pass hands to the backward pass."""
    batch = align.tiny().dummy_batch(32)
    params, model_state = jax.eval_shape(align.tiny().init, jax.random.key(0), batch)
    sizes = []
    with jax.set_mesh(sharding.make_mesh(devices=1)):
        for policy in POLICIES:
            task = with_policy(policy)
            kept = jax.eval_shape(
                lambda p, s, t=task: jax.vjp(lambda p: loss_of(t, p, s, batch), p)[1], params, model_state
            )
            sizes.append(sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(kept)))
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * 1.05 * sizes[2]


def test_micro_batches_need_the_memory_of_one():
    """Temporary bytes of loss and gradients, as XLA plans them."""
    sizes = []
    with jax.set_mesh(sharding.make_mesh(devices=1)):
        for count in (1, 8):
            task = dataclasses.replace(align.tiny(), micro_batches=count)
            batch = task.dummy_batch(128)
            shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
            step = jax.jit(jax.grad(lambda p, s, b, t=task: loss_of(t, p, s, b)))
            sizes.append(step.lower(*shapes, batch).compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] < sizes[0] / 3


@pytest.mark.parametrize("tower", ["image", "text"])
def test_an_unknown_name_is_refused(tower):
    towers = {"image": {"width": 0.25, "depth": 0.1}, "text": {"size": "tiny"}}
    towers[tower]["remat"] = ["depthwize"]
    with pytest.raises(align.AlignError, match=r"remat: expected one of .*found \('depthwize',\)"):
        align.build(**towers, embedding=16, image_projection=True, image_size=64, text_length=8, vocab_size=64)
