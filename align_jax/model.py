"""A model in use: what `align_jax.load` gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from align_jax import run as runs
from align_jax import sharding
from align_jax.data.source import BadExample
from align_jax.types import AlignError, ModelState, Params


class Model:
    """A model for use: `embed_images`, `embed_texts`, `classify_images`; AlignError where it lacks what is asked for.

    `config` is the resolved config that made it, `functions` names what its task offers.
    """

    def __init__(self, parts: runs.Run, params: Params, model_state: ModelState):
        where = sharding.replicated(parts.mesh)
        self.config, self.mesh, self.embedder = parts.config, parts.mesh, parts.embedder
        self.functions = tuple(parts.task.functions())
        self.params, self.model_state = jax.device_put((params, model_state), where)

    def embed_images(self, images: Sequence[str | Path | Image.Image | np.ndarray | bytes]) -> np.ndarray:
        """Unit rows f32 [n, D] of files, pictures, encoded bytes, uint8 [H, W, 3] arrays. BadExample if unreadable."""
        return self._of_images("embed_images", images)

    def classify_images(self, images: Sequence[str | Path | Image.Image | np.ndarray | bytes]) -> np.ndarray:
        """Logits f32 [n, C] of images as above, in the order of the classes.txt beside the weights."""
        return self._of_images("classify_images", images)

    def _of_images(self, function: str, images: Sequence[Any]) -> np.ndarray:
        items = [str(image) if isinstance(image, Path) else image for image in images]
        with jax.set_mesh(self.mesh):
            rows, bad = self.embedder.images(self.params, self.model_state, items, function=function)
        for index, reason in sorted(bad.items()):
            raise BadExample(f"image {index} ({str(items[index])[:80]}): {reason}")
        return rows

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows f32 [n, D]. AlignError if one is empty."""
        for index, text in enumerate(texts):
            if not text.strip():
                raise AlignError(f"text {index}: expected at least one word, found {text!r}")
        with jax.set_mesh(self.mesh):
            return self.embedder.texts(self.params, self.model_state, texts)
