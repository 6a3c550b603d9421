"""A picture of what the model learnt: texts on the left, the images that it finds for them on the right."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from align_jax import files
from align_jax.data import images as reading
from align_jax.evals.embedding import Embedder, left_out
from align_jax.types import AlignError, Evaluator, ModelState, Params, Result

TILE, PICTURE, GAP, MARGIN = 92, 72, 8, 36  # pixels
TEXT_WIDTH, HEADER, GUTTER = 216, 104, 56
PAPER, CARD, LINE, INK, PALE, RIGHT = "#f5f5f7", "#ffffff", "#e3e3e8", "#1d1d22", "#7b7d87", "#1f9d57"


class ContactSheet(Evaluator):
    """Writes <folder>/<name>.png: `queries` texts of a source, each with its `top` nearest images."""

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, folder: Path, name: str, source: dict, title: str, queries: int = 16, top: int = 8,
        seed: int = 0,
    ):  # fmt: skip
        """`seed` draws the queries: a fair sample, not the best ones."""
        self._embedder, self._path, self._top, self._title = embedder, folder / f"{name}.png", top, title
        self._source = embedder.open(source)
        asked: dict[str, str] = {}  # group -> the canonical text of its first image
        for index in range(len(self._source)):
            record = self._source.about(index)
            if record.texts and record.texts[0].strip():
                asked.setdefault(record.group, record.texts[0])
        if not asked or queries < 1 or top < 1:
            raise AlignError(f"evals.{name}: expected texts, queries and top, found {len(asked)}, {queries} and {top}")
        drawn = np.random.default_rng(seed).permutation(len(asked))[:queries]
        self._queries = [list(asked.items())[i] for i in sorted(drawn.tolist())]

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Draws; yields nothing."""
        images, bad = self._embedder.images(params, model_state, self._source)
        left_out(self._source, bad)
        texts = self._embedder.texts(params, model_state, [text for _, text in self._queries])
        scores = texts @ images.T
        scores[:, list(bad)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : min(self._top, len(images) - len(bad))]
        files.write(self._path, lambda partial: self._draw(order).save(partial))
        return iter(())

    def _draw(self, order: np.ndarray) -> Image.Image:
        columns = 2 if len(order) > 8 else 1
        lines = -(-len(order) // columns)
        width = TEXT_WIDTH + order.shape[1] * (TILE + GAP) - GAP
        size = (2 * MARGIN + columns * width + (columns - 1) * GUTTER, HEADER + lines * (TILE + GAP) - GAP + MARGIN)
        sheet = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(sheet)
        draw.text((MARGIN, 28), self._title, INK, ImageFont.load_default(26))
        first = sum(self._group(row[0]) == group for (group, _), row in zip(self._queries, order, strict=True))
        note = f"nearest first, of {len(self._source)} images; green: the right one, first for {first} of {len(order)}"
        draw.text((MARGIN, 64), note, PALE, ImageFont.load_default(16))
        for number, ((group, text), found) in enumerate(zip(self._queries, order, strict=True)):
            left = MARGIN + (number // lines) * (width + GUTTER)
            top = HEADER + (number % lines) * (TILE + GAP)
            draw.multiline_text((left, top + TILE // 2), _wrapped(text), INK, ImageFont.load_default(18), anchor="lm")
            for column, index in enumerate(found):
                corner = (left + TEXT_WIDTH + column * (TILE + GAP), top)
                self._tile(sheet, draw, corner, int(index), right=self._group(index) == group)
        return sheet

    def _tile(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], index: int, *, right: bool
    ) -> None:
        x, y = corner
        box = (x, y, x + TILE - 1, y + TILE - 1)
        draw.rounded_rectangle(box, 12, CARD, RIGHT if right else LINE, 4 if right else 1)
        picture = reading.decode(self._source[index].image)
        picture = ImageOps.contain(picture, (PICTURE, PICTURE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))

    def _group(self, index: int) -> str:
        return self._source.about(int(index)).group


def _wrapped(text: str) -> str:
    """At most three lines that fit TEXT_WIDTH; what is cut ends in dots."""
    font = ImageFont.load_default(18)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= TEXT_WIDTH - 16 else [*lines, word]
    lines = [_cut(line, font) for line in lines if line]
    return "\n".join(lines if len(lines) <= 3 else [*lines[:2], _cut(f"{lines[2]}…", font)])


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while font.getlength(line) > TEXT_WIDTH - 16:
        line = f"{line[:-2]}…"
    return line
