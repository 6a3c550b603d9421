"""THE mesh. Nobody else makes one, names its axes or builds a PartitionSpec.

The mesh has two axes, `data` and `fsdp`, both automatic. The rows of a batch are split over both; parameters and the
optimizer's state are split over `fsdp` between steps (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054) and gathered
for the step. A Task sees global arrays; what must run on each device's own rows (towers, the loss) goes through
`per_device` (design decision 2).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from align_jax.split import WHOLE, split_axis
from align_jax.types import AlignError, PyTree, SplitRule

AXES = ("data", "fsdp")
Rows = TypeVar("Rows")
Shared = TypeVar("Shared")


def make_mesh(*, fsdp: int = 1, devices: int | None = None) -> Mesh:
    """A mesh over the first `devices` devices (all by default), `fsdp` of them on the inner axis."""
    found = jax.devices()
    count = devices or len(found)
    if count > len(found) or fsdp < 1 or count % fsdp:
        raise AlignError(
            f"mesh: expected devices ({count}) to be at most the {len(found)} found and a multiple of fsdp ({fsdp}), "
            "which is at least 1"
        )
    return mesh_over(found[:count], fsdp=fsdp)


def mesh_over(devices: Sequence[Any], *, fsdp: int = 1) -> Mesh:
    """A mesh over these devices, which need not be here, slice by slice and process by process.

    So `data` is the outer axis between slices, `fsdp` stays within a host where it can, and the rows that a process
    reads are neighbours in the batch.
    """
    if fsdp < 1 or len(devices) % fsdp:
        raise AlignError(f"mesh: expected the {len(devices)} devices to be a multiple of fsdp, found {fsdp}")
    grid = np.array(sorted(devices, key=order), dtype=object).reshape(-1, fsdp)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def order(device: Any) -> tuple[int, int, int]:
    """What a mesh sorts its devices by."""
    return getattr(device, "slice_index", 0), device.process_index, device.id


def _spec(axis: int) -> P:
    return P() if axis == WHOLE else P(*[None] * axis, "fsdp")


def of_state(mesh: Mesh, shapes: PyTree, rules: Sequence[SplitRule] = ()) -> PyTree:
    """Where each array of a state lives, or of any tree whose paths end in those of parameters: see `split_axis`."""
    axes = _axes(shapes, mesh.shape["fsdp"], rules)
    return jax.tree.map(lambda axis: NamedSharding(mesh, _spec(axis)), axes)


def _axes(tree: PyTree, ways: int, rules: Sequence[SplitRule]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: split_axis(x.shape, ways, path=_name(path), rules=rules), tree
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def whole(mesh: Mesh, tree: PyTree) -> PyTree:
    """Inside `jit`: arrays gathered to every device before they are used."""
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: replicated(mesh), tree))


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
    everywhere = by_row(mesh).devices_indices_map((rows,))
    own = [everywhere[device][0].indices(rows)[:2] for device in mesh.local_devices]
    first, last = min(start for start, _ in own), max(stop for _, stop in own)
    assert last - first == sum(stop - start for start, stop in own), "mesh_over sorts by process"
    return range(first, last)


def place(mesh: Mesh, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays, split by row, from the rows that this process read."""
    return {name: jax.make_array_from_process_local_data(by_row(mesh), rows) for name, rows in local.items()}


