"""Retrieval between the images and the texts of a source by their embeddings (facts: ALIGN section 7)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.evals.embedding import Embedder, left_out
from align_jax.evals.pools import Pools
from align_jax.evals.ranking import AT, Asked, ranks
from align_jax.evals.retrieval_panels import Panels, Shown
from align_jax.types import Evaluator, ModelState, Params, Result


class Retrieval(Evaluator):
    """Ranks all texts for each image, and all images for each text: R@K, median rank and mean recall."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, at: Sequence[int] = AT,
        texts: str = "unique", captions: int = 0, folds: int = 1, seed: int = 0,
    ):  # fmt: skip
        """`source`: as `config.data.source`. `at`: the K of recall@K.

        `texts`: "unique", equal texts are one candidate that is right for the images of each group that has it; or
        "all", each caption is a candidate and a query of its own, right for the images of its own group alone, as
        published on Flickr30k and COCO. `captions`: the first so many of each image; 0 for all. `folds`: so many
        stretches of the images, in order, are asked apart; numbers are the means over them, as for COCO's 1K.
        `seed` draws what the panels show.
        """
        self._embedder, self._seed = embedder, seed
        self._pools = Pools(
            embedder, name=name, source=source, at=at, texts=texts, captions=captions, folds=folds
        )  # fmt: skip
        self._shown: Shown | None = None
        self._ways: tuple[Asked, ...] = ()

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K and median rank both ways, and the mean recall."""
        images, bad = self._embedder.images(params, model_state, self._pools.source)
        skipped = left_out(self._pools.source, bad)
        texts = self._embedder.texts(params, model_state, self._pools.texts)
        pools = self._pools.readable(bad)
        ranked = []
        for number, pool in enumerate(pools):
            rows = taken(images, pool.images), taken(texts, pool.texts)
            ranked.append(ranks(self._embedder.mesh, *rows, pool.right))
            if not number:
                self._shown = Shown(pool.images, pool.texts, *rows, pool.right, ranked[0])
        found = self._pools.found(pools, ranked, skipped=skipped)
        self._ways = found.ways
        yield from self._pools.results(found)

    def panels(self) -> Iterator[Any]:
        """What some queries found, recall against K, a batch's scores, and a map."""
        if self._shown is None:
            return
        of = f", of the first of {self._pools.folds} folds" if self._pools.folds > 1 else ""
        panels = Panels(
            self._shown, self._pools.source, self._pools.texts, name=self._pools.name, of=of, seed=self._seed
        )  # fmt: skip
        yield panels.texts_to_images(self._embedder.mesh)
        yield panels.images_to_texts(self._embedder.mesh)
        yield panels.recall(self._ways)
        yield panels.similarity()
        yield panels.map()


def taken(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """rows[index], without a copy where that is all of them."""
    return rows if np.array_equal(index, np.arange(len(rows))) else rows[index]
