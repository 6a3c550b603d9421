"""One table of names for both directions: tensors of other libraries to our paths, and back, bit for bit."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from align_jax import paths
from align_jax.interop.accounts import Tensors


class Layout(NamedTuple):
    """How the numbers of one tensor lie there and here; `write` is the inverse of `read`."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
# torch stores [out, in], we [in, out].
DENSE = Layout(lambda x: x.T, lambda x: x.T)
# torch stores [out, in, k, k], we [k, k, in, out]; a depthwise kernel is [C, 1, k, k] there.
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# A dense layer that torch writes as a convolution: [out, in, 1, 1].
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


class Entry(NamedTuple):
    """One tensor there, one leaf here."""

    theirs: str
    ours: str  # path below the collection, such as 'params/layer_0/mlp_in/kernel'
    layout: Layout = SAME


def read(tensors: Tensors, entries: Iterable[Entry], template: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of the entries' leaves, in the dtypes of `template`: shapes, as jax.eval_shape of an init gives them.

    AlignError, by name, for a tensor that is missing or misshapen. Every leaf of the template has an entry.
    """
    expected = paths.flatten(template)
    found: dict[str, Any] = {}
    for theirs, ours, layout in entries:
        leaf = expected[ours]
        shape = layout.write(np.broadcast_to(np.float32(0), leaf.shape)).shape  # a view: costs no memory
        found[ours] = layout.read(tensors.take(theirs, shape)).astype(leaf.dtype)
    return paths.unflatten({path: found[path] for path in expected})


def write(tree: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Their name -> tensor, C-contiguous, in our dtypes: the inverse of `read`."""
    leaves = paths.flatten(tree)
    return {theirs: np.ascontiguousarray(layout.write(np.asarray(leaves[ours]))) for theirs, ours, layout in entries}
