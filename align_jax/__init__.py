"""align_jax: trains, evaluates, exports and serves models that join images and language.

import align_jax
model = align_jax.load("runs/demo")
print(model.similarity(["photo.jpg"], ["a red apple", "a green pear"]))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_jax.data.source import BadExample
    from align_jax.loading import load
    from align_jax.model import Model
    from align_jax.types import AlignError
    from align_jax.zero_shot import ZeroShotClassifier

__all__ = ["AlignError", "BadExample", "Model", "ZeroShotClassifier", "load"]

HOMES = {
    "AlignError": "align_jax.types",
    "BadExample": "align_jax.data.source",
    "Model": "align_jax.model",
    "ZeroShotClassifier": "align_jax.zero_shot",
    "load": "align_jax.loading",
}


def __getattr__(name: str) -> Any:
    """Loads jax only when a model is asked for: data workers import this package too."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'align_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the names that are not loaded yet, for whoever completes them."""
    return sorted({*globals(), *__all__})
