"""Queries of images plus and minus texts (ALIGN section 7, Figure 5): arithmetic of embeddings."""

from collections.abc import Sequence

import numpy as np

from align_jax.types import AlignError

TEXT_WEIGHT = 2.0  # of a text where an image weighs 1: the best of those that the paper tried (its footnote 4)
SMALLEST = 1e-4  # of a sum whose direction still means something, as a part of the weights in it


def compose(
    images: np.ndarray, image_weights: Sequence[float], texts: np.ndarray, text_weights: Sequence[float]
) -> np.ndarray:
    """f32 [D] of unit length: the weighted sum of images [n, D] and texts [m, D], a negative weight takes away.

    The rows are brought to unit length first, so that the weights mean the same for both. n or m may be 0. AlignError
    for a query without anything, weights that are no finite numbers, and parts that cancel one another.
    """
    rows = np.concatenate([images, texts]).astype(np.float64)
    weights = np.array([*image_weights, *text_weights], np.float64)
    if len(rows) != len(weights) or len(images) != len(image_weights):
        raise AlignError(
            f"query: expected a weight for each of {len(images)} images and {len(texts)} texts, found "
            f"{len(image_weights)} and {len(text_weights)}"
        )
    if not np.isfinite(weights).all():
        raise AlignError(f"query: expected weights that are finite numbers, found {weights.tolist()}")
    if not weights.any():
        raise AlignError("query: expected an image or a text with a weight other than 0, found none")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths[weights != 0].all():
        raise AlignError("query: expected embeddings that are not zero, found one that is")
    total = weights @ (rows / np.where(lengths == 0, 1, lengths))
    length = np.linalg.norm(total)
    if length < SMALLEST * abs(weights).sum():
        raise AlignError("query: expected parts that do not cancel one another, found a sum of zero; change a weight")
    return (total / length).astype(np.float32)
