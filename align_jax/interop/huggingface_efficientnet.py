"""EfficientNet weights from Hugging Face's tensor names (transformers EfficientNetModel and AlignVisionModel)."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from align_jax.models.efficientnet import STEM_FILTERS, EfficientNet, round_filters
from align_jax.types import AlignError, ModelState, Params

TOP = {
    "stem_conv": "embeddings.convolution",
    "stem_bn": "embeddings.batchnorm",
    "head_conv": "encoder.top_conv",
    "head_bn": "encoder.top_bn",
}
BLOCK = {
    "expand_conv": "expansion.expand_conv",
    "expand_bn": "expansion.expand_bn",
    "depthwise_conv": "depthwise_conv.depthwise_conv",
    "depthwise_bn": "depthwise_conv.depthwise_norm",
    "se_reduce": "squeeze_excite.reduce",
    "se_expand": "squeeze_excite.expand",
    "project_conv": "projection.project_conv",
    "project_bn": "projection.project_bn",
}
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def from_torch_state(
    state: Mapping[str, np.ndarray], module: EfficientNet, prefix: str = ""
) -> tuple[Params, ModelState]:
    """(params, batch_stats) of `module` from the tensors whose names start with `prefix`.

    AlignError, by name, for a missing, unknown or misshapen tensor. `num_batches_tracked` is not read.
    """
    _check_skips(module)
    side = module.stem_stride * math.prod(module.strides)
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, side, side, 3), "f4"), train=False))
    leaves, tree = jax.tree_util.tree_flatten_with_path({name: expected[name] for name in ("params", "batch_stats")})
    names = [prefix + torch_name(*(key.key for key in path[1:])) for path, _ in leaves]
    given = {name for name in state if name.startswith(prefix) and not name.endswith(".num_batches_tracked")}
    if given != set(names):
        raise AlignError(
            f"EfficientNet tensors: missing {sorted(set(names) - given)}, unknown {sorted(given - set(names))}"
        )
    variables = tree.unflatten(_convert(name, state[name], leaf) for name, (_, leaf) in zip(names, leaves, strict=True))
    return variables["params"], variables["batch_stats"]


def torch_name(*path: str) -> str:
    """("block_3", "se_reduce", "kernel") -> "encoder.blocks.3.squeeze_excite.reduce.weight"."""
    *block, layer, leaf = path
    name = f"encoder.blocks.{block[0].removeprefix('block_')}.{BLOCK[layer]}" if block else TOP[layer]
    return f"{name}.{LEAF[leaf]}"


def _convert(name: str, tensor: np.ndarray, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    value = np.asarray(tensor)
    if value.ndim == 4:  # torch stores [out, in, k, k]; a depthwise kernel is [C, 1, k, k]
        value = value.transpose(2, 3, 1, 0)
    if len(leaf.shape) == 2 and value.shape[:2] == (1, 1):  # squeeze-and-excitation: a dense layer written as 1x1 conv
        value = value[0, 0]
    if value.shape != leaf.shape:
        raise AlignError(f"EfficientNet tensor {name}: expected {leaf.shape} once transposed, found {value.shape}")
    return value.astype(leaf.dtype)


def _check_skips(module: EfficientNet) -> None:
    """Hugging Face gives a stage's first block no skip connection; the original does where shapes allow it.

    They differ in no published variant, but do in narrow ones, where rounding makes neighbouring stages equally wide.
    """
    widths = [round_filters(module.width * f) for f in (STEM_FILTERS, *(stage[3] for stage in module.stages))]
    for index, stride in enumerate(module.strides):
        if stride == 1 and widths[index] == widths[index + 1]:
            raise AlignError(
                f"Hugging Face EfficientNet: stages {index} and {index + 1} are both {widths[index]} channels wide at "
                f"width={module.width}, and there its skip connections differ from the original; choose another width"
            )
