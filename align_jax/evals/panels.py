"""What a person looks at: the panels that evaluators show, for the page to draw."""

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from align_jax.data import images as reading
from align_jax.data.source import BadExample, Source

SIDE = 80  # pixels of a thumbnail's longer side


@dataclasses.dataclass(frozen=True)
class Item:
    """A text, a picture, or a picture with its text."""

    text: str = ""
    picture: bytes = b""  # an encoded thumbnail


@dataclasses.dataclass(frozen=True)
class Hit:
    """What was found."""

    item: Item
    score: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Grid:
    """Queries, each with what was found for it, best first."""

    title: str
    note: str
    rows: Sequence[tuple[Item, Sequence[Hit]]]


@dataclasses.dataclass(frozen=True)
class Confusion:
    """counts int [C, C]: examples of a class (row) that were taken for another (column).

    totals int [C]: all examples of a class, also those that were taken for a class that is not shown.
    """

    title: str
    note: str
    classes: Sequence[str]
    counts: np.ndarray
    totals: np.ndarray


@dataclasses.dataclass(frozen=True)
class Similarity:
    """scores f32 [rows, columns] of some items with others; what belongs together stands on the diagonal."""

    title: str
    note: str
    rows: Sequence[Item]
    columns: Sequence[Item]
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines of (x, y) by name."""

    title: str
    note: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Map:
    """embeddings f32 [n, D] of items, to be laid out in two dimensions; kinds give the colours."""

    title: str
    note: str
    embeddings: np.ndarray
    items: Sequence[Item]
    kinds: Sequence[str]
    umap: bool = True  # where umap-learn is installed; else the first two principal components


Panel = Grid | Confusion | Similarity | Curves | Map


def picture(source: Source, index: int, *, text: str = "", side: int = SIDE) -> Item:
    """A record's picture in a small file; without one where it cannot be read."""
    try:
        image = source[index].image
    except BadExample as error:
        return Item(text=text or str(error))
    return thumbnail(image, text=text, side=side)


def thumbnail(picture: reading.Picture, *, text: str = "", side: int = SIDE) -> Item:
    """The picture in a small file; without one where it cannot be read."""
    try:
        image = reading.decode(picture)
    except BadExample as error:
        return Item(text=text or str(error))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=80)
    return Item(text=text, picture=encoded.getvalue())
