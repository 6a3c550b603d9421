"""What every reader of foreign weights gives, and every writer makes: a model, or a tower of one, here and there."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.types import ModelState, Params


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights from elsewhere, in our trees, and what they were made to be fed with.

    A whole model has a `task["name"]`: "align" (both towers, text_projection, log_temperature) or "classify" (an image
    tower and a head). A tower alone has none, and either `task["image"]` or `task["text"]`.
    """

    where: str  # the file, folder or hub name, for messages and model cards
    params: Params  # below image_tower, text_tower, ...: what the source has
    model_state: ModelState  # {"batch_stats": {"image_tower": ...}}, or {} of a text tower
    task: Mapping[str, Any]  # the keys of config.task that it determines: image (all fields of the tower), text, ...
    data: Mapping[str, Any]  # the keys of config.data that it determines: resize, crop, resample, text_length, vocab
    files: Mapping[str, Callable[[Path], Any]]  # name -> what writes it: vocab.txt or tokenizer.json, classes.txt
    facts: Mapping[str, str]  # what a model card should say: licence, source, what was resized
    ignored: Mapping[str, str]  # tensor or attribute -> why it is not used
    # Tensors that were ignored, for whoever writes the same kind of file again.
    kept: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A folder of weights as others read it; `interop.source.save_foreign` writes it, whole or not at all."""

    tensors: Mapping[str, np.ndarray]  # of model.safetensors
    config: Mapping[str, Any]  # config.json
    files: Mapping[str, Callable[[Path], Any]]  # name -> what writes it, besides those two
    # Texts inside model.safetensors: transformers reads no file without a format.
    metadata: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"format": "pt"})
