"""Towers from their sections of a config: the fields of a module, and a published size by name. What they are fed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from align_jax.config import call, nearest
from align_jax.data.pixels import PIXELS
from align_jax.models import remat
from align_jax.models.bert import NAMED, SIZES, Bert
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.types import AlignError, SplitRule

GATHER = ("step", "block")  # when parameters that are split over fsdp come together
DTYPES = ("float32", "bfloat16", "float64")  # of sums of gradients


def image_tower(section: Mapping[str, Any], *, side: int, **dtypes: Any) -> EfficientNet:
    """The EfficientNet of `config.task.image` for images of side x side pixels: `variant` names a published one."""
    fields = {key: _hashable(value) for key, value in section.items()}
    variant = fields.pop("variant", None)
    if variant is not None and variant not in VARIANTS:
        raise AlignError(f"config.task.image.variant: {variant!r} is unknown; {nearest(variant, list(VARIANTS))}")
    published = VARIANTS[variant or "b0"]._asdict()
    del published["resolution"]
    given = {name: value for name, value in fields.items() if value is not None or name not in published}
    fields = published | given
    tower = call(EfficientNet, fields, where="config.task.image", **dtypes)
    check_side(tower, side)
    return tower


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
    """The Bert of `config.task.text`: `size` names a published one."""
    fields = {key: _hashable(value) for key, value in section.items()}
    size = fields.pop("size", "mini")
    if size not in SIZES:
        raise AlignError(f"config.task.text.size: {size!r} is unknown; {nearest(size, list(SIZES))}")
    tower = call(Bert, {**SIZES[size], **fields}, where="config.task.text", vocab_size=vocab_size, **dtypes)
    try:
        remat.check(tower.remat, NAMED)
    except ValueError as error:
        raise AlignError(f"config.task: {error}") from error
    return tower


def _hashable(value: Any) -> Any:
    """A field of a module, whose lists JSON made of tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
