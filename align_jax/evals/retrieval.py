"""Recall@K between images and texts, any number of texts per image (facts: ALIGN section 7).

An image's hits are the texts of its group; a text's hits are the images of any group that has it. Ties take the
pessimistic rank (design decision 12): a model that gives every pair the same score retrieves nothing.
"""

from collections.abc import Iterator

import numpy as np

from align_jax.data import source as sources
from align_jax.evals.embedding import Embedder
from align_jax.types import ModelState, Params, Result

BLOCK = 1024  # queries whose scores stand in memory at a time


def ranks(queries: np.ndarray, candidates: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Ranks int [Q], 0 the best, of each query's best positive among candidates.

    queries [Q, D], candidates [M, D] unit vectors; positive bool [Q, M] given by blocks through indexing.
    """
    found = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T
        hit = positive[start : start + BLOCK]
        best = np.where(hit, scores, -np.inf).max(axis=1, keepdims=True)
        found.append(((scores >= best) & ~hit).sum(axis=1))
    return np.concatenate(found)


class Retrieval:
    """Ranks all texts of a source for each of its images, and all images for each text."""

    needs = ("embed_images", "embed_texts")

    def __init__(self, embedder: Embedder, *, name: str, source: dict, at: tuple[int, ...] = (1, 5, 10)):
        """`source`: as `config.data.source`; `at`: the K of recall@K."""
        self._embedder, self._name, self._at = embedder, name, tuple(at)
        self._source = sources.make(**source)
        records = [self._source[i] for i in range(len(self._source))]
        self._groups = [record.group for record in records]
        texts: dict[str, set[str]] = {}
        for record in records:
            for text in record.texts:
                texts.setdefault(text, set()).add(record.group)
        self._texts = list(texts)
        number = {group: i for i, group in enumerate(dict.fromkeys(self._groups))}
        image_of = np.array([number[group] for group in self._groups])
        group_has_text = np.zeros((len(number), len(texts)), bool)
        for column, groups in enumerate(texts.values()):
            group_has_text[[number[group] for group in groups], column] = True
        self._positive = group_has_text[image_of]  # [images, texts]

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K both ways."""
        images, bad = self._embedder.images(params, model_state, self._source)
        texts = self._embedder.texts(params, model_state, self._texts)
        read = np.array([i for i in range(len(images)) if i not in bad])
        images, positive = images[read], self._positive[read]
        size = f"{len(images)} images of {len(set(self._groups))} groups x {len(texts)} texts"
        asked = positive.any(axis=0)  # a text whose images are all unreadable has no right answer
        forth = ranks(images, texts, positive)
        back = ranks(texts[asked], images, positive.T[asked])
        for way, rank in (("image_to_text", forth), ("text_to_image", back)):
            for k in self._at:
                protocol = f"{size}, hit = same group, central crop, ties pessimistic"
                yield Result(f"{self._name}/{way}/R@{k}", float((rank < k).mean()), len(rank), protocol)
