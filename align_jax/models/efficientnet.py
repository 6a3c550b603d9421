"""EfficientNet (Tan & Le 2019, arXiv 1905.11946), the image tower of ALIGN.

ALIGN leaves out the 1x1 convolution of the classification head (arXiv 2102.05918, section 4.1), so features are the
last block's, 320 x width; `head_conv=True` puts it back.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from align_jax.models import remat
from align_jax.models.blocks import chain
from align_jax.models.convolution import dense_conv
from align_jax.models.depthwise import Padding, depthwise_conv
from align_jax.models.efficientnet_scaling import HEAD_FILTERS, STAGES, STEM_FILTERS, STRIDES, Stage, round_filters
from align_jax.models.norm import BatchNorm
from align_jax.models.randomness import drop_path, fold

NAMED = ("expand", "depthwise", "project")  # the outputs of a block's convolutions
PADDINGS = ("same", "hf", "symmetric")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"swish": nn.swish, "relu6": nn.relu6}


def conv_padding(convention: str, kernel: int, stride: int, height: int, width: int) -> Padding:
    """Rows and columns to add around [height, width].

    `same` is TensorFlow's: maps of ceil(side / stride), and where the padding is odd, one more after than before.
    `hf` is Hugging Face's: at stride 2 always one more after than before, so that sides round down (289 px: 144, 72,
    36, 18, 9). `symmetric` is PyTorch's own: half the kernel on all sides.
    """
    if convention == "symmetric":
        return (kernel // 2, kernel // 2), (kernel // 2, kernel // 2)
    if stride > 1 and convention == "hf":
        pads = kernel // 2 - 1, kernel // 2
        return pads, pads
    rows, columns = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in (height, width))
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


# Normal with variance 2 / (k * k * filters), not truncated (tensorflow/tpu efficientnet_model.py). A depthwise kernel
# makes one filter of each channel: its variance is 2 / (k * k).
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
depthwise_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=-1, out_axis=-2)


class Conv(nn.Module):
    """A convolution without bias: x [B, H, W, C] to [B, H', W', filters], kernel [k, k, C, filters].

    With `depthwise` the kernel is [k, k, 1, filters] and filters = C.
    """

    filters: int
    kernel: int
    stride: int = 1
    padding: str = "same"
    depthwise: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, 1 if self.depthwise else x.shape[-1], self.filters)
        kernel = self.param("kernel", depthwise_init if self.depthwise else conv_init, shape, self.param_dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        padding = conv_padding(self.padding, self.kernel, self.stride, *x.shape[1:3])
        if self.depthwise:
            return depthwise_conv(x, kernel, stride=self.stride, padding=padding)

        return dense_conv(x, kernel, stride=self.stride, padding=padding)


class Block(nn.Module):
    """MBConv (Sandler et al. 2018), with squeeze-and-excitation unless `squeeze` is False: [B, H, W, C] to
    [B, H', W', filters].

    The squeezed width is a quarter of the block's input, not of its expansion. The skip connection exists where shapes
    allow it. `keep` is the probability with which stochastic depth keeps a row, drawn from the rows' `keys`.
    """

    filters: int
    kernel: int
    expand: int
    stride: int
    padding: str
    norm: Callable[..., BatchNorm]
    squeeze: bool = True
    activation: str = "swish"
    marked: bool = False  # whether a policy names values of this block
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, keys: jax.Array | None, keep: float | jax.Array) -> jax.Array:
        shared = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        mark = remat.named if self.marked else lambda value, _: value
        activate = ACTIVATIONS[self.activation]
        channels = x.shape[-1]
        h = x
        if self.expand != 1:
            h = mark(Conv(channels * self.expand, 1, name="expand_conv", **shared)(h), "expand")
            h = activate(self.norm(name="expand_bn")(h, train=train))
        h = Conv(h.shape[-1], self.kernel, self.stride, self.padding, True, name="depthwise_conv", **shared)(h)
        h = mark(h, "depthwise")
        h = activate(self.norm(name="depthwise_bn")(h, train=train))

        if self.squeeze:
            squeezed = max(1, channels // 4)
            gate = activate(nn.Dense(squeezed, kernel_init=conv_init, name="se_reduce", **shared)(h.mean((1, 2))))
            gate = nn.sigmoid(nn.Dense(h.shape[-1], kernel_init=conv_init, name="se_expand", **shared)(gate))
            h = h * gate[:, None, None]

        h = mark(Conv(self.filters, 1, name="project_conv", **shared)(h), "project")
        h = self.norm(name="project_bn")(h, train=train)
        return x + drop_path(h, keep, keys) if h.shape == x.shape else h


class EfficientNet(nn.Module):
    """Images [B, H, W, 3] to features [B, round_filters(320 * width)].

    `bn_group_size`, `bn_axis_names` and `epsilon` are BatchNorm's. `padding` is a convention of `conv_padding`.
    `stem_stride` and `strides` (one per stage) let small images keep larger maps; `stages` is the table of B0 before
    scaling. `remat`: "none", "block", or of the blocks' values those to keep for the backward pass, some of `NAMED`.
    `scan`: equal blocks are one loop, for compilation; see `chain`.

    EfficientNet-Lite has no squeeze-and-excitation (`squeeze`), ReLU6 as `activation`, and `fixed_ends`: the stem and
    the head convolution keep B0's width, the first and the last stage B0's depth.
    """

    width: float = 1.0
    depth: float = 1.0
    stochastic_depth: float = 0.2
    padding: Literal["same", "hf", "symmetric"] = "same"
    bn_group_size: int | None = 16
    bn_axis_names: tuple[str, ...] = ()
    head_conv: bool = False
    stem_stride: int = 2
    strides: tuple[int, ...] = STRIDES
    stages: tuple[Stage, ...] = STAGES
    squeeze: bool = True
    activation: Literal["swish", "relu6"] = "swish"
    fixed_ends: bool = False
    epsilon: float = 1e-3
    remat: str | tuple[str, ...] = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, images: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
        """Features [B, D] in `param_dtype`: the feature map's mean over its positions."""
        return self.feature_map(images, train=train, keys=keys).mean((1, 2), dtype=self.param_dtype)

    @nn.compact
    def feature_map(self, images: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
        """The last map [B, h, w, D] in `dtype`. `train` is BatchNorm's; row keys [B] turn stochastic depth on."""
        self.check(*images.shape[1:3])
        shared = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(
            BatchNorm, self.bn_group_size, epsilon=self.epsilon, axis_names=self.bn_axis_names, **shared
        )
        activate = ACTIVATIONS[self.activation]

        x = Conv(self.end_filters(STEM_FILTERS), 3, self.stem_stride, self.padding, name="stem_conv", **shared)(images)
        x = activate(norm(name="stem_bn")(x, train=train))
        layout = self.layout()
        blocks = [
            Block(
                filters=round_filters(self.width * stage.filters),
                kernel=stage.kernel,
                expand=stage.expand,
                stride=stride,
                padding=self.padding,
                norm=norm,
                squeeze=self.squeeze,
                activation=self.activation,
                marked=self.remat not in remat.POLICIES,
                name=f"block_{index}",
                **shared,
            )
            for index, (stage, stride) in enumerate(layout)
        ]

        def call(block: Block, x: jax.Array, own: tuple[int | jax.Array, float | jax.Array]) -> jax.Array:
            site, keep = own
            return block(x, train=train, keys=fold(keys, site), keep=keep)

        keeps = [1.0 - self.stochastic_depth * index / len(layout) for index in range(len(layout))]
        x = chain(call, blocks, x, list(enumerate(keeps)), policy=self.remat, scan=self.scan)
        if self.head_conv:
            x = Conv(self.end_filters(HEAD_FILTERS), 1, name="head_conv", **shared)(x)
            x = activate(norm(name="head_bn")(x, train=train))
        return x

    @property
    def features(self) -> int:
        """The width D of the features."""
        if self.head_conv:
            return self.end_filters(HEAD_FILTERS)
        return round_filters(self.width * Stage(*self.stages[-1]).filters)

    def end_filters(self, filters: int) -> int:
        """The width of the stem or of the head convolution, from that of B0."""
        return filters if self.fixed_ends else round_filters(self.width * filters)

    def layout(self) -> list[tuple[Stage, int]]:
        """The stage and the stride of every block."""
        ends = (0, len(self.stages) - 1) if self.fixed_ends else ()
        return [
            (Stage(*stage), stride if repeat == 0 else 1)
            for index, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True))
            for repeat in range(stage[0] if index in ends else math.ceil(self.depth * stage[0]))
        ]

    def check(self, height: int, width: int) -> None:
        """Refuses unknown padding, activation or remat, strides unlike the stages, images that the strides use up."""
        for name, known in (("padding", PADDINGS), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"EfficientNet: expected {name} of {known}, found {getattr(self, name)!r}")
        if len(self.strides) != len(self.stages):
            raise ValueError(
                f"EfficientNet: expected a stride for each of {len(self.stages)} stages, found {self.strides}"
            )
        remat.check(self.remat, NAMED)
        side = min(height, width)
        for stride in (self.stem_stride, *self.strides):
            side = side // stride if self.padding == "hf" else math.ceil(side / stride)
        if side == 0:
            raise ValueError(
                f"EfficientNet: images of {height} x {width} pixels are too small: with padding={self.padding!r} the "
                f"strides {(self.stem_stride, *self.strides)} leave a map without rows; use larger images"
            )
