"""Towers from their sections of a config: the fields of a module, and a published size by name."""

from collections.abc import Mapping
from typing import Any

from align_jax.config import call, nearest
from align_jax.models import remat
from align_jax.models.bert import NAMED, SIZES, Bert
from align_jax.models.efficientnet import VARIANTS, EfficientNet
from align_jax.types import AlignError


def image_tower(section: Mapping[str, Any], *, side: int, **dtypes: Any) -> EfficientNet:
    """The EfficientNet of `config.task.image` for images of side x side pixels: `variant` names a width and a depth."""
    fields = {key: _hashable(value) for key, value in section.items()}
    variant = fields.pop("variant", None)
    if variant is not None and variant not in VARIANTS:
        raise AlignError(f"config.task.image.variant: {variant!r} is unknown; {nearest(variant, list(VARIANTS))}")
    base = VARIANTS[variant or "b0"]
    for name, published in (("width", base.width), ("depth", base.depth)):
        fields[name] = published if fields.get(name) is None else fields[name]
    tower = call(EfficientNet, fields, where="config.task.image", **dtypes)
    try:
        tower.check(side, side)
    except ValueError as error:
        raise AlignError(f"config.task: {error}") from error
    return tower


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
    return tuple(value) if isinstance(value, list) else value
