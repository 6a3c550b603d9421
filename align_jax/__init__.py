"""align_jax: trains, evaluates, exports and serves models that join images and language.

import align_jax
model = align_jax.load("runs/demo")
similarity = model.embed_texts(["a red apple"]) @ model.embed_images(["photo.jpg"]).T
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_jax.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    """Loads jax only when a model is asked for: data workers import this package too."""
    if name in __all__:
        from align_jax import model

        return getattr(model, name)
    raise AttributeError(f"module 'align_jax' has no attribute {name!r}")
