"""The contrastive losses of two towers, each exact in three forms.

The softmax loss is ALIGN's (Jia et al. 2021, section 4.1, equations 1 and 2), the sigmoid loss SigLIP's (Zhai et al.
2023, section 3.2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax.losses import ring, streamed
from align_jax.losses.candidates import Marks, Rows, Rules, Scale, gather
from align_jax.losses.form import How
from align_jax.losses.objectives import Objective, Sigmoid, Softmax
from align_jax.types import Mean

FORMS = ("dense", "streamed", "ring")


class Contrastive(NamedTuple):
    """Each a Mean over the rows here: (sum, count)."""

    loss: Mean  # image->text plus text->image: the sum of both, as in the paper
    image_to_text: Mean  # share of images of which a positive scores highest in the batch; a tie is a miss
    text_to_image: Mean


def contrastive_loss(
    image: jax.Array,
    text: jax.Array,
    temperature: jax.Array,
    *,
    bias: jax.Array | None = None,
    ids: jax.Array | None = None,
    duplicates: str = "negatives",
    label_smoothing: float = 0.0,
    negatives: float = 1.0,
    form: str = "dense",
    block: int = 1024,
    axis_names: tuple[str, ...] = (),
) -> Contrastive:
    """Each image against all texts of the global batch, and each text against all images.

    Args:
      image, text: [B, D] unit vectors, f32 or f64; row r of one is the pair of row r of the other.
      temperature: scalar > 0 that divides the cosines.
      bias: scalar that is added to the logits of the sigmoid loss; None means the softmax loss.
      ids: uint32 [B, K, 2]: rows of the global batch that agree in one of K ids (of image, of caption) are duplicates.
      duplicates: what a duplicate of a row's own pair is: one of the "negatives", as in the paper; "shared": a positive
        too, and each of them gets an equal part of the target; "ignored": no candidate.
      label_smoothing: eps; the target is (1 - eps) on the pair plus eps / count on each of its candidates (N, unless
        `negatives` or `duplicates` leave some out). Softmax only.
      negatives: share of the N - 1 other rows that serve as negatives (the ablation of Table 8). The rows that follow
        in the batch are taken: the batch is shuffled, so they are a random choice.
      form: "dense" gathers both sides and holds all B x N logits; "streamed" gathers and holds B x `block`; "ring"
        sends the texts round and holds `block` x `block`. All give the same values and gradients.
      axis_names: mesh axes over which the rows of the global batch are split; () when all N rows are here.

    Sums over the rows here; the caller adds them up over devices.
    """
    rows = image.shape[0]
    devices = jax.lax.axis_size(axis_names) if axis_names else 1
    first = jax.lax.axis_index(axis_names) * rows if axis_names else 0
    number = first + jnp.arange(rows, dtype=jnp.int32)
    ids = number.astype(jnp.uint32)[:, None, None][:, :0] if ids is None else ids  # none: [B, 0, 1]
    total = rows * devices
    rules = Rules(total, 1 + round(negatives * (total - 1)), duplicates)
    objective = Softmax(label_smoothing) if bias is None else Sigmoid()
    scale = Scale(temperature, jnp.zeros_like(temperature) if bias is None else bias)
    marks = Marks(number, ids)
    if form == "dense":
        images, texts = Rows(image, marks), Rows(text, marks)
        found = (_dense(*sides, scale, rules, objective, axis_names) for sides in ((images, texts), (texts, images)))
    else:
        contrast = {"streamed": streamed, "ring": ring}[form].contrast
        found = contrast(How(rules, objective, axis_names, block), image, text, scale, marks)
    (forth, image_hits), (back, text_hits) = found
    count = jnp.asarray(rows, image.dtype)
    return Contrastive(Mean((forth + back).sum(), count), Mean(image_hits.sum(), count), Mean(text_hits.sum(), count))


def _dense(
    queries: Rows, others: Rows, scale: Scale, rules: Rules, objective: Objective, axis_names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """(losses, hits) [B] of one direction, all logits at once: the form to compare the others with."""
    others = gather(others, axis_names)
    sums = objective.sums(scale.logits(queries, others), *rules.masks(queries, others))
    return objective.losses(sums), sums.best.hits()
