"""Regions of the pictures of a source, as `writing.write` takes them: found by a detector, or made of given boxes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from align_jax.data import images
from align_jax.data.region_store import check_rule, key_of
from align_jax.data.regions import Regions
from align_jax.data.source import BadExample, Objects, Source
from align_jax.data.views import whole
from align_jax.evals.embedding import READERS, begun
from align_jax.region_files.cleaning import Rules, clean
from align_jax.region_files.writing import Entry
from align_jax.types import AlignError

if TYPE_CHECKING:
    from align_jax.model import Model

READ_AHEAD = 2  # batches
FUNCTION = "image_features"  # of the model: before the projection into the space of embeddings
TOUCHED = 1e-3  # of a pixel: less is rounding of what was meant to end at its edge
WHOLE = np.array([[0, 0, 1, 1]], np.float32)


class Shown(NamedTuple):
    """A picture of the source."""

    picture: Image.Image  # RGB
    objects: Objects | None


Finder = Callable[[Sequence[Shown]], list[Regions]]


class Found:
    """The pictures of a source with what a finder makes of them."""

    def __init__(
        self,
        source: Source,
        find: Finder,
        *,
        width: int,
        classes: tuple[str, ...],
        most: int = 100,
        dtype: str = "float16",
        probabilities: bool = False,
        key: str = "id",
        batch_size: int = 8,
        origin: Mapping[str, Any],
    ):
        """`find` gives the regions of some pictures, F = `width`, their labels being indices into `classes`.

        Args:
          most: regions of an image. dtype: on disk. probabilities: whether they are kept.
          key: rule of `region_store.key_of`.
          batch_size: pictures that `find` is given at a time.
          origin: the source and all on which `find` depends.
        """
        check_rule(key, where="--key")
        self._source, self._find, self._key, self._batch_size = source, find, key, batch_size
        self._ids = source.ids()
        self.classes: tuple[str, ...] | int = classes
        self.rules = Rules(width=width, classes=len(classes), most=most, dtype=dtype, probabilities=probabilities)
        self.origin = {**origin, "key": key}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: range) -> Iterator[Entry]:
        """Some pictures, in order."""
        parts = (rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size))
        with ThreadPoolExecutor(READERS) as pool:
            for part, reads in begun(((part, pool.map(self._shown, part)) for part in parts), READ_AHEAD):
                yield from self._entries(part, list(reads))

    def _entries(self, part: range, reads: Sequence[Shown | str]) -> Iterator[Entry]:
        shown = [read for read in reads if isinstance(read, Shown)]
        found = iter(self._find(shown) if shown else [])
        for index, read in zip(part, reads, strict=True):
            name = self._ids[index].as_py()
            if isinstance(read, str):
                yield Entry(name, None, read)
                continue
            try:
                regions, changed = clean(next(found), self.rules)
                yield Entry(key_of(name, self._key), regions, "", changed)
            except BadExample as error:
                yield Entry(name, None, str(error))

    def _shown(self, index: int) -> Shown | str:
        """The picture, or why it cannot be used."""
        try:
            record = self._source[index]
            return Shown(images.decode(record.image), record.objects)
        except BadExample as error:
            return str(error)


def by_detector(detect: Callable[[Sequence[Image.Image]], list[Regions]]) -> Finder:
    """What a detector finds."""
    return lambda shown: detect([each.picture for each in shown])


def objects_of(shown: Sequence[Shown]) -> list[Regions]:
    """The objects that the source knows: all as sure as can be, without features."""
    return [_bare(each.objects) for each in shown]


class Crops:
    """The boxes of another finder with the features of an image tower: of each box, cut out and resized."""

    def __init__(self, model: "Model", boxes: Finder, *, margin: float = 0.0, whole: bool = False):
        """Refuses a model without image features.

        Args:
          margin: share of a box's width and height that is added on each side, as far as the picture goes.
          whole: whether the whole picture is one more region, the first, with label -1 and score 1.
        """
        if FUNCTION not in model.functions:
            raise AlignError(f"--model: expected one with {FUNCTION}, found one with {', '.join(model.functions)}")
        if not 0 <= margin < np.inf:
            raise AlignError(f"--margin: expected at least 0, found {margin}")
        self._model, self._boxes, self._margin, self._whole = model, boxes, margin, whole

    @property
    def width(self) -> int:
        """F."""
        side = self._model.image_size
        blank = {"image": np.zeros((1, side, side, 3), np.uint8)}
        return self._model.run(FUNCTION, blank, progress=False).shape[-1]

    def __call__(self, shown: Sequence[Shown]) -> list[Regions]:
        """The regions of some pictures."""
        found = [_with_whole(regions) if self._whole else regions for regions in self._boxes(shown)]
        cut = [_crop(each.picture, box, self._margin)
               for each, regions in zip(shown, found, strict=True) for box in regions.boxes]  # fmt: skip
        if not cut:
            return found
        squares = np.stack([whole(self._model.embedder.pairs.view, picture) for picture in cut])
        rows = self._model.run(FUNCTION, {"image": squares}, progress=False)
        stops = np.cumsum([len(regions) for regions in found])
        return [
            Regions(features, regions.boxes, regions.labels, regions.scores, regions.probabilities)
            for regions, features in zip(found, np.split(rows, stops[:-1]), strict=True)
        ]


def _bare(objects: Objects | None) -> Regions:
    boxes, labels = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32)) if objects is None else objects
    return Regions(np.zeros((len(boxes), 0), np.float32), boxes, labels, np.ones(len(boxes), np.float32))


def _with_whole(regions: Regions) -> Regions:
    """One more region, before the others: of equally sure ones the first are kept."""
    kept = regions.probabilities
    return Regions(
        np.pad(regions.features, ((1, 0), (0, 0))), np.concatenate([WHOLE, regions.boxes]),
        np.pad(regions.labels, (1, 0), constant_values=-1), np.pad(regions.scores, (1, 0), constant_values=1),
        None if kept is None else np.pad(kept, ((1, 0), (0, 0))),
    )  # fmt: skip


def _crop(picture: Image.Image, box: np.ndarray, margin: float) -> Image.Image:
    """All pixels that a box touches, at least one; of a box that is none, whatever it holds, one pixel."""
    size = np.array(picture.size)
    low, high = np.nan_to_num(box[:2].astype(np.float64)), np.nan_to_num(box[2:].astype(np.float64))
    room = (high - low) * margin
    first = np.clip(np.floor((low - room) * size + TOUCHED), 0, size - 1).astype(int)
    stop = np.clip(np.ceil((high + room) * size - TOUCHED), first + 1, size).astype(int)
    return picture.crop((*first.tolist(), *stop.tolist()))
