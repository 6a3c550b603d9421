"""A map: embeddings as points of the plane, by kind."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from align_jax.evals.drawing.thumbnails import Shown, Thumbnails
from align_jax.evals.layout import plane
from align_jax.evals.panels import Map

WIDTH, HEIGHT, MARGIN = 900, 600, 16  # pixels


class Mark(NamedTuple):
    """A point, in pixels from the upper left."""

    x: float
    y: float
    item: Shown


@dataclass(frozen=True)
class MapDrawing:
    """kinds: (name, marks), the most frequent first."""

    kinds: list[tuple[str, list[Mark]]]
    how: str
    width: int = WIDTH
    height: int = HEIGHT


def scatter(panel: Map, thumbnails: Thumbnails) -> MapDrawing | None:
    """As large as fits, with one scale for both axes. None of no items."""
    if not len(panel.items):
        return None
    found, how = plane(np.asarray(panel.embeddings), umap=panel.umap)
    low, high = found.min(axis=0), found.max(axis=0)
    size = np.array([WIDTH, HEIGHT])
    scale = ((size - 2 * MARGIN) / np.maximum(high - low, 1e-12)).min()
    pixels = size / 2 + (found - (low + high) / 2) * [scale, -scale]
    kinds: dict[str, list[Mark]] = {}
    for (x, y), item, kind in zip(pixels.round(1).tolist(), panel.items, panel.kinds, strict=True):
        kinds.setdefault(kind, []).append(Mark(x, y, thumbnails.shown(item)))
    return MapDrawing(sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0])), how)
