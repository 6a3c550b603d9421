"""A contrastive loss without gathering: texts travel round the ring of devices, and meet the images of each.

Every logit is computed once in the forward pass and once in the backward pass, and serves both directions: 8 N B D
operations, with B rows here, where the dense and the streamed form take 12. Memory is that of a few (B, D) arrays and
one tile of logits. What a text collects on its way is the sums over the images that it has met (forward), and its
gradient (backward). On many devices with few rows each, most of the time is N / B dependent sends: there, gather.
"""

import jax
import jax.numpy as jnp

from align_jax.losses import blocks
from align_jax.losses.candidates import Rows
from align_jax.losses.form import How, with_gradient


def _forward(how: How, image, text, scale, marks):
    images, texts = Rows(image, marks), Rows(text, marks)
    rules, objective, axis_names, size = how

    def tile(carry, here, there, image_part, text_part):
        image_sums, text_sums = carry
        logits, fresh = scale.logits(image_part, text_part), here.fresh[:, None] & there.fresh[None]
        forth = (mask & fresh for mask in rules.masks(image_part, text_part))
        back = (mask & fresh.T for mask in rules.masks(text_part, image_part))
        met = blocks.take(image_sums, here).merge(objective.sums(logits, *forth))
        seen = blocks.take(text_sums, there).merge(objective.sums(logits.T, *back))
        return blocks.put(image_sums, met, here), blocks.put(text_sums, seen, there)

    def meet(image_sums, texts, text_sums):
        return _tiles(tile, (image_sums, text_sums), images, texts, size)

    # Sums over a candidate that is not allowed are those over none.
    no = jnp.zeros_like(images.vectors[:, :1], bool)
    nobody = objective.sums(images.vectors[:, :1], no, no)
    forth, back = _round(meet, nobody, texts, nobody, axis_names)
    found = tuple((objective.losses(sums), sums.best.hits()) for sums in (forth, back))
    return found, (images, texts, scale, objective.norms(forth), objective.norms(back))


def _backward(how: How, kept, cotangents):
    rules, objective, axis_names, size = how
    images, texts, scale, forth, back = kept
    (image_weight, _), (text_weight, _) = cotangents

    def tile(carry, here, there, image_part, text_part):
        (image_gradient, bias), text_gradient = carry
        (image_rows, image_norms, image_weight), (text_rows, text_norms, text_weight) = image_part, text_part
        logits = scale.logits(image_rows, text_rows)
        forth = objective.gradients(logits, *rules.masks(image_rows, text_rows), image_norms)
        back = objective.gradients(logits.T, *rules.masks(text_rows, image_rows), text_norms)
        change = image_weight[:, None] * forth + (text_weight[:, None] * back).T
        change = jnp.where(here.fresh[:, None] & there.fresh[None], change, 0)
        image_gradient = _added(image_gradient, change / scale.temperature, text_rows.vectors, here)
        text_gradient = _added(text_gradient, change.T / scale.temperature, image_rows.vectors, there)
        return (image_gradient, bias + change.sum()), text_gradient

    def meet(image_gradient, text_side, text_gradient):
        return _tiles(tile, (image_gradient, text_gradient), (images, forth, image_weight), text_side, size)

    zero = jnp.zeros_like(images.vectors)
    stays = (zero, jnp.zeros_like(scale.bias))
    (image, bias), text = _round(meet, stays, (texts, back, text_weight), zero, axis_names)
    return image, text, scale.gradients(images.vectors, image, bias), None


# `how.size`: side of a tile of logits.
contrast = with_gradient(_forward, _backward)


def _added(gradient, change, vectors, at):
    part = blocks.take(gradient, at) + jnp.matmul(change, vectors, precision="highest")
    return blocks.put(gradient, part, at)


def _round(meet, stays, travels, collects, axis_names):
    """Once round the ring. `meet(stays, travels, collects)` -> (stays, collects), at each device that they pass.

    `stays` remains on its device, `collects` comes home with what it gathered on the way.
    """
    devices = jax.lax.axis_size(axis_names) if axis_names else 1
    if devices == 1:
        return meet(stays, travels, collects)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]

    def send(tree):
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_names, to_next), tree)

    def hop(carry, _):
        stays, travels, collects = carry
        onward = send(travels)  # needs nothing of what is computed here: they overlap
        stays, collects = meet(stays, travels, collects)
        return (stays, onward, send(collects)), None

    # What travels is not sent home: nobody needs it there.
    carry, _ = jax.lax.scan(hop, (stays, travels, collects), None, length=devices - 1)
    stays, collects = meet(*carry)
    return stays, send(collects)


def _tiles(tile, carry, images, texts, size):
    """`tile(carry, image block, text block, image rows, text rows)` -> carry, for each tile of the two sets of rows."""
    rows, columns = (jax.tree.leaves(side)[0].shape[0] for side in (images, texts))
    across = blocks.count(columns, size)

    def step(carry, number):
        here = blocks.block(number // across, rows, size)
        there = blocks.block(number % across, columns, size)
        return tile(carry, here, there, blocks.take(images, here), blocks.take(texts, there)), None

    return jax.lax.scan(step, carry, jnp.arange(blocks.count(rows, size) * across, dtype=jnp.int32))[0]
