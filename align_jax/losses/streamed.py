"""A contrastive loss over gathered embeddings, without all their logits: blocks of candidates one after the other.

Both sides are gathered once, (N, D) each. A device sees all candidates of its own rows and, in the backward pass, all
queries that its own rows are candidates of: from a few gathered numbers a row it knows what those queries took from
it, so no (N, D) gradient is scattered. The price is that each logit is computed on two devices: 12 N B D operations, as
in the dense form, with B rows here; the ring takes 8.
"""

from typing import Any

import jax
import jax.numpy as jnp

from align_jax.losses import blocks
from align_jax.losses.candidates import Rows, Scale, gather
from align_jax.losses.form import How, with_gradient


def _forward(how: How, image, text, scale, marks):
    images, texts = Rows(image, marks), Rows(text, marks)
    objective = how.objective
    everyone = gather((images, texts), how.axis_names)
    forth = _sums(how, images, everyone[1], scale)
    back = _sums(how, texts, everyone[0], scale)
    found = tuple((objective.losses(sums), sums.best.hits()) for sums in (forth, back))
    return found, (images, texts, scale, everyone, (objective.norms(forth), objective.norms(back)))


def _backward(how: How, kept, cotangents):
    images, texts, scale, (all_images, all_texts), (forth, back) = kept
    (image_weight, _), (text_weight, _) = cotangents
    image_side, text_side = (forth, image_weight), (back, text_weight)
    all_image_side, all_text_side = gather((image_side, text_side), how.axis_names)
    image, bias = _gradient(how, images, image_side, all_texts, all_text_side, scale)
    text, _ = _gradient(how, texts, text_side, all_images, all_image_side, scale)
    return image, text, scale.gradients(images.vectors, image, bias), None


# `how.size`: candidates in a block.
contrast = with_gradient(_forward, _backward)


def _sums(how: How, queries: Rows, candidates: Rows, scale: Scale) -> Any:
    rules, objective, _, size = how
    total = candidates.vectors.shape[0]

    def over(number):
        at = blocks.block(number, total, size)
        part = blocks.take(candidates, at)
        masks = (mask & at.fresh[None] for mask in rules.masks(queries, part))
        return objective.sums(scale.logits(queries, part), *masks)

    def step(found, number):
        return found.merge(over(number)), None

    return jax.lax.scan(step, over(jnp.int32(0)), jnp.arange(1, blocks.count(total, size), dtype=jnp.int32))[0]


def _gradient(how: How, queries: Rows, query_side, candidates: Rows, candidate_side, scale: Scale):
    """(d loss / d queries.vectors, sum of d loss / d logits) of the queries' losses and of their candidates'."""
    rules, objective, _, size = how
    total = candidates.vectors.shape[0]
    norms, weight = query_side

    def step(carry, number):
        gradient, bias = carry
        at = blocks.block(number, total, size)
        part, (part_norms, part_weight) = blocks.take((candidates, candidate_side), at)
        logits = scale.logits(queries, part)
        forth = weight[:, None] * objective.gradients(logits, *rules.masks(queries, part), norms)
        back = part_weight[:, None] * objective.gradients(logits.T, *rules.masks(part, queries), part_norms)
        change = jnp.where(at.fresh[None], forth + back.T, 0)
        gradient += jnp.matmul(change, part.vectors, precision="highest") / scale.temperature
        return (gradient, bias + change.sum()), None

    start = jnp.zeros_like(queries.vectors), jnp.zeros_like(scale.bias)
    return jax.lax.scan(step, start, jnp.arange(blocks.count(total, size), dtype=jnp.int32))[0]
