"""From the arrays that other programs store of an image, under names of their own, to `Regions`.

What stands for what, in the order in which it is looked for:
  features       features, image_features, x                  [n, F], or [F, n] as OpenVQA has them
  boxes          norm_bb, spatial_features (shares of the image); boxes, bbox, image_bb (`units` says)
                 [n, 4 or more]: left, top, right, bottom first; or [4, n]
  labels         labels, objects_id, classes                  [n]; without them the likeliest class; else -1
  scores         scores, objects_conf, conf                   [n]; without them the largest probability; else 1
  probabilities  probabilities; soft_labels, cls_prob, whose first column is the background
  size           image_w, img_w, width and image_h, img_h, height: pixels, for boxes in pixels
  count          num_boxes, num_bbox: of rows that count, where arrays are filled up to one length

Without the background, probabilities are divided by their sum. Where nothing is left of them, the label is -1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align_jax.data.regions import Regions
from align_jax.data.source import BadExample

Fields = Mapping[str, Any]  # name -> array or number

FEATURES = ("features", "image_features", "x")
SHARES = ("norm_bb", "spatial_features")
BOXES = ("boxes", "bbox", "image_bb")
LABELS = ("labels", "objects_id", "classes")
SCORES = ("scores", "objects_conf", "conf")
PLAIN, BACKGROUND_FIRST = ("probabilities",), ("soft_labels", "cls_prob")
WIDTH, HEIGHT = ("image_w", "img_w", "width"), ("image_h", "img_h", "height")
COUNT = ("num_boxes", "num_bbox")
KNOWN = (*FEATURES, *SHARES, *BOXES, *LABELS, *SCORES, *PLAIN, *BACKGROUND_FIRST, *WIDTH, *HEIGHT, *COUNT)

UNITS = ("auto", "pixels", "shares")
UNEQUAL = "arrays of different lengths"
LEAST_PIXELS = 2  # no image has all its boxes within so few pixels; shares reach over 1 only by rounding or by mistake


def regions_of(fields: Fields, *, units: str = "auto") -> Regions:
    """All regions as they are stored, boxes as shares of the image; `cleaning.clean` says what is wrong with them.

    Args:
      units: of the boxes: pixels; shares; or auto, which goes by the name, and else takes boxes for shares where none
        reaches 2.

    Raises:
      BadExample: for arrays that are missing, or do not fit one another.
    """
    features, boxes, name = _tables(fields, units)
    count = _count(fields, len(features))
    features, boxes = features[:count].astype(np.float32), boxes[:count, :4].astype(np.float64)
    if _in_pixels(boxes, name, units):
        boxes = boxes / (_size(fields) * 2)
    probabilities, largest = _probabilities(fields, count)
    labels, scores = _labels(fields, probabilities, count), _scores(fields, largest, count)
    return Regions(features, boxes.astype(np.float32), labels, scores, probabilities)


def _tables(fields: Fields, units: str) -> tuple[np.ndarray, np.ndarray, str]:
    """(features [n, F], boxes [n, 4 or more], name of the boxes)."""
    features_name = _first(fields, FEATURES)
    name = _first(fields, BOXES + SHARES if units == "pixels" else SHARES + BOXES)
    if not features_name or not name:
        raise BadExample("boxes missing" if features_name else "features missing")
    features, boxes = _numbers(fields[features_name], "features"), _numbers(fields[name], "boxes")
    if features.ndim != 2 or boxes.ndim != 2:
        raise BadExample("features or boxes that are no table")
    for table in (boxes, boxes.T) if len(boxes) == 4 else (boxes,):
        for rows in (features, features.T):
            if table.shape[1] >= 4 and len(rows) == len(table):
                return rows, table, name
    raise BadExample(UNEQUAL)


def _in_pixels(boxes: np.ndarray, name: str, units: str) -> bool:
    if units != "auto":
        return units == "pixels"
    finite = boxes[np.isfinite(boxes)]
    return name not in SHARES and bool(len(finite)) and finite.max() >= LEAST_PIXELS


def _size(fields: Fields) -> list[float]:
    """[width, height]."""
    names = [_first(fields, WIDTH), _first(fields, HEIGHT)]
    if not all(names):
        raise BadExample("image size missing")
    found = [float(_numbers(fields[name], "image size").reshape(-1)[0]) for name in names]
    if not all(0 < side < np.inf for side in found):
        raise BadExample("image size not above 0")
    return found


def _count(fields: Fields, rows: int) -> int:
    name = _first(fields, COUNT)
    count = int(_numbers(fields[name], "count of boxes").reshape(-1)[0]) if name else rows
    if not 0 <= count <= rows:
        raise BadExample(UNEQUAL)
    return count


def _probabilities(fields: Fields, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(f32 [n, C] without the background, the largest of each region as it is stored), or nothing."""
    name = _first(fields, PLAIN + BACKGROUND_FIRST)
    if not name:
        return None, None
    found = _numbers(fields[name], "probabilities").astype(np.float32)
    if found.ndim != 2 or len(found) < count:
        raise BadExample(UNEQUAL)
    found = found[:count, 1:] if name in BACKGROUND_FIRST else found[:count]
    if not found.shape[1]:
        raise BadExample("probabilities of no class")
    if name in PLAIN:
        return found, found.max(axis=1)
    total = found.sum(axis=1, keepdims=True)
    return np.divide(found, total, out=np.zeros_like(found), where=total != 0), found.max(axis=1)


def _labels(fields: Fields, probabilities: np.ndarray | None, count: int) -> np.ndarray:
    """int32 [n]."""
    name = _first(fields, LABELS)
    if name:
        found = _row(fields[name], "labels", count)
        if not (np.isfinite(found).all() and (found == np.round(found)).all()):
            raise BadExample("labels that are no whole numbers")
        return np.clip(found, -(2**30), 2**30).astype(np.int32)
    if probabilities is None:
        return np.full(count, -1, np.int32)
    return np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), -1).astype(np.int32)


def _scores(fields: Fields, largest: np.ndarray | None, count: int) -> np.ndarray:
    """f32 [n]."""
    name = _first(fields, SCORES)
    if name:
        return _row(fields[name], "scores", count).astype(np.float32)
    return np.ones(count, np.float32) if largest is None else largest


def _row(values: Any, what: str, count: int) -> np.ndarray:
    """[n]."""
    found = _numbers(values, what)
    if found.ndim != 1 or len(found) < count:
        raise BadExample(UNEQUAL)
    return found[:count]


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        found = np.asarray(values)
    except ValueError:  # lists of different lengths
        found = np.array(None)
    if found.dtype.kind not in "fiu" or (not found.size and what == "image size"):
        raise BadExample(f"{what} that are no numbers")
    return found


def _first(fields: Fields, names: Sequence[str]) -> str:
    """The first of them that is there; "" for none."""
    return next((name for name in names if fields.get(name) is not None), "")
