"""Regions of an image: what a detector found in it, the visual tokens of a cross-encoder (ImageBERT section 4.1)."""

import dataclasses

import numpy as np

from align_jax.data.source import BadExample


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """n regions of one image."""

    features: np.ndarray  # f32 [n, F]
    boxes: np.ndarray  # f32 [n, 4]: left, top, right, bottom, as shares of the image's width and height, in [0, 1]
    labels: np.ndarray  # int32 [n]: indices into the classes of whatever found them; -1 where it is not known
    scores: np.ndarray  # f32 [n]: how sure that was
    probabilities: np.ndarray | None = None  # f32 [n, C]: of each class, where it was kept

    def __len__(self) -> int:
        return len(self.features)

    def best(self, most: int) -> "Regions":
        """The `most` surest, surest first; of equally sure ones, the first."""
        return self.at(np.argsort(-self.scores, kind="stable")[:most])

    def at(self, rows: np.ndarray) -> "Regions":
        """Some of them: numbers, or bool [n]."""
        kept = None if self.probabilities is None else self.probabilities[rows]
        return Regions(self.features[rows], self.boxes[rows], self.labels[rows], self.scores[rows], kept)

    def check(self, *, width: int, classes: int) -> None:
        """BadExample where they are not what a model of that feature width and that many classes can be shown."""
        if not len(self):
            raise BadExample("no regions")
        if self.features.shape[1] != width:
            raise BadExample(f"region features of width {self.features.shape[1]}, not {width}")
        if not (np.isfinite(self.features).all() and np.isfinite(self.scores).all()):
            raise BadExample("region features not finite")
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if not ((self.boxes >= 0) & (self.boxes <= 1)).all():  # and so nan
            raise BadExample("box outside the image")
        if not (low < high).all():
            raise BadExample("box without area")
        if classes and not ((self.labels >= -1) & (self.labels < classes)).all():
            raise BadExample("label outside the classes")
        if self.probabilities is not None and classes and self.probabilities.shape[1] != classes:
            raise BadExample(f"region probabilities of {self.probabilities.shape[1]} classes, not {classes}")
