"""align_jax: trains, evaluates, exports and serves models that join images and language.

import align_jax
model = align_jax.load("runs/demo")
similarity = model.embed_texts(["a red apple"]) @ model.embed_images(["photo.jpg"]).T
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_jax.loading import load
    from align_jax.model import Model

__all__ = ["Model", "load"]

HOMES = {"Model": "align_jax.model", "load": "align_jax.loading"}


def __getattr__(name: str) -> Any:
    """Loads jax only when a model is asked for: data workers import this package too."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'align_jax' has no attribute {name!r}")
