"""What names a model: a digest of its weights, so that what was made with one is never used with another."""

import hashlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from align_jax import paths
from align_jax.types import ModelState, Params


def digest(params: Params, model_state: ModelState) -> str:
    """16 hexadecimal digits of paths, shapes, dtypes and values; all processes call it together."""
    found = hashlib.blake2b(digest_size=8)
    for path, leaf in paths.flatten({"params": params, "model_state": model_state}).items():
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        array = np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))
        found.update(f"{path} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
