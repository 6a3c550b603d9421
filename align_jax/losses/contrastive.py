"""The symmetric contrastive loss of ALIGN (Jia et al. 2021, section 4.1, equations 1 and 2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax.types import Mean


class Contrastive(NamedTuple):
    """Each a Mean over the rows here: (sum, count)."""

    loss: Mean  # image->text plus text->image: the sum of both, as in the paper
    image_to_text: Mean  # share of images whose own text scores highest in the batch; a tie is a miss
    text_to_image: Mean


def contrastive_loss(
    image: jax.Array,
    text: jax.Array,
    temperature: jax.Array,
    *,
    label_smoothing: float = 0.0,
    negatives: float = 1.0,
    axis_names: tuple[str, ...] = (),
) -> Contrastive:
    """Each image against all texts of the global batch, and each text against all images.

    Args:
      image, text: [B, D] unit vectors, f32 or f64; row r of one is the pair of row r of the other.
      temperature: scalar > 0 that divides the cosines.
      label_smoothing: eps; the target is (1 - eps) on the pair plus eps / N on every candidate.
      negatives: share of the N - 1 other rows that serve as negatives (the ablation of Table 8). The rows that follow
        in the batch are taken: the batch is shuffled, so they are a random choice.
      axis_names: mesh axes over which the rows of the global batch are split; () when all N rows are here.

    Sums over the rows here; the caller adds them up over devices.
    """
    all_images, all_texts, first = image, text, 0
    if axis_names:
        all_images = jax.lax.all_gather(image, axis_names, tiled=True)
        all_texts = jax.lax.all_gather(text, axis_names, tiled=True)
        first = jax.lax.axis_index(axis_names) * image.shape[0]
    own = first + jnp.arange(image.shape[0])
    forth = _direction(image, all_texts, own, temperature, label_smoothing, negatives)
    back = _direction(text, all_images, own, temperature, label_smoothing, negatives)
    rows = jnp.asarray(image.shape[0], image.dtype)
    return Contrastive(
        loss=Mean(forth[0] + back[0], rows), image_to_text=Mean(forth[1], rows), text_to_image=Mean(back[1], rows)
    )


def _direction(
    queries: jax.Array,
    candidates: jax.Array,
    own: jax.Array,
    temperature: jax.Array,
    smoothing: float,
    negatives: float,
) -> tuple[jax.Array, jax.Array]:
    """(sum of losses, sum of hits) of queries [B, D] whose pairs are rows own [B] of candidates [N, D]."""
    # Full f32 products: at temperature 1/64 the bf16 passes that are the default on a TPU would move logits by 0.2.
    logits = jnp.matmul(queries, candidates.T, precision="highest") / temperature
    total = candidates.shape[0]
    kept = total
    if negatives < 1.0:
        kept = 1 + round(negatives * (total - 1))
        distance = (jnp.arange(total)[None, :] - own[:, None]) % total
        logits = jnp.where(distance < kept, logits, -jnp.inf)
    positive = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    mean_logit = jnp.where(jnp.isfinite(logits), logits, 0.0).sum(axis=1) / kept
    target = (1.0 - smoothing) * positive + smoothing * mean_logit
    losses = jax.nn.logsumexp(logits, axis=1) - target
    hits = jnp.sum(logits >= positive[:, None], axis=1) == 1
    return losses.sum(), hits.astype(queries.dtype).sum()
