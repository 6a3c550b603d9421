"""EfficientNet weights as Keras has them: keras.applications (B0 to B7) and the Noisy Student releases (L2 too)."""

import re
from pathlib import Path

import numpy as np

from align_jax import paths
from align_jax.data.pixels import PIXELS
from align_jax.interop import efficientnet, names
from align_jax.interop.accounts import Tensors
from align_jax.interop.keras_file import KerasFile
from align_jax.interop.names import SAME, Entry, Layout
from align_jax.interop.pretrained import Pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.types import AlignError

ENDS = {"stem_conv": "stem_conv", "stem_bn": "stem_bn", "head_conv": "top_conv", "head_bn": "top_bn"}
BLOCK = {"depthwise_conv": "dwconv", "depthwise_bn": "bn"}  # the others have our names
NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
HEADS = ("predictions", "probs")  # of keras.applications, and of the Noisy Student releases
STARTS = re.compile(r"block(\d+)([a-z])_")
NORMALIZATION = "normalization"

DEPTHWISE = Layout(lambda x: x.swapaxes(2, 3), lambda x: x.swapaxes(2, 3))  # [k, k, C, 1] there, [k, k, 1, C] here
POINTWISE = Layout(lambda x: x[0, 0], lambda x: x[None, None])  # a dense layer that Keras writes as a convolution


def read(path: Path) -> Pretrained:
    """A tower, or a classifier where there is a top; with TensorFlow's padding, and the pixels of ImageNet.

    AlignError, by name, for tensors of another architecture.
    """
    file = KerasFile(path)
    tensors = Tensors(file, str(path))
    starts = {match[0]: (int(match[1]), match[2]) for name in tensors if (match := STARTS.match(name))}
    blocks = sorted(starts, key=starts.__getitem__)
    module = _module(tensors, blocks)
    variables = names.read(tensors, entries(module, blocks), efficientnet.shapes(module))
    head = None
    for name in HEADS:
        if f"{name}/kernel" in tensors:
            bias = tensors.take(f"{name}/bias")
            kernel = tensors.take(f"{name}/kernel", (module.features, *bias.shape))
            head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    _check_normalization(tensors)
    tensors.close()
    ignored = {**file.ignored, **tensors.ignored}
    return efficientnet.pretrained(
        tensors.where, module, variables, head, efficientnet.original(module), ignored=ignored
    )


def entries(module: EfficientNet, blocks: list[str]) -> list[Entry]:
    """All variables of `module` and what Keras calls them; `blocks` are the beginnings of the blocks' names."""
    found = []
    for path, leaf in paths.flatten(efficientnet.shapes(module)).items():
        _, *block, layer, kind = path.split("/")
        theirs = blocks[int(block[0].removeprefix("block_"))] + BLOCK.get(layer, layer) if block else ENDS[layer]
        layout = SAME
        if layer == "depthwise_conv":
            layout = DEPTHWISE
        elif len(leaf.shape) == 2:
            layout = POINTWISE
        found.append(Entry(f"{theirs}/{NORM[kind] if layer.endswith('_bn') else kind}", path, layout))
    return found


def _module(tensors: Tensors, blocks: list[str]) -> EfficientNet:
    """The published tower of these tensors; `names.read` sees to its shapes."""
    if not blocks:
        raise AlignError(f"{tensors.where}: expected an EfficientNet of Keras, with tensors block1a_*, found none")
    (features,) = tensors.take(f"{blocks[-1]}project_bn/gamma").shape
    return efficientnet.published(
        tensors.where, blocks=len(blocks), features=features, squeeze=f"{blocks[0]}se_reduce/kernel" in tensors,
        head_conv="top_conv/kernel" in tensors, padding="same",
    )  # fmt: skip


def _check_normalization(tensors: Tensors) -> None:
    """Refuses a layer in front of the stem that does otherwise than config.task.pixels='imagenet'."""
    if f"{NORMALIZATION}/mean" not in tensors:
        return
    mean, variance = (tensors.take(f"{NORMALIZATION}/{name}").ravel() for name in ("mean", "variance"))
    _, ours, std = PIXELS["imagenet"]
    # In the published files it holds the spread where its square belongs; keras.applications divides by its root twice.
    right = any(np.allclose(variance, np.power(std, power), rtol=1e-5) for power in (1, 2))
    if not right or not np.allclose(mean, ours, rtol=1e-5):
        raise AlignError(
            f"{tensors.where}: tensor {NORMALIZATION}: expected ImageNet's mean {ours} and spread {std}, or its "
            f"square, found mean {mean.tolist()} and variance {variance.tolist()}"
        )
    tensors.ignore({f"{NORMALIZATION}/count": "of how many images the mean is"})
