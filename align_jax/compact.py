"""Weights in fewer bytes, for storage alone: what is computed with them stays f32.

bfloat16 keeps 8 bits of each number. int8 keeps 255 levels for each output channel of a matrix or a kernel, and for
each row of an embedding table: a stored integer times the channel's scale, a 127th of its largest entry, so that no
weight is off by more than half of that scale. What has one axis or none (biases, norms, statistics, the temperature)
stays as it is: it is small, and everything passes through it.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from align_jax.types import AlignError

KINDS = ("float32", "bfloat16", "int8")  # float32: as they are
SCALE = ".scale"  # after the name of an int8 array: its scales, shaped to be multiplied with it
LEVELS = 127


def pack(flat: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Name -> array, as `kind` stores them. AlignError for arrays that are no f32."""
    if kind == "float32":
        return dict(flat)
    if other := [f"{name} ({array.dtype})" for name, array in flat.items() if array.dtype != np.float32]:
        raise AlignError(f"--weights={kind}: expected parameters of float32, found {other[0]}; leave --weights out")
    found: dict[str, np.ndarray] = {}
    for name, array in flat.items():
        if array.ndim < 2:
            found[name] = array
        elif kind == "bfloat16":
            found[name] = array.astype(jnp.bfloat16)
        else:
            found[name], found[name + SCALE] = quantised(array, axis=0 if name.endswith("/embedding") else -1)
    return found


def quantised(array: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 like f32 `array`, f32 scales) whose product is at most half a scale away, a scale for each entry of `axis`.

    A scale of zero, of a channel of zeros, is stored as one.
    """
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    largest = np.abs(array).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    return np.clip(np.rint(array / scale), -LEVELS, LEVELS).astype(np.int8), scale


def unpack(flat: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The inverse of `pack`, but for what was lost: f32 arrays of NumPy or JAX, whichever are given."""
    if kind not in KINDS:
        raise AlignError(f"expected weights stored as one of {', '.join(KINDS)}, found {kind!r}; use a newer align_jax")
    if kind == "float32":
        return dict(flat)
    found: dict[str, Any] = {}
    for name, array in flat.items():
        if not name.endswith(SCALE):
            scale = flat.get(name + SCALE)
            found[name] = array.astype(np.float32) * (np.float32(1) if scale is None else scale)
    return found
