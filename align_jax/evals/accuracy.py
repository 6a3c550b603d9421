"""Accuracy of a classifier (facts: ALIGN section 6): top-K, and the mean over classes that fine-grained sets report."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from align_jax import provenance
from align_jax.data.labelled import Labelled
from align_jax.evals import statistics
from align_jax.evals.confusion import worst_confusions
from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.evals.labelled import open_labelled
from align_jax.evals.panels import Panel
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result


class Accuracy(Evaluator):
    """How often the right class is among the best K of all classes that the model was trained on.

    Classes are matched by their names: a source may number them otherwise, or lack some.
    """

    needs = ("classify_images",)

    def __init__(self, embedder: Embedder, *, name: str, folder: Path, source: dict, at: tuple[int, ...] = (1, 5)):
        """`source`: as `config.data.source`; `at`: the K of top-K, those below the number of classes being counted."""
        if not isinstance(embedder.pairs, Labelled):
            raise AlignError(f"evals.{name}: expected a run on labelled images, found one on images with texts")
        self._embedder, self._name, self._view = embedder, name, embedder.pairs.view
        data = open_labelled(embedder, source, where=f"evals.{name}.source")
        self._source, self._classes, self._ids = data.source, embedder.pairs.classes, data.ids
        if not at or min(at) < 1:
            raise AlignError(f"evals.{name}.at: expected numbers of at least 1, found {at}")
        self._at = tuple(k for k in sorted({*at}) if k < len(self._classes))
        self._labels = _places(data.classes, self._classes, where=f"evals.{name}.source")[data.labels]
        self._protocol = f"{protocol_of(source)}: {len(self._classes)} classes, {self._view.protocol}, ties pessimistic"
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # labels and guesses

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """top1, top5, ..., mean_per_class, and majority_class, which a blind guess reaches."""
        logits, bad = self._embedder.images(params, model_state, self._source, function="classify_images")
        protocol = self._protocol + left_out(self._source, bad)
        read = np.array([i for i in range(len(logits)) if i not in bad])
        logits, labels = logits[read], self._labels[read]
        self._last = labels, logits.argmax(axis=1)
        rank = ranks(logits, labels)
        ids = statistics.digest(self._ids[read])
        facts = {"data": provenance.digest(self._source), "crop": self._view.protocol}
        found = {f"top{k}": Outcome((rank < k).astype(np.float32), ids=ids) for k in self._at}
        found["mean_per_class"] = Outcome((rank < 1).astype(np.float32), parts=labels, ids=ids)
        for metric, outcome in found.items():
            value = statistics.estimate(outcome)
            yield Result(f"{self._name}/{metric}", value, len(labels), protocol, outcome, facts)
        majority = float(np.bincount(labels).max() / len(labels))
        blind = f"{protocol}: share of the most frequent class"
        yield Result(f"{self._name}/majority_class", majority, len(labels), blind, facts=facts)

    def panels(self) -> Iterator[Panel]:
        """The classes with most errors."""
        if self._last is not None and (self._last[0] != self._last[1]).any():
            yield worst_confusions(*self._last, self._classes, title=f"{self._name}: confusion")


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [n], 0 the best, of the right classes: logits [n, C], labels int [n]. Ties are pessimistic."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits >= own).sum(axis=1) - 1


def _places(known: tuple[str, ...], classes: tuple[str, ...], *, where: str) -> np.ndarray:
    """Of a source's classes among those of the run, int [len(known)]."""
    place_of = {name: place for place, name in enumerate(classes)}
    unknown = [name for name in known if name not in place_of]
    if unknown:
        raise AlignError(
            f"{where}: expected classes that the run was trained on, as {classes[0]!r}, found {unknown[0]!r}"
        )
    return np.array([place_of[name] for name in known])
