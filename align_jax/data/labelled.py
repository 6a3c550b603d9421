"""From a stored record to an image with its class."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.config import call
from align_jax.data import classes as kept
from align_jax.data.inception import Inception
from align_jax.data.source import BadExample, Record, Source
from align_jax.data.views import Resized, View
from align_jax.types import AlignError

VIEWS: dict[str, Callable[..., View]] = {"align": Resized, "inception": Inception}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """record -> {"image": uint8 [H, H, 3], "label": int32, an index into `classes`}."""

    classes: tuple[str, ...]
    view: View

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One visit. BadExample where the record cannot be used."""
        if not 0 <= record.label < len(self.classes):
            raise BadExample("label missing")
        return {"image": self.view.train(record.image, rng), "label": np.asarray(record.label, np.int32)}

    @property
    def protocol(self) -> str:
        """The square in evaluation, in words."""
        return self.view.protocol

    @property
    def reads(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def image(self, image: Any) -> np.ndarray:
        """The square for evaluation and inference, uint8 [H, H, 3]."""
        return self.view.evaluate(image)

    def visual(self, item: Any) -> dict[str, np.ndarray]:
        """{"image": the square} of a record or a picture."""
        return {"image": self.image(getattr(item, "image", item))}

    def blank(self) -> dict[str, np.ndarray]:
        """A black square."""
        return {"image": np.zeros((self.view.side, self.view.side, 3), np.uint8)}

    def texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """None can be read."""
        raise AlignError(f"expected a model that reads texts, found a classifier of {len(self.classes)} classes")

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        """The class names."""
        return {kept.FILE: functools.partial(kept.save, self.classes)}

    def preprocessing(self) -> dict[str, Any]:
        """`image` for other programs."""
        return self.view.preprocessing()


def make(
    *,
    source: Source | None,
    folder: Path,
    classes: int,
    augment: str,
    crop: int,
    flip: bool,
    eval_crop: int | None = None,
    resize: int | None = None,
    eval_share: float | None = None,
    area: tuple[float, float] | None = None,
    resample: str = "bilinear",
) -> Labelled:
    """The labelled images of `config.data`.

    Args:
      source: whose classes they are; None where the folder has them already.
      classes: how many the source has: the model is made before it is read.
      augment: of VIEWS: "align" resizes to a square and takes a window of it, as pre-training does; "inception" takes
        windows of any size and of nearly any aspect.
      crop: pixels of the square in training. eval_crop: in evaluation, where it is another. flip: mirror half of them.
      resize: of "align" alone: pixels of the whole square. eval_share, area: of "inception" alone, 0.875 and
        (0.08, 1.0) unless given: see `Inception`. resample: of `images.RESAMPLE`.
    """
    if augment not in VIEWS:
        raise AlignError(f"config.data.augment: expected one of {tuple(VIEWS)}, found {augment!r}")
    options = {"crop": crop, "flip": flip, "eval_crop": eval_crop, "resize": resize, "eval_share": eval_share,
               "area": area, "resample": resample}  # fmt: skip
    given = {key: value for key, value in options.items() if value is not None}
    view = call(VIEWS[augment], given, where=f"config.data with augment {augment!r}")
    names = kept.names(source, folder=folder)
    if len(names) != classes:
        raise AlignError(
            f"config.data.classes: expected the {len(names)} classes of the source ({', '.join(names[:3])}, ..), found "
            f"{classes}; set --config.data.classes={len(names)}"
        )
    return Labelled(names, view)
