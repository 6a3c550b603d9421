"""A cross-encoder that looks again at what a text query has found."""

from collections.abc import Sequence

import jax
import numpy as np

from align_jax.data.source import Source
from align_jax.evals.features import Records
from align_jax.evals.pair_scores import NEEDS, Scorer
from align_jax.model import Model
from align_jax.types import AlignError


class Reranker:
    """Scores records of a source with a text. Safe among threads.

    Attributes: top, how many of the pictures that are found it looks at.
    """

    def __init__(self, model: Model, source: Source, top: int):
        """AlignError for a model that scores no pairs."""
        missing = [name for name in NEEDS if name not in model.functions]
        if missing:
            raise AlignError(
                f"--rerank: expected a cross-encoder, with {missing[0]}; found {sorted(model.functions)}"
            )  # fmt: skip
        self._model, self._source, self.top = model, source, top

    def __call__(self, text: str, rows: Sequence[int]) -> np.ndarray:
        """Matching logits f32 [n] of records; -inf where the model cannot be shown one."""
        model = self._model
        with jax.set_mesh(model.mesh):
            tokens, bad = model.embedder.images(
                model.params, model.model_state, Records(self._source, rows), function=NEEDS[0], remember=False
            )
            read = model.embedder.pairs.texts([text])
            scorer = Scorer(model.embedder, model.params, model.model_state, read, most=len(rows))
            scores = scorer(scorer.place(tokens), np.stack([np.arange(len(rows)), np.zeros(len(rows), int)], axis=1))
        scores[list(bad)] = -np.inf
        return scores
