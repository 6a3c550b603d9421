"""Zero-shot classification: the class whose prompts lie nearest to the image (facts: ALIGN section 7)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result


class ZeroShot(Evaluator):
    """Top-1 accuracy. A class is the normalised mean of the embeddings of its filled templates."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, templates: tuple[str, ...],
        classes: tuple[str, ...] = (),
    ):  # fmt: skip
        """`templates` hold '{}' for the class; `classes` replace the names that the source has, in its order."""
        self._embedder, self._name, self._templates = embedder, name, tuple(templates)
        self._source, self._protocol = embedder.open(source), protocol_of(source)
        self._labels = np.array([self._source.about(i).label for i in range(len(self._source))])
        self._classes = tuple(classes) or self._source.classes
        if not self._classes or self._labels.min() < 0:
            raise AlignError(f"evals.{name}: expected a source with classes and a label for each record")
        if len(self._classes) != len(self._source.classes):
            raise AlignError(
                f"evals.{name}.classes: expected a name for each of {self._source.classes}, found {self._classes}"
            )
        if not self._templates or any("{}" not in template for template in self._templates):
            raise AlignError(
                f"evals.{name}.templates: expected texts with {{}} in place of the class, found {templates}"
            )

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Accuracy, and the share of the most frequent class, which a blind guess reaches."""
        images, bad = self._embedder.images(params, model_state, self._source)
        weights = class_weights(self._embedder, params, model_state, self._classes, self._templates)
        read = [i for i in range(len(images)) if i not in bad]
        labels = self._labels[read]
        right = (images[read] @ weights.T).argmax(axis=1) == labels
        skipped = left_out(self._source, bad)
        protocol = (
            f"{self._protocol}: {len(self._classes)} classes, prompts {list(self._templates)}, mean then normalise, "
            f"central crop{skipped}"
        )
        yield Result(f"{self._name}/top1", float(right.mean()), len(labels), protocol)
        majority = float(np.bincount(labels).max() / len(labels))
        blind = f"{self._protocol}: share of the most frequent class{skipped}"
        yield Result(f"{self._name}/majority_class", majority, len(labels), blind)


def class_weights(
    embedder: Embedder, params: Params, model_state: ModelState, classes: tuple[str, ...], templates: tuple[str, ...]
) -> np.ndarray:
    """Unit rows [C, D]: per class the normalised mean over its templates."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    rows = embedder.texts(params, model_state, prompts).reshape(len(classes), len(templates), -1).mean(axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
