"""`align_jax.load`: a trained model in three lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from align_jax import config as configs
from align_jax import paths
from align_jax import run as runs
from align_jax.data.source import BadExample
from align_jax.types import AlignError, ModelState, Params


class Model:
    """A model for use: `embed_images`, `embed_texts`. `config` is the resolved config that made it."""

    def __init__(self, parts: runs.Run, params: Params, model_state: ModelState):
        self.config, self.params, self.model_state = parts.config, params, model_state
        self.embedder, self.mesh = parts.embedder, parts.mesh

    def embed_images(self, images: Sequence[str | Path | Image.Image | np.ndarray | bytes]) -> np.ndarray:
        """Unit rows f32 [n, D] of files, pictures, encoded bytes or uint8 [H, W, 3] arrays. BadExample if unreadable."""
        items = [str(image) if isinstance(image, Path) else image for image in images]
        with jax.set_mesh(self.mesh):
            rows, bad = self.embedder.images(self.params, self.model_state, items)
        for index, reason in bad.items():
            raise BadExample(f"image {index} ({str(items[index])[:80]}): {reason}")
        return rows

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows f32 [n, D]."""
        with jax.set_mesh(self.mesh):
            return self.embedder.texts(self.params, self.model_state, texts)


def load(path: str | Path) -> Model:
    """The model of a work directory (its last checkpoint) or of an export."""
    folder = Path(path)
    if (folder / "checkpoints").is_dir():
        parts = runs.prepare(configs.load(folder / "config.json"), folder, None)
        with jax.set_mesh(parts.mesh):
            state = parts.restored()
        return Model(parts, parts.optimizer.averaged(state.params, state.opt_state), state.model_state)
    if (folder / "model.safetensors").is_file():
        parts = runs.prepare(configs.load(folder / "config.json"), folder, None)
        tree: dict[str, Any] = paths.unflatten(load_file(folder / "model.safetensors"))
        return Model(parts, tree["params"], tree.get("model_state", {}))
    raise AlignError(
        f"expected a work directory with checkpoints/ or an export with model.safetensors, found neither in {path}"
    )
