"""`align_jax.load`: a trained model in three lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from safetensors.numpy import load_file

from align_jax import config as configs
from align_jax import paths, sharding
from align_jax import run as runs
from align_jax.data.source import BadExample
from align_jax.types import AlignError, ModelState, Params


class Model:
    """A model for use: `embed_images`, `embed_texts`. `config` is the resolved config that made it, `functions` names
    what its task offers."""

    def __init__(self, parts: runs.Run, params: Params, model_state: ModelState):
        where = sharding.replicated(parts.mesh)
        self.config, self.mesh, self.embedder = parts.config, parts.mesh, parts.embedder
        self.functions = tuple(parts.task.functions())
        self.params, self.model_state = jax.device_put((params, model_state), where)

    def embed_images(self, images: Sequence[str | Path | Image.Image | np.ndarray | bytes]) -> np.ndarray:
        """Unit rows f32 [n, D] of files, pictures, encoded bytes, uint8 [H, W, 3] arrays. BadExample if unreadable."""
        items = [str(image) if isinstance(image, Path) else image for image in images]
        with jax.set_mesh(self.mesh):
            rows, bad = self.embedder.images(self.params, self.model_state, items)
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


def load(path: str | Path) -> Model:
    """The model of a work directory (its last checkpoint) or of an export."""
    folder = Path(path)
    weights = folder / "model.safetensors"
    if not (folder / "checkpoints").is_dir() and not weights.is_file():
        raise AlignError(
            f"expected a work directory with checkpoints/ or an export with model.safetensors, found neither in {path}"
        )
    parts = parts_of(folder)
    if weights.is_file():
        tree: dict[str, Any] = paths.unflatten(load_file(weights))
        return Model(parts, tree["params"], tree.get("model_state", {}))
    with jax.set_mesh(parts.mesh):
        state = parts.restored()
    return Model(parts, parts.optimizer.averaged(state.params, state.opt_state), state.model_state)


def parts_of(folder: Path) -> runs.Run:
    """The parts of a run or of an export, on all devices of this machine, whatever mesh it was trained on."""
    config = configs.load(folder / "config.json")
    config.mesh = ConfigDict({"fsdp": jax.device_count()})  # the optimizer's state need not fit on one
    return runs.prepare(config, folder, None)
