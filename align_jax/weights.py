"""What names a model: a digest of its weights, so that what was made with one is never used with another."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from align_jax import paths
from align_jax.types import ModelState, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A model as it is evaluated."""

    params: Params
    model_state: ModelState
    path: Path  # the checkpoint or the export
    step: int | None  # None: an export that does not tell
    averaged: bool  # or the last ones

    @functools.cached_property
    def digest(self) -> str:
        """All processes ask for it together."""
        return digest(self.params, self.model_state)

    def __str__(self) -> str:
        """As a protocol names them."""
        kind = "averaged" if self.averaged else "last"
        return f"{kind} weights at {'an unknown step' if self.step is None else f'step {self.step}'}"


def sizes(params: Params) -> dict[str, int]:
    """Numbers of parameters by tower, in the order of the tree."""
    found: dict[str, int] = {}
    for path, leaf in paths.flatten(params).items():
        tower = path.split("/")[0]
        found[tower] = found.get(tower, 0) + int(np.prod(leaf.shape))
    return found


def digest(params: Params, model_state: ModelState) -> str:
    """16 hexadecimal digits of paths, shapes, dtypes and values; all processes call it together."""
    found = hashlib.blake2b(digest_size=8)
    for path, leaf in paths.flatten({"params": params, "model_state": model_state}).items():
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        array = np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))
        found.update(f"{path} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
