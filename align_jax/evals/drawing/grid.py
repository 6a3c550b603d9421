"""Queries with what was found for them."""

from dataclasses import dataclass
from typing import NamedTuple

from align_jax.evals.drawing.thumbnails import Shown, Thumbnails
from align_jax.evals.panels import Grid


class Answer(NamedTuple):
    """A hit."""

    item: Shown
    score: float
    right: bool


class Row(NamedTuple):
    """A query with its answers, best first."""

    query: Shown
    answers: list[Answer]
    place: int  # of the first right answer, from 1; 0 where none is right


@dataclass(frozen=True)
class GridDrawing:
    """A row a query."""

    rows: list[Row]
    pictured: bool  # answers are pictures
    first: int  # rows whose first answer is right
    found: int  # rows with a right answer


def grid(panel: Grid, thumbnails: Thumbnails) -> GridDrawing | None:
    """None where nothing was asked."""
    rows = []
    for query, hits in panel.rows:
        answers = [Answer(thumbnails.shown(hit.item), float(hit.score), bool(hit.right)) for hit in hits]
        place = next((place for place, answer in enumerate(answers, 1) if answer.right), 0)
        rows.append(Row(thumbnails.shown(query), answers, place))
    places = [row.place for row in rows]
    pictured = any(answer.item.thumbnail is not None for row in rows for answer in row.answers)
    return GridDrawing(rows, pictured, places.count(1), sum(map(bool, places))) if rows else None
