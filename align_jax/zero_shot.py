"""Zero-shot classification with a model in use: what `Model.zero_shot` gives."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import jax
import numpy as np

from align_jax.evals import prompts
from align_jax.evals.prompts import Prompts
from align_jax.evals.zero_shot import class_weights
from align_jax.inputs import Pictures
from align_jax.types import AlignError

if TYPE_CHECKING:
    from align_jax.model import Model

TEMPLATE = "a photo of a {}."


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
    """Tells classes apart that are given by their names, in the way of ALIGN (Jia et al. 2021, section 5.2).

    Of each class all filled templates are embedded, averaged and normalised; a picture belongs to the class whose row
    lies nearest. The rows are made once, so a classifier is for many pictures.

    Attributes:
      classes: the C names, in the order of the columns of what it gives.
      templates: the texts that were filled, with {} in place of the name.
      weights: f32 [C, D], unit rows: the embeddings of the classes.
    """

    model: "Model" = dataclasses.field(repr=False)
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    weights: np.ndarray = dataclasses.field(repr=False)

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities f32 [n, C], rows that add up to 1: the softmax of `scores` over the model's temperature.

        Takes and refuses what `Model.embed_images` does.
        """
        logits = self.scores(images) / self.model.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def scores(self, images: Pictures) -> np.ndarray:
        """Cosines f32 [n, C] of images and classes."""
        return self.model.embed_images(images) @ self.weights.T

    def names(self, images: Pictures) -> list[str]:
        """The likeliest class of each of n images; of classes that score the same, the first."""
        return [self.classes[place] for place in self.scores(images).argmax(axis=1)]


def classifier(
    model: "Model", classes: str | Iterable[str], templates: str | Iterable[str], *, language: str
) -> ZeroShotClassifier:
    """As `Model.zero_shot` documents it."""
    if isinstance(templates, str) and "{" in templates:
        templates = [templates]
    asked = Prompts(
        _load("classes", classes, language),
        _load("templates", templates, language),
    )
    with jax.set_mesh(model.mesh):
        weights = class_weights(model.embedder, model.params, model.model_state, asked)
    return ZeroShotClassifier(model, asked.names, asked.templates, weights)


def _load(kind: prompts.Kind, given: str | Iterable[str], language: str) -> tuple[str, ...]:
    """The texts of a list that is given by name, or those that are given, maybe one by one."""
    if not isinstance(given, Iterable):
        raise AlignError(f"{kind}: expected texts, or the name of a list of them, found {type(given).__name__}")
    return prompts.load(kind, given if isinstance(given, str) else list(given), language=language, where=kind)
