"""Panels as numbers of a drawing, and the choice of what fits; the template draws them and escapes every word."""

from align_jax.evals.drawing.curves import CurvesDrawing, curves
from align_jax.evals.drawing.grid import GridDrawing, grid
from align_jax.evals.drawing.heat import ConfusionDrawing, SimilarityDrawing, confusion, similarity
from align_jax.evals.drawing.scatter import MapDrawing, scatter
from align_jax.evals.drawing.thumbnails import Thumbnails
from align_jax.evals.panels import Confusion, Curves, Grid, Panel, Similarity

Drawing = GridDrawing | ConfusionDrawing | SimilarityDrawing | CurvesDrawing | MapDrawing


def draw(panel: Panel, thumbnails: Thumbnails) -> Drawing | None:
    """The drawing, whose pictures are added to `thumbnails`; None where the panel is empty."""
    if isinstance(panel, Grid):
        return grid(panel, thumbnails)
    if isinstance(panel, Confusion):
        return confusion(panel)
    if isinstance(panel, Similarity):
        return similarity(panel, thumbnails)
    if isinstance(panel, Curves):
        return curves(panel)
    return scatter(panel, thumbnails)