def per_device(
    fn: Callable[[Any, Any], tuple[Rows, Shared]],
    *,
    rules: Sequence[SplitRule] = (),
    later: Callable[[str], bool] | None = None,
    reduce: Any = None,
) -> Callable[[PyTree, PyTree], tuple[Rows, Shared]]:
    """Runs `fn(shared, rows) -> (rows, shared)` on each device with its own rows, under the mesh of `jax.set_mesh`.

    Shared inputs that are split over `fsdp` (by `rules`, as in `of_state`) are gathered here, whole, and enter as
    varying, so that what `fn` does with them is local and their gradient is reduced once, in the dtype in which they
    entered (f32) or in `reduce`, not once for each use in the dtype of the use: scattered over `fsdp`, and then summed
    over `data`. Those whose path ("0/a/b") `later` names enter as `Part`s, for `gather_block` to gather where they are
    used. Shared outputs must be the same on all devices: reduce them with `mean` or `total`; jax checks it.
    """

    def outer(shared: PyTree, rows: PyTree) -> tuple[Rows, Shared]:
        ways = jax.sharding.get_abstract_mesh().shape["fsdp"]
        axes = _axes(shared, ways, rules)

        def enter(path: Any, x: jax.Array, axis: int) -> Any:
            x = _varying(axis, reduce, x)
            if axis == WHOLE:
                return x
            part = Part(x, axis, reduce)
            return part if later is not None and later(_name(path)) else part.whole(x.dtype)

        def body(shared: PyTree, rows: PyTree) -> tuple[Rows, Shared]:
            return fn(jax.tree_util.tree_map_with_path(enter, shared, axes), rows)

        specs = jax.tree.map(_spec, axes)
        return jax.shard_map(body, in_specs=(specs, P(AXES)), out_specs=(P(AXES), P()))(shared, rows)

    return outer


@functools.partial(jax.tree_util.register_dataclass, data_fields=("here",), meta_fields=("axis", "reduce"))
@dataclasses.dataclass(frozen=True)
class Part:
    """Inside `per_device`: this device's part of an array that is split along `axis` over `fsdp`."""

    here: jax.Array
    axis: int
    reduce: Any  # dtype in which gradients are scattered; None: that of the part

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        return self.here.shape

    @property
    def dtype(self) -> Any:
        """Of the part."""
        return self.here.dtype

    def whole(self, dtype: Any) -> jax.Array:
        """The array, gathered as `dtype`; its gradient is scattered as `reduce`."""
        return _gathered(self.axis, dtype, self.here.dtype if self.reduce is None else self.reduce, self.here)


def gather_block(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its `Part`s gathered, matrices as `dtype`, in which blocks use them; without any, the tree."""

    def gather(x: Any) -> Any:
        if not isinstance(x, Part):
            return x
        return x.whole(x.dtype if dtype is None or len(x.shape) < 2 else dtype)

    return jax.tree.map(gather, tree, is_leaf=lambda x: isinstance(x, Part))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _varying(axis: int, reduce: Any, x: jax.Array) -> jax.Array:
    """`x`, a copy or a part of it, as one that may vary; its gradient is summed over the devices that hold the same."""
    return jax.lax.pcast(x, AXES if axis == WHOLE else "data", to="varying")


def _varying_forward(axis: int, reduce: Any, x: jax.Array) -> tuple[jax.Array, None]:
    return _varying(axis, reduce, x), None


def _varying_backward(axis: int, reduce: Any, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    total = jax.lax.psum(
        gradient.astype(gradient.dtype if reduce is None else reduce), AXES if axis == WHOLE else "data"
    )
    return (total.astype(gradient.dtype),)


_varying.defvjp(_varying_forward, _varying_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gathered(axis: int, dtype: Any, reduce: Any, x: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x.astype(dtype), "fsdp", axis=axis, tiled=True)


def _gathered_forward(axis: int, dtype: Any, reduce: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gathered(axis, dtype, reduce, x), jnp.zeros((), x.dtype)


def _gathered_backward(axis: int, dtype: Any, reduce: Any, like: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    part = jax.lax.psum_scatter(gradient.astype(reduce), "fsdp", scatter_dimension=axis, tiled=True)
    return (part.astype(like.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def mean(tree: PyTree) -> PyTree:
    """Inside `per_device`: the mean over devices."""
    return jax.tree.map(lambda x: jax.lax.pmean(x, AXES), tree)


def total(tree: PyTree) -> PyTree:
    """Inside `per_device`: the sum over devices."""
    return jax.tree.map(lambda x: jax.lax.psum(x, AXES), tree)
