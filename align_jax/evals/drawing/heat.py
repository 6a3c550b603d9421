"""Matrices as heat maps: which classes are confused, and what is similar to what."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from align_jax.evals.drawing.thumbnails import Shown, Thumbnails
from align_jax.evals.panels import Confusion, Similarity

BATCH = 32  # rows and columns of a similarity matrix
SHADES = 20


class Cell(NamedTuple):
    """A number and its colour."""

    value: float
    shade: int  # 0 to SHADES
    own: bool  # on the diagonal
    best: bool = False  # the largest of its row


class ClassRow(NamedTuple):
    """What the examples of a class were taken for."""

    name: str
    cells: list[Cell]
    others: int  # taken for classes that are not shown
    total: int
    right: float | None  # share; None of no examples


@dataclass(frozen=True)
class ConfusionDrawing:
    """A row of each class; `others` where some were taken for classes that are not shown."""

    classes: list[str]
    rows: list[ClassRow]
    others: bool


class ItemRow(NamedTuple):
    """An item's scores with others."""

    item: Shown
    cells: list[Cell]


@dataclass(frozen=True)
class SimilarityDrawing:
    """The first rows and columns of a matrix of `size`; the numbers are of the whole."""

    columns: list[Shown]
    rows: list[ItemRow]
    size: tuple[int, int]
    low: float  # of the shades; where scores are negative these are of the absolute scores, from 0
    high: float
    negative: bool
    best_of_rows: int  # rows whose diagonal score no other reaches
    best_of_columns: int
    own: float  # mean of the diagonal
    others: float | None  # mean of the rest; None where there is none


def confusion(panel: Confusion) -> ConfusionDrawing | None:
    """None of no classes."""
    counts, totals = np.asarray(panel.counts).tolist(), np.asarray(panel.totals).tolist()
    rows = []
    for at, (name, values, total) in enumerate(zip(panel.classes, counts, totals, strict=True)):
        cells = [Cell(value, _shade(math.sqrt(value / max(total, 1))), at == j) for j, value in enumerate(values)]
        rows.append(ClassRow(name, cells, total - sum(values), total, values[at] / total if total else None))
    return ConfusionDrawing(list(panel.classes), rows, any(row.others for row in rows)) if rows else None


def similarity(panel: Similarity, thumbnails: Thumbnails) -> SimilarityDrawing | None:
    """None of an empty matrix."""
    scores = np.asarray(panel.scores, np.float64)
    if not scores.size:
        return None
    part, own = scores[:BATCH, :BATCH], np.diag(scores)
    low, high = float(part.min()), float(part.max())
    negative = low < 0
    if negative:
        low, high = 0.0, max(-low, high)
    span = high - low or 1.0
    rows = []
    for at, (item, values) in enumerate(zip(panel.rows, part.tolist(), strict=False)):
        best = float(scores[at].max())
        cells = [Cell(v, _shade((abs(v) - low) / span), at == column, v == best) for column, v in enumerate(values)]
        rows.append(ItemRow(thumbnails.shown(item), cells))
    rest = scores.size - len(own)
    return SimilarityDrawing(
        [thumbnails.shown(item) for item in panel.columns[:BATCH]], rows, (scores.shape[0], scores.shape[1]), low, high,
        negative, _best(scores), _best(scores.T), float(own.mean()),
        float((scores.sum() - own.sum()) / rest) if rest else None,
    )  # fmt: skip


def _shade(share: float) -> int:
    """Up to SHADES; what is not 0 is seen."""
    return math.ceil(share * SHADES - 1e-9)


def _best(scores: np.ndarray) -> int:
    """Rows whose diagonal score no other reaches."""
    own = np.diag(scores)
    return int(((scores[: len(own)] >= own[:, None]).sum(axis=1) == 1).sum())
