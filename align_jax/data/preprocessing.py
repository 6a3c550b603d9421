"""What an export tells other programs: from a file to the numbers that a tower takes."""

from collections.abc import Mapping
from typing import Any

from align_jax.data.pixels import PIXELS

FILE = "preprocessing.json"
# How a file becomes pixels, and pixels a square: data/images.py.
PICTURES = {
    "colour": "RGB", "orientation": "EXIF applied", "transparency": "on white", "animation": "first frame",
    "antialias": True, "window": "central",
}  # fmt: skip


def described(examples: Mapping[str, Any], pixels: str, *, applied: bool = False) -> dict[str, Any]:
    """All of it: to a square of pixels, uint8 [H, W, 3], and to the tower's numbers, scale * x + offset.

    Args:
      examples: what `Examples.preprocessing` says of squares and texts. pixels: of `PIXELS`.
      applied: whether the exported program takes bytes, and applies scale and offset itself.
    """
    how = {"scale_and_offset": "applied by the program" if applied else "to be applied"}
    return PICTURES | dict(examples) | PIXELS[pixels].preprocessing() | how
