"""Recall@K between images and texts, any number of texts per image (facts: ALIGN section 7).

An image's hits are the texts of its group; a text's hits are the images of any group that has it. Ties take the
pessimistic rank (design decision 12): a model that gives every pair the same score retrieves nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result

BLOCK = 1024  # queries whose scores stand in memory at a time


def ranks(queries: np.ndarray, candidates: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Ranks int [Q], 0 the best, of each query's best positive: how many others score at least as high.

    queries [Q, D], candidates [M, D] unit rows; positive bool [Q, M], at least one in each row.
    """
    found = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T
        hit = positive[start : start + BLOCK]
        best = np.where(hit, scores, -np.inf).max(axis=1, keepdims=True)
        found.append(((scores >= best) & ~hit).sum(axis=1))
    return np.concatenate(found)


class Retrieval(Evaluator):
    """Ranks all texts of a source for each of its images, and all images for each text."""

    needs = ("embed_images", "embed_texts")

    def __init__(self, embedder: Embedder, *, name: str, folder: Path, source: dict, at: tuple[int, ...] = (1, 5, 10)):
        """`source`: as `config.data.source`; `at`: the K of recall@K."""
        self._embedder, self._name, self._at = embedder, name, tuple(at)
        self._source, self._protocol = embedder.open(source), protocol_of(source)
        groups: list[str] = []
        texts: dict[str, set[str]] = {}
        for index in range(len(self._source)):
            record = self._source.about(index)
            groups.append(record.group)
            for text in filter(str.strip, record.texts):
                texts.setdefault(text, set()).add(record.group)
        if not texts or any(k < 1 for k in self._at):
            raise AlignError(f"evals.{name}: expected texts in the source and `at` above 0, found {len(texts)}, {at}")
        self._texts = list(texts)
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        group_has_text = np.zeros((len(number), len(texts)), bool)
        for column, having in enumerate(texts.values()):
            group_has_text[[number[group] for group in having], column] = True
        self._groups = np.array([number[group] for group in groups])
        self._positive = group_has_text[self._groups]  # [images, texts]

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K both ways."""
        images, bad = self._embedder.images(params, model_state, self._source)
        texts = self._embedder.texts(params, model_state, self._texts)
        # Asked are images with a text and texts with a readable image: the others have no right answer.
        read = np.array([i not in bad for i in range(len(images))])
        images, positive, groups = images[read], self._positive[read], self._groups[read]
        forth, back = positive.any(axis=1), positive.any(axis=0)
        protocol = (
            f"{self._protocol}: {len(images)} images of {len(np.unique(groups))} groups x {len(texts)} texts, "
            f"hit = same group, central crop, ties pessimistic{left_out(self._source, bad)}"
        )
        found = {
            "image_to_text": ranks(images[forth], texts, positive[forth]),
            "text_to_image": ranks(texts[back], images, positive.T[back]),
        }
        for way, rank in found.items():
            for k in self._at:
                yield Result(f"{self._name}/{way}/R@{k}", float((rank < k).mean()), len(rank), protocol)
