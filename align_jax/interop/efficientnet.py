"""What all sources of EfficientNet weights share: the fields of a tower, its variables, and its variant by shapes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from align_jax import paths
from align_jax.data import classes
from align_jax.interop.accounts import Tensors
from align_jax.interop.names import CONV, DENSE, POINTWISE, SAME, Entry
from align_jax.interop.pretrained import Pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.types import AlignError

# Of config.task.image: what the weights, and what they compute, depend on.
FIELDS = ("width", "depth", "stochastic_depth", "padding", "head_conv", "stem_stride", "strides", "stages", "squeeze",
          "activation", "fixed_ends", "epsilon")  # fmt: skip
# PyTorch's leaves and layouts. The only matrices of a tower are those of squeeze-and-excitation.
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
LAYOUTS = {1: SAME, 2: POINTWISE, 4: CONV}  # by dimensions
COUNTERS = {"*.num_batches_tracked": "counts steps of training; nothing here reads it"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fed:
    """What a network was fed with, as far as its source says, in the terms of our config."""

    pixels: str | None = None  # config.task.pixels
    crop: int | None = None  # pixels of the square that it sees
    resize: int | None = None  # pixels of the square of which that is the window; None: all of it
    share: float | None = None  # instead, of the shorter side, in a picture that keeps its aspect
    resample: str = "bilinear"
    dropout: float = 0.0  # of the head's input, in training
    names: Sequence[str] | None = None  # of classes
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def square(self) -> dict[str, Any]:
        """config.data of a tower, which will see whole pictures."""
        if self.crop is None:
            return {}
        resize = round(self.crop / self.share) if self.share else self.resize or self.crop
        return {"resize": resize, "crop": self.crop, "resample": self.resample}

    def view(self) -> dict[str, Any]:
        """config.data of a classifier."""
        if self.share is None:
            return {"augment": "align", **self.square()}
        return {"augment": "inception", "crop": self.crop, "eval_share": self.share, "resample": self.resample}


def original(module: EfficientNet) -> Fed:
    """What the published network of this size was fed with (tensorflow/tpu): its resolution, bicubic."""
    lite = not module.squeeze
    side = next(v.resolution for v in VARIANTS.values() if v[:2] == (module.width, module.depth) and v.squeeze != lite)
    facts = {} if lite else {"pixels": "those of ImageNet; weights of AdvProp want config.task.pixels='symmetric'"}
    return Fed(pixels="lite" if lite else "imagenet", crop=side, resample="bicubic", facts=facts)


def fields(module: EfficientNet) -> dict[str, Any]:
    """config.task.image for this tower."""
    return {name: getattr(module, name) for name in FIELDS}


def shapes(module: EfficientNet) -> dict[str, Any]:
    """{"params", "batch_stats"}: jax.ShapeDtypeStruct of every variable."""
    side = module.stem_stride * int(np.prod(module.strides))
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    expected = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), images)
    return {name: expected[name] for name in ("params", "batch_stats")}


def published(
    where: str, *, blocks: int, features: int, squeeze: bool, variant: str | None = None, **settings: Any
) -> EfficientNet:
    """The published variant with that many blocks, the last of `features` channels.

    `variant` is what it must be, if that is known. `settings` are further fields of the tower. AlignError where there
    is none.
    """
    for name, scaling in VARIANTS.items():
        scaled = {key: value for key, value in scaling._asdict().items() if key != "resolution"}
        tower = EfficientNet(**scaled, **settings)
        shape = len(tower.layout()), tower.clone(head_conv=False).features, tower.squeeze
        if shape == (blocks, features, squeeze) and variant in (None, name):
            return tower
    raise AlignError(
        f"{where}: expected a published EfficientNet ({variant or ', '.join(VARIANTS)}), found {blocks} blocks, the "
        f"last of {features} channels, {'with' if squeeze else 'without'} squeeze-and-excitation"
    )


def entries(module: EfficientNet, name: Callable[[int | None, str], str]) -> list[Entry]:
    """All variables of `module`, "params/..." and "batch_stats/...", and what PyTorch calls them.

    `name` is that of one layer of block i, or of none: (3, "se_reduce") -> "blocks.3.squeeze_excite.reduce".
    """
    found = []
    for path, leaf in paths.flatten(shapes(module)).items():
        _, *block, layer, kind = path.split("/")
        index = int(block[0].removeprefix("block_")) if block else None
        found.append(Entry(f"{name(index, layer)}.{LEAVES[kind]}", path, LAYOUTS[len(leaf.shape)]))
    return found


def head(tensors: Tensors, name: str, features: int) -> dict[str, np.ndarray]:
    """The kernel [features, C] and the bias [C] of the classifier that PyTorch calls `name`."""
    bias = tensors.take(f"{name}.bias")
    weight = tensors.take(f"{name}.weight", (*bias.shape, features))
    return {"kernel": DENSE.read(weight).astype(np.float32), "bias": bias.astype(np.float32)}


def pretrained(
    where: str, module: EfficientNet, variables: Mapping[str, Any], head: Mapping[str, np.ndarray] | None, fed: Fed, *,
    ignored: Mapping[str, str], kept: Mapping[str, np.ndarray] | None = None,
) -> Pretrained:  # fmt: skip
    """A tower, or with the kernel and bias of a `head` a classifier, whose classes are numbered if they lack names."""
    task = {"image": fields(module)} | ({} if fed.pixels is None else {"pixels": fed.pixels})
    params, state = {"image_tower": variables["params"]}, {"batch_stats": {"image_tower": variables["batch_stats"]}}
    if head is None:
        return Pretrained(where, params, state, task, fed.square(), {}, fed.facts, ignored, kept or {})
    count = len(head["bias"])
    named = tuple(map(str, range(count) if fed.names is None else fed.names))
    if len(named) != count or any("\n" in name for name in named):
        raise AlignError(f"{where}: expected {count} names of classes, each of one line, found {len(named)}")
    return Pretrained(
        where, {**params, "head": dict(head)}, state, {"name": "classify", **task, "dropout": fed.dropout},
        {**fed.view(), "classes": count}, {classes.FILE: functools.partial(classes.save, named)}, fed.facts,
        ignored, kept or {},
    )  # fmt: skip
