"""The pixels of a composed scene, and the boxes of what is visible of its things."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from align_jax.data.emoji import art_files, rasterised
from align_jax.data.scene_layout import Thing

FAINT = 16  # of 255: pixels with less of a picture in them show the ground alone


class Artist:
    """Draws things in these art styles on square canvases of `size` pixels. Safe to share between threads."""

    def __init__(self, styles: Sequence[str], size: int):
        self._files = {style: art_files(style) for style in styles}
        self._size = size

    def lacks(self, key: str) -> list[str]:
        """The styles that have no picture of a concept."""
        return [style for style, files in self._files.items() if key not in files]

    def image(self, things: Sequence[Thing], ground: tuple[int, int, int]) -> np.ndarray:
        """uint8 [size, size, 3]: the things on a ground of that colour."""
        canvas = np.full((self._size, self._size, 3), ground, np.uint8)
        for thing in things:
            left, top, right, bottom = self._box(thing)
            cut = self._cut_out(thing).astype(np.uint16)
            colour, alpha = cut[..., :3], cut[..., 3:]
            window = canvas[top:bottom, left:right]
            window[:] = (colour * alpha + window * (255 - alpha) + 127) // 255
        return canvas

    def boxes(self, things: Sequence[Thing]) -> np.ndarray:
        """f32 [n, 4]: left, top, right, bottom of what is visible, as shares of the canvas."""
        return np.array([self._box(thing) for thing in things], np.float32) / self._size

    def _box(self, thing: Thing) -> tuple[int, int, int, int]:
        """In the middle of the thing's square."""
        height, width, _ = self._cut_out(thing).shape
        left, top = thing.left + (thing.side - width) // 2, thing.top + (thing.side - height) // 2
        return left, top, left + width, top + height

    def _cut_out(self, thing: Thing) -> np.ndarray:
        return cut_out(self._files[thing.style][thing.concept.key], thing.side)


@functools.lru_cache(16_384)  # 2 ms each, and sources share them: 25 MB for all concepts in 5 sides on 64 px
def cut_out(path: Path, side: int) -> np.ndarray:
    """What is drawn in an SVG, uint8 [h, w, 4], its longer side scaled to `side` pixels, without an empty border."""
    art = rasterised(path, 2 * side)
    art = art.crop(art.getbbox())
    longer = max(art.size)
    width, height = (max(1, round(length * side / longer)) for length in art.size)
    pixels = np.array(art.resize((width, height), Image.Resampling.BOX))
    seen = pixels[..., 3] >= FAINT
    pixels[~seen] = 0
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels.flags.writeable = False  # shared
    return pixels
