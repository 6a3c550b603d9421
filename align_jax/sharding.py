"""THE mesh. Nobody else makes one, names its axes or builds a PartitionSpec.

The mesh has two axes, `data` and `fsdp`, both automatic. The rows of a batch are split over both. A Task sees global
arrays; what must run on each device's own rows (towers, the loss) goes through `per_device` (design decision 2).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from align_jax.types import AlignError, PyTree

AXES = ("data", "fsdp")
Rows = TypeVar("Rows")
Shared = TypeVar("Shared")


def make_mesh(*, fsdp: int = 1, devices: int | None = None) -> Mesh:
    """A mesh over the first `devices` devices (all by default), `fsdp` of them on the inner axis."""
    found = jax.devices()
    count = devices or len(found)
    if count > len(found) or count % fsdp:
        raise AlignError(
            f"mesh: expected devices ({count}) to be at most the {len(found)} found and a multiple of fsdp ({fsdp})"
        )
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=found[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def by_row(mesh: Mesh) -> NamedSharding:
    """The leading axis split over every device."""
    return NamedSharding(mesh, P(AXES))


def local_rows(mesh: Mesh, rows: int) -> range:
    """The contiguous rows of a global batch of `rows` that this process reads."""
    if rows % mesh.size:
        raise AlignError(
            f"batch_size: expected a multiple of the {mesh.size} devices, found {rows}; "
            f"set --config.batch_size={max(1, rows // mesh.size) * mesh.size}"
        )
    share = rows // jax.process_count()
    return range(jax.process_index() * share, (jax.process_index() + 1) * share)


def place(mesh: Mesh, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays, split by row, from the rows that this process read."""
    return {name: jax.make_array_from_process_local_data(by_row(mesh), rows) for name, rows in local.items()}


def per_device(fn: Callable[[Any, Any], tuple[Rows, Shared]]) -> Callable[[PyTree, PyTree], tuple[Rows, Shared]]:
    """Runs `fn(shared, rows) -> (rows, shared)` on each device with its own rows, under the mesh of `jax.set_mesh`.

    Shared inputs enter as varying, so that what `fn` does with them is local and their gradient is reduced once, in the
    dtype in which they entered (f32), not once for each use in the dtype of the use. Shared outputs must be the same on
    all devices: reduce them with `mean` or `total`; jax checks it.
    """

    def body(shared: PyTree, rows: PyTree) -> tuple[Rows, Shared]:
        return fn(jax.tree.map(lambda x: jax.lax.pcast(x, AXES, to="varying"), shared), rows)

    return jax.shard_map(body, in_specs=(P(), P(AXES)), out_specs=(P(AXES), P()))


def mean(tree: PyTree) -> PyTree:
    """Inside `per_device`: the mean over devices."""
    return jax.tree.map(lambda x: jax.lax.pmean(x, AXES), tree)


def total(tree: PyTree) -> PyTree:
    """Inside `per_device`: the sum over devices."""
    return jax.tree.map(lambda x: jax.lax.psum(x, AXES), tree)
