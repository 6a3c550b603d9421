"""What all sources of EfficientNet weights share: the fields of a tower, its variables, and its variant by shapes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from align_jax.data import classes
from align_jax.interop.accounts import Tensors
from align_jax.interop.names import DENSE
from align_jax.interop.pretrained import Pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.types import AlignError

# Of config.task.image: what the weights, and what they compute, depend on.
FIELDS = ("width", "depth", "stochastic_depth", "padding", "head_conv", "stem_stride", "strides", "stages", "squeeze",
          "activation", "fixed_ends", "epsilon")  # fmt: skip


def fields(module: EfficientNet) -> dict[str, Any]:
    """config.task.image for this tower."""
    return {name: getattr(module, name) for name in FIELDS}


def shapes(module: EfficientNet) -> dict[str, Any]:
    """{"params", "batch_stats"}: jax.ShapeDtypeStruct of every variable."""
    side = module.stem_stride * int(np.prod(module.strides))
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    expected = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), images)
    return {name: expected[name] for name in ("params", "batch_stats")}


def published(where: str, *, blocks: int, features: int, squeeze: bool, **settings: Any) -> EfficientNet:
    """The published variant with that many blocks, the last of `features` channels.

    `settings` are further fields of the tower. AlignError where there is none.
    """
    for scaling in VARIANTS.values():
        scaled = {name: value for name, value in scaling._asdict().items() if name != "resolution"}
        tower = EfficientNet(**scaled, **settings)
        if (len(tower.layout()), tower.clone(head_conv=False).features, tower.squeeze) == (blocks, features, squeeze):
            return tower
    raise AlignError(
        f"{where}: expected a published EfficientNet ({', '.join(VARIANTS)}), found {blocks} blocks that end in "
        f"{features} channels {'with' if squeeze else 'without'} squeeze-and-excitation"
    )


def head(tensors: Tensors, name: str, features: int) -> dict[str, np.ndarray]:
    """The kernel [features, C] and the bias [C] of the classifier that PyTorch calls `name`."""
    bias = tensors.take(f"{name}.bias")
    weight = tensors.take(f"{name}.weight", (*bias.shape, features))
    return {"kernel": DENSE.read(weight).astype(np.float32), "bias": bias.astype(np.float32)}


def pretrained(
    where: str, module: EfficientNet, variables: Mapping[str, Any], head: Mapping[str, np.ndarray] | None, *,
    names: Sequence[str] | None, task: Mapping[str, Any], data: Mapping[str, Any], facts: Mapping[str, str],
    ignored: Mapping[str, str],
) -> Pretrained:  # fmt: skip
    """A tower, or with the kernel and bias of a `head` a classifier, whose classes are numbered if they lack `names`.

    `task` and `data` are further keys of the config.
    """
    task = {"image": fields(module), **task}
    params, state = {"image_tower": variables["params"]}, {"batch_stats": {"image_tower": variables["batch_stats"]}}
    if head is None:
        return Pretrained(where, params, state, task, data, {}, facts, ignored)
    count = len(head["bias"])
    named = tuple(map(str, range(count) if names is None else names))
    if len(named) != count or any("\n" in name for name in named):
        raise AlignError(f"{where}: expected {count} names of classes, each of one line, found {len(named)}")
    return Pretrained(
        where, {**params, "head": dict(head)}, state, {"name": "classify", **task},
        {**data, "augment": "align", "classes": count},
        {classes.FILE: functools.partial(classes.save, named)}, facts, ignored,
    )  # fmt: skip
