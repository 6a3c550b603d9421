"""Towers from their sections of a config: the fields of a module, and a published size by name. What they are fed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from align_jax import paths
from align_jax.config import call, nearest
from align_jax.data.pixels import PIXELS
from align_jax.models import remat
from align_jax.models.bert import NAMED, SIZES, Bert
from align_jax.models.blocks import ALL
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.types import AlignError, SplitRule

GATHER = ("step", "block")  # when parameters that are split over fsdp come together
DTYPES = ("float32", "bfloat16", "float64")  # of sums of gradients


def image_tower(section: Mapping[str, Any], *, side: int, **dtypes: Any) -> EfficientNet:
    """The EfficientNet of `config.task.image` for images of side x side pixels."""
    tower = call(EfficientNet, image_fields(section), where="config.task.image", **dtypes)
    check_side(tower, side)
    _check_locked("image", tower.locked, len(tower.layout()))
    return tower


def image_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of EfficientNet that `config.task.image` names, those of its published `variant` among them."""
    fields = {key: _hashable(value) for key, value in section.items()}
    variant = fields.pop("variant", None)
    if variant is not None and variant not in VARIANTS:
        raise AlignError(f"config.task.image.variant: {variant!r} is unknown; {nearest(variant, list(VARIANTS))}")
    scaling = VARIANTS[variant or "b0"]._asdict()
    del scaling["resolution"]
    given = {name: value for name, value in fields.items() if value is not None or name not in scaling}
    return given if variant is None else scaling | given


def check_side(tower: EfficientNet, side: int) -> None:
    """Refuses images of side x side pixels that the tower's strides use up."""
    try:
        tower.check(side, side)
    except ValueError as error:
        raise AlignError(f"config.task: {error}") from error


def check_rows(rows: int, *, group: int | None, micro_batches: int) -> None:
    """Refuses rows per device that are no whole groups of BatchNorm in each micro-batch."""
    if group is None and micro_batches > 1:
        raise AlignError(
            "config.task.micro_batches: statistics over all rows (image.bn_group_size=None) need them at once; "
            "set a group size, such as the paper's 16"
        )
    if rows % (micro_batches * (group or 1)):
        raise AlignError(
            f"config.batch_size: expected on each device a multiple of micro_batches ({micro_batches}) x "
            f"image.bn_group_size ({group}) rows, found {rows}; change one of the three"
        )


def pixels(images: jax.Array, dtype: Any, convention: str) -> jax.Array:
    """uint8 [..., 3] -> what the tower is fed, by a name of PIXELS."""
    divisor, *moments = PIXELS[convention]
    mean, std = (jnp.asarray(x, dtype).reshape((1,) * (images.ndim - 1) + (-1,)) for x in moments)
    return (images.astype(dtype) / divisor - mean) / std


def one_of(key: str, value: Any, known: Sequence[str]) -> None:
    """Refuses a value of config.task.<key> that is not known."""
    if value not in known:
        raise AlignError(f"config.task.{key}: expected one of {known}, found {value!r}")


def split_rules(split: Sequence[SplitRule]) -> tuple[SplitRule, ...]:
    """`config.task.split` as a model needs it."""
    try:
        return tuple((str(pattern), int(axis)) for pattern, axis in split)
    except (TypeError, ValueError):
        raise AlignError(f"config.task.split: expected pairs (pattern of paths, axis), found {split!r}") from None


def text_tower(section: Mapping[str, Any], *, vocab_size: int, **dtypes: Any) -> Bert:
    """The Bert of `config.task.text`, whose size is mini unless it says so."""
    fields = {**SIZES["mini"], **text_fields(section)}
    tower = call(Bert, fields, where="config.task.text", vocab_size=vocab_size, **dtypes)
    try:
        remat.check(tower.remat, NAMED)
    except ValueError as error:
        raise AlignError(f"config.task: {error}") from error
    _check_locked("text", tower.locked, tower.layers)
    return tower


def text_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Bert that `config.task.text` names, those of its published `size` among them."""
    fields = {key: _hashable(value) for key, value in section.items()}
    size = fields.pop("size", None)
    if size is not None and size not in SIZES:
        raise AlignError(f"config.task.text.size: {size!r} is unknown; {nearest(size, list(SIZES))}")
    return {**({} if size is None else SIZES[size]), **fields}


def as_frozen(section: Mapping[str, Any], folder: str, freeze: Sequence[str]) -> dict[str, Any]:
    """The section of the tower whose parameters stand in `folder`: locked where `config.freeze` names all of it."""
    # The path of the folder, with nothing below it: whatever pattern takes it takes all that is below.
    return {**section, **({"locked": ALL} if paths.matches(f"{folder}/", freeze) else {})}


def locked_paths(folder: str, parts: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the parameters that are the `locked_parts` of the tower in `folder`."""
    return tuple(f"{folder}/{part}" for part in parts)


def _check_locked(key: str, locked: int, blocks: int) -> None:
    if not ALL <= locked <= blocks:
        raise AlignError(
            f"config.task.{key}.locked: expected {ALL} (all of the tower) or 0 to {blocks} blocks, found {locked}"
        )


def _hashable(value: Any) -> Any:
    """A field of a module, whose lists JSON made of tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
