"""What a stored image must satisfy, and what becomes of one that does not.

An image is refused for features that are not finite, of another width, or beyond the range of the type on disk; for
scores or probabilities that are not finite; for probabilities below 0, or with a sum above 1, as logits have; for a
label outside the classes; and if no region is left. A region is left out for a box that is not finite, or has no area
inside the image, and where an image has more than `most`: the surest are kept. A box that reaches over the edge is cut
to the image.
"""

import dataclasses
from collections import Counter

import numpy as np

from align_jax.data.regions import Regions
from align_jax.data.source import BadExample

ROUNDING = 1e-6  # of an image's side: a box that reaches so little over the edge is not counted as cut
TOTAL = 1.01  # of probabilities, that of half precision included
# What was done to regions, as it is counted.
CUT, NOT_FINITE, NO_AREA = "box cut to the image", "left out: box not finite", "left out: box without area"
SUREST = "left out: beyond the surest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Of all images of a folder."""

    width: int  # F
    classes: int  # C; 0 where nothing has a label
    most: int  # regions of an image
    dtype: str  # on disk
    probabilities: bool  # whether they are kept


def clean(regions: Regions, rules: Rules) -> tuple[Regions, Counter[str]]:
    """(what is stored, what was done -> regions). BadExample for an image that is refused."""
    done: Counter[str] = Counter()
    kept = regions if rules.probabilities else dataclasses.replace(regions, probabilities=None)
    if rules.probabilities and kept.probabilities is None:
        raise BadExample("region probabilities missing")
    _check_numbers(kept, rules)
    finite = np.asarray(np.isfinite(kept.boxes).all(axis=1))
    done[NOT_FINITE] = int((~finite).sum())
    kept = kept.at(finite)
    inside = np.clip(kept.boxes, 0, 1)
    area = np.asarray((inside[:, :2] < inside[:, 2:]).all(axis=1))
    done[NO_AREA] = int((~area).sum())
    done[CUT] = int((np.abs(inside - kept.boxes).max(axis=1, initial=0) > ROUNDING)[area].sum())
    kept = dataclasses.replace(kept, boxes=inside).at(area)
    if (excess := len(kept) - rules.most) > 0:
        done[SUREST] = excess
        kept = kept.best(rules.most)
    kept.check(width=rules.width, classes=rules.classes)
    return kept, +done


def _check_numbers(regions: Regions, rules: Rules) -> None:
    """What refuses an image whatever its boxes are."""
    if not len(regions):
        raise BadExample("no regions")
    width = regions.features.shape[1]
    if width != rules.width:
        raise BadExample(f"region features of width {width}, not {rules.width}")
    if not np.isfinite(regions.features).all():
        raise BadExample("region features not finite")
    if np.abs(regions.features).max() > np.finfo(rules.dtype).max:
        raise BadExample(f"region features beyond {rules.dtype}")
    if not np.isfinite(regions.scores).all():
        raise BadExample("region scores not finite")
    if regions.probabilities is not None:
        if not np.isfinite(regions.probabilities).all():
            raise BadExample("region probabilities not finite")
        if regions.probabilities.min(initial=0) < 0 or (regions.probabilities.sum(axis=1) > TOTAL).any():
            raise BadExample("region probabilities that are none")
    if not ((regions.labels >= -1) & (regions.labels < rules.classes)).all():
        raise BadExample("label outside the classes")
