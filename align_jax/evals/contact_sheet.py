"""A picture of what the model learnt: texts on the left, the images that it finds for them on the right."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from align_jax.data import images as reading
from align_jax.data import source as sources
from align_jax.evals.embedding import Embedder
from align_jax.types import ModelState, Params, Result

TILE, GAP, TEXT_WIDTH, HEADER = 84, 8, 250, 58  # pixels
RIGHT, WRONG, INK, PALE = (34, 150, 84), (226, 226, 230), (32, 34, 40), (120, 124, 134)


class ContactSheet:
    """Writes <folder>/<name>.png: `queries` texts of a source, each with its `top` nearest images."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, folder: Path, name: str, source: dict, title: str, queries: int = 16, top: int = 8,
        seed: int = 0,
    ):  # fmt: skip
        """`seed` draws the queries: a fair sample, not the best ones."""
        self._embedder, self._path, self._top, self._title = embedder, folder / f"{name}.png", top, title
        self._source = sources.make(**source)
        first = {self._source[i].group: i for i in reversed(range(len(self._source)))}
        rows = np.random.default_rng(seed).permutation(sorted(first.values()))[:queries]
        self._queries = [(self._source[int(i)].texts[0], self._source[int(i)].group) for i in rows]

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Draws; yields nothing."""
        images, _ = self._embedder.images(params, model_state, self._source)
        texts = self._embedder.texts(params, model_state, [text for text, _ in self._queries])
        order = np.argsort(-(texts @ images.T), axis=1, kind="stable")[:, : self._top]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._draw(order).save(self._path)
        return iter(())

    def _draw(self, order: np.ndarray) -> Image.Image:
        pitch = TILE + GAP
        columns = 2 if len(order) > 8 else 1
        lines = -(-len(order) // columns)
        width = TEXT_WIDTH + order.shape[1] * pitch + 2 * GAP
        sheet = Image.new("RGB", (columns * width + 2 * GAP, HEADER + lines * pitch + GAP), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((2 * GAP, 12), self._title, INK, ImageFont.load_default(20))
        draw.text((2 * GAP, 36), f"nearest first, of {len(self._source)} images; green: the right concept", PALE,
                  ImageFont.load_default(13))  # fmt: skip
        for number, ((text, group), found) in enumerate(zip(self._queries, order, strict=True)):
            left, top = (number // lines) * width + 2 * GAP, HEADER + (number % lines) * pitch
            draw.multiline_text((left, top + TILE // 2), _wrap(text), INK, ImageFont.load_default(16), anchor="lm")
            for column, index in enumerate(found.tolist()):
                record = self._source[index]
                corner = (left + TEXT_WIDTH + column * pitch, top)
                colour = RIGHT if record.group == group else WRONG
                box = (*corner, corner[0] + TILE - 1, corner[1] + TILE - 1)
                draw.rounded_rectangle(box, 8, "white", colour, 4 if colour == RIGHT else 1)
                picture = reading.decode(record.image).resize((TILE - 14, TILE - 14), Image.Resampling.LANCZOS)
                sheet.paste(picture, (corner[0] + 7, corner[1] + 7))
        return sheet


def _wrap(text: str, width: int = 28) -> str:
    lines = [""]
    for word in text.split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [*lines, word]
    return "\n".join(lines[:3])
