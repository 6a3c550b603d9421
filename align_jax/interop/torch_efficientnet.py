"""EfficientNet weights of PyTorch without a Hugging Face config: those of efficientnet_pytorch and of timm.

The variant shows in the tensors. Padding and BatchNorm's epsilon do not: efficientnet_pytorch, in whose names the Lite
weights circulate too, has TensorFlow's. timm has either; which one, its config.json says.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax.interop import efficientnet, names, timm_config
from align_jax.interop.accounts import Tensors
from align_jax.interop.pretrained import Pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.types import AlignError


class Naming(NamedTuple):
    """What a library calls the layers of a tower."""

    ends: Mapping[str, str]
    block: re.Pattern[str]  # the beginning of a block's tensors
    layers: Mapping[bool, Mapping[str, str]]  # of blocks with an expansion, and of those without
    head: str


STEM = "conv_stem.weight"
_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
TIMM = Naming(
    ends={"stem_conv": "conv_stem", "stem_bn": "bn1", "head_conv": "conv_head", "head_bn": "bn2"},
    block=re.compile(r"blocks\.(\d+)\.(\d+)\."),
    layers={
        True: {"expand_conv": "conv_pw", "expand_bn": "bn1", "depthwise_conv": "conv_dw", "depthwise_bn": "bn2",
               "project_conv": "conv_pwl", "project_bn": "bn3", **_SQUEEZE},
        False: {"depthwise_conv": "conv_dw", "depthwise_bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2",
                **_SQUEEZE},
    },
    head="classifier",
)  # fmt: skip
_LAYERS = {"expand_conv": "_expand_conv", "expand_bn": "_bn0", "depthwise_conv": "_depthwise_conv",
           "depthwise_bn": "_bn1", "se_reduce": "_se_reduce", "se_expand": "_se_expand",
           "project_conv": "_project_conv", "project_bn": "_bn2"}  # fmt: skip
EFFICIENTNET_PYTORCH = Naming(
    ends={"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"},
    block=re.compile(r"_blocks\.(\d+)\."),
    layers={True: _LAYERS, False: _LAYERS},
    head="_fc",
)


def read(given: Mapping[str, np.ndarray], path: Path) -> Pretrained:
    """A tower, or a classifier where there is a head. `path` is the file; beside it lies timm's config.json.

    AlignError, by name, for tensors of another architecture, and for those of timm without a config.
    """
    tensors = Tensors(given, str(path))
    stems = [name for name in tensors if name.endswith(STEM)]
    if len(stems) != 1:
        raise AlignError(
            f"{tensors.where}: expected an EfficientNet of timm or efficientnet_pytorch, with one tensor {STEM} or "
            f"_{STEM}, found {len(stems)}"
        )
    prefix = stems[0].removesuffix(STEM)  # of training scripts: "module."
    if prefix.endswith("_"):
        naming, prefix = EFFICIENTNET_PYTORCH, prefix.removesuffix("_")
        module = _module(tensors, naming, prefix, padding="same", epsilon=1e-3)
        fed, ignored = efficientnet.original(module), {}
    else:
        config = timm_config.read(path.parent / "config.json")
        naming, fed, ignored = TIMM, config.fed, config.ignored
        module = _module(tensors, naming, prefix, variant=config.variant, **config.conventions)
    entries = efficientnet.entries(module, _names(tensors, naming, prefix))
    variables = names.read(tensors, entries, efficientnet.shapes(module))
    head = f"{prefix}{naming.head}"
    classifier = efficientnet.head(tensors, head, module.features) if f"{head}.weight" in tensors else None
    tensors.ignore(efficientnet.COUNTERS)
    tensors.close()
    ignored = {**tensors.ignored, **ignored}
    return efficientnet.pretrained(tensors.where, module, variables, classifier, fed, ignored=ignored)


def _blocks(tensors: Tensors, naming: Naming, prefix: str) -> list[str]:
    """The beginnings of the blocks' names, in order."""
    found = {}
    for name in tensors:
        match = naming.block.match(name, len(prefix))
        if match and name.startswith(prefix):
            found[match[0]] = tuple(map(int, match.groups()))
    return sorted(found, key=found.__getitem__)


def _names(tensors: Tensors, naming: Naming, prefix: str) -> Callable[[int | None, str], str]:
    """(block, layer) -> their module."""
    blocks = _blocks(tensors, naming, prefix)

    def name(block: int | None, layer: str) -> str:
        if block is None:
            return prefix + naming.ends[layer]
        start = prefix + blocks[block]
        expands = any(f"{start}{theirs}.weight" in tensors for theirs in ("conv_pwl", "_expand_conv"))
        return start + naming.layers[expands][layer]

    return name


def _module(tensors: Tensors, naming: Naming, prefix: str, **given: Any) -> EfficientNet:
    """The published tower of these names; `names.read` sees to its shapes."""
    name, blocks = _names(tensors, naming, prefix), _blocks(tensors, naming, prefix)
    features = 0
    if blocks:
        (features,) = tensors.take(f"{name(len(blocks) - 1, 'project_bn')}.bias").shape
    return efficientnet.published(
        tensors.where, blocks=len(blocks), features=features,
        squeeze=bool(blocks) and f"{name(0, 'se_reduce')}.weight" in tensors,
        head_conv=f"{name(None, 'head_conv')}.weight" in tensors, **given,
    )  # fmt: skip
