"""`align_jax.load`: a trained model in three lines."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from safetensors import safe_open

from align_jax import config as configs
from align_jax import paths, sharding
from align_jax import run as runs
from align_jax.checkpoint import finished
from align_jax.data.source import BadExample
from align_jax.types import AlignError, ModelState, Params
from align_jax.weights import Weights

EXPORTED = "model.safetensors"


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


@dataclasses.dataclass(frozen=True)
class Place:
    """Where weights lie: a checkpoint of a run, or an export."""

    folder: Path  # of the run or the export: what its config stands in
    step: int | None  # of the checkpoint; None: an export


def load(path: str | Path) -> Model:
    """The model of a work directory (its last checkpoint), of one of its checkpoints/<step>, or of an export."""
    place = locate(path)
    parts = parts_of(place.folder)
    with jax.set_mesh(parts.mesh):
        weights = weights_at(place, parts)
    return Model(parts, weights.params, weights.model_state)


def locate(path: str | Path) -> Place:
    """The checkpoint or export that `path` names, as `load` takes it; AlignError where there is none."""
    given = Path(path)
    if (given / EXPORTED).is_file():
        return Place(given, None)
    numbered = given.parent.name == "checkpoints" and given.name.isdigit()
    folder = given.parent.parent if numbered else given
    if not (folder / "checkpoints").is_dir():
        raise AlignError(
            f"expected a work directory with checkpoints/, one of its checkpoints/STEP, or an export with {EXPORTED}, "
            f"found neither in {path}"
        )
    steps = finished(folder / "checkpoints")
    if not steps or (numbered and int(given.name) not in steps):
        raise AlignError(f"{path}: expected a finished checkpoint, found those of steps {steps}; train on or name one")
    return Place(folder, int(given.name) if numbered else steps[-1])


def weights_at(place: Place, parts: runs.Run) -> Weights:
    """Loads them onto the devices."""
    if place.step is not None:
        return parts.weights(parts.restored(place.step))
    with safe_open(place.folder / EXPORTED, framework="np") as file:
        tree = paths.unflatten({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        step = (file.metadata() or {}).get("step")
    where = sharding.replicated(parts.mesh)
    params, model_state = jax.device_put((tree["params"], tree.get("model_state", {})), where)
    return Weights(
        params, model_state, path=place.folder, step=None if step is None else int(step),
        averaged=parts.optimizer.ema is not None,
    )  # fmt: skip


def parts_of(folder: Path) -> runs.Run:
    """The parts of a run or of an export, on all devices of this machine, whatever mesh it was trained on."""
    config = configs.load(folder / "config.json")
    config.mesh = ConfigDict({"fsdp": jax.device_count()})  # the optimizer's state need not fit on one
    return runs.prepare(config, folder, None)
