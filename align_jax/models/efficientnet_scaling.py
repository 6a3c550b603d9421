"""The table of EfficientNet-B0, and how the published variants scale it.

Numbers and rounding rules are those of tensorflow/tpu models/official/efficientnet; B8 and L2 come from the same table
(L2: Xie et al. 2020, "Noisy Student", appendix A), the Lite variants from lite/efficientnet_lite_builder.py there.
"""

from typing import NamedTuple


class Variant(NamedTuple):
    """Compound scaling, the side in pixels that the published network was trained at, and what Lite leaves out.

    Every field but the resolution is one of `EfficientNet`.
    """

    width: float
    depth: float
    resolution: int
    squeeze: bool = True
    activation: str = "swish"
    fixed_ends: bool = False


def _lite(width: float, depth: float, resolution: int) -> Variant:
    return Variant(width, depth, resolution, squeeze=False, activation="relu6", fixed_ends=True)


VARIANTS = {
    "b0": Variant(1.0, 1.0, 224),
    "b1": Variant(1.0, 1.1, 240),
    "b2": Variant(1.1, 1.2, 260),
    "b3": Variant(1.2, 1.4, 300),
    "b4": Variant(1.4, 1.8, 380),
    "b5": Variant(1.6, 2.2, 456),
    "b6": Variant(1.8, 2.6, 528),
    "b7": Variant(2.0, 3.1, 600),
    "b8": Variant(2.2, 3.6, 672),
    "l2": Variant(4.3, 5.3, 800),
    "lite0": _lite(1.0, 1.0, 224),
    "lite1": _lite(1.0, 1.1, 240),
    "lite2": _lite(1.1, 1.2, 260),
    "lite3": _lite(1.2, 1.4, 280),
    "lite4": _lite(1.4, 1.8, 300),
}


class Stage(NamedTuple):
    """A run of blocks of B0; the first block has the stage's stride and changes the width to `filters`."""

    repeats: int
    kernel: int
    expand: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 16),
    Stage(2, 3, 6, 24),
    Stage(2, 5, 6, 40),
    Stage(3, 3, 6, 80),
    Stage(3, 5, 6, 112),
    Stage(4, 5, 6, 192),
    Stage(1, 3, 6, 320),
)
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the stages' first blocks
STEM_FILTERS, HEAD_FILTERS = 32, 1280


def round_filters(filters: float) -> int:
    """The nearest multiple of 8, but never more than 10 % below `filters`."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
