"""What a cross-encoder is shown of an image: its pixels, of which a tower makes a grid of features, or its regions."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from align_jax.data.region_store import RegionStore, check_rule, key_of
from align_jax.data.regions import Regions
from align_jax.data.source import BadExample, Record
from align_jax.data.views import Resized, View
from align_jax.types import AlignError


class Visual(Protocol):
    """One of the two ways. BadExample where a record cannot be shown."""

    @property
    def view(self) -> View:
        """How pictures are seen. AlignError where none are."""
        ...

    @property
    def protocol(self) -> str:
        """`evaluate` in words."""
        ...

    @property
    def digest(self) -> str:
        """Of what is stored of images, besides the source; empty: nothing is."""
        ...

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A row of the inputs, in training."""
        ...

    def evaluate(self, item: Any) -> dict[str, np.ndarray]:
        """The same in evaluation, of a record or of a picture alone."""
        ...

    def blank(self) -> dict[str, np.ndarray]:
        """The same of nothing."""
        ...

    def preprocessing(self) -> dict[str, Any]:
        """`evaluate` for other programs."""
        ...


@dataclasses.dataclass(frozen=True)
class Pictures:
    """{"image": uint8 [H, W, 3]}."""

    view: View
    digest: ClassVar[str] = ""

    @property
    def protocol(self) -> str:
        """The square in evaluation."""
        return self.view.protocol

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A random window."""
        return {"image": self.view.train(record.image, rng)}

    def evaluate(self, item: Any) -> dict[str, np.ndarray]:
        """The central window."""
        return {"image": self.view.evaluate(getattr(item, "image", item))}

    def blank(self) -> dict[str, np.ndarray]:
        """A black square."""
        return {"image": np.zeros((self.view.side, self.view.side, 3), np.uint8)}

    def preprocessing(self) -> dict[str, Any]:
        """The window."""
        return self.view.preprocessing()


@dataclasses.dataclass(frozen=True)
class StoredRegions:
    """{"regions": f32 [R, F], "boxes": f32 [R, 4], "region_mask": bool [R]}, and in training {"region_labels": int32
    [R]}, with `soft` {"region_probabilities": f32 [R, C]} too.

    The surest `most` of an image; where there are fewer, the rest is zero, labelled -1 and not in the mask.
    """

    # Of the stores (data/region_store.py), which are asked in turn: what ids begin with whose rest it knows, "" for all
    # ids, and its path.
    places: tuple[tuple[str, str], ...]
    width: int  # F
    classes: int  # C; 0: labels take no part
    most: int = 100  # R
    key: str = "id"  # how a record's id gives the store's key: "id", "stem", "number"
    soft: bool = False

    @property
    def view(self) -> View:
        """There is none."""
        raise AlignError("expected a model that sees pictures, found one that is shown stored regions")

    @property
    def protocol(self) -> str:
        """How many, and which."""
        words = f"the surest {self.most} regions of {', '.join(path for _, path in self.places)}"
        try:
            return f"{words} (digest {self.digest})"
        except AlignError:  # loaded where its regions are not, a model can still say what it reads
            return words

    @property
    def digest(self) -> str:
        """Of what all stores hold, and how it is read; where it came from does not matter."""
        facts = [store.facts for store in self.stores]
        held = json.dumps([[found.contents, found.dtype, found.width, found.classes] for found in facts])
        return hashlib.blake2b(held.encode(), digest_size=8).hexdigest()

    @functools.cached_property
    def stores(self) -> tuple[RegionStore, ...]:
        """Opened when first asked for: a model of such a run can be loaded where its regions are not."""
        if not self.places:
            raise AlignError(
                "config.data.regions.path: expected a folder of align_jax.regions, found none; give one, or leave "
                "config.data.regions out to read pictures"
            )
        found = tuple(RegionStore(path) for _, path in self.places)
        for (_, path), store in zip(self.places, found, strict=True):
            width, classes = store.width, store.facts.class_count
            if width != self.width or (self.classes and classes != self.classes):
                raise AlignError(
                    f"config.data.regions: expected width={width} and classes={classes} as in {path}, found "
                    f"{self.width} and {self.classes}"
                )
            named = [each.classes for each in (found[0], store) if not isinstance(each.classes, int)]
            if self.classes and named[1:] and named[0] != named[1]:
                raise AlignError(
                    f"config.data.regions.path: expected stores of the same classes, found others in {path} than in "
                    f"{found[0].path}"
                )
        return found

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As in evaluation, and of which classes they are."""
        found = self._of(record)
        row, count = self._filled(found), len(found)
        row["region_labels"] = np.full(self.most, -1, np.int32)
        row["region_labels"][:count] = found.labels
        if self.soft:
            if found.probabilities is None:
                raise BadExample("no region probabilities")
            row["region_probabilities"] = np.zeros((self.most, self.classes), np.float32)
            row["region_probabilities"][:count] = found.probabilities
        return row

    def evaluate(self, item: Any) -> dict[str, np.ndarray]:
        """Those of a record."""
        return self._filled(self._of(item))

    def _of(self, item: Any) -> Regions:
        if not isinstance(item, Record):
            raise AlignError("expected records whose regions are stored, found a picture alone")
        store, key = self._store_of(item.id)
        found = store[key]
        found.check(width=self.width, classes=self.classes)
        return found.best(self.most)

    def _store_of(self, record_id: str) -> tuple[RegionStore, str]:
        """(the one store that knows a record, its key there), of those with the longest beginning that do."""
        for start in dict.fromkeys(start for start, _ in self.places):
            if not record_id.startswith(start):
                continue
            key = key_of(record_id.removeprefix(start), self.key)
            found = [
                store for (own, _), store in zip(self.places, self.stores, strict=True) if own == start and key in store
            ]
            if len(found) > 1:
                raise AlignError(
                    f"config.data.regions.path: expected the regions of {record_id} in one store, found {key} in "
                    f"{found[0].path} and {found[1].path}; give each part of a mixture its own, "
                    '{"0/": .., "1/": ..}'
                )
            if found:
                return found[0], key
        raise BadExample("no regions stored")

    def _filled(self, found: Regions) -> dict[str, np.ndarray]:
        row, count = self.blank(), len(found)
        row["regions"][:count], row["boxes"][:count], row["region_mask"][:count] = found.features, found.boxes, True
        return row

    def blank(self) -> dict[str, np.ndarray]:
        """No region."""
        return {
            "regions": np.zeros((self.most, self.width), np.float32),
            "boxes": np.zeros((self.most, 4), np.float32),
            "region_mask": np.zeros(self.most, bool),
        }

    def preprocessing(self) -> dict[str, Any]:
        """What the features must be."""
        return {"regions": self.most, "region_width": self.width, "boxes": "left, top, right, bottom as shares"}


def pictures(*, resize: int | None, crop: int | None, flip: bool = False, resample: str = "bilinear") -> Pictures:
    """Of `config.data`: the window as in `pairs.make`."""
    if resize is None or crop is None:
        raise AlignError("config.data: expected resize and crop, in pixels, or a section regions, found neither")
    return Pictures(Resized(resize=resize, crop=crop, flip=flip, resample=resample))


def regions(
    *, path: str | Sequence[str] | Mapping[str, str], width: int, classes: int = 0, most: int = 100, key: str = "id",
    soft: bool = False,
) -> StoredRegions:  # fmt: skip
    """Of `config.data.regions`: fields of `StoredRegions`.

    Args:
      path: one store, or several; or {with what ids begin: the store that knows their rest}, as {"0/": .., "1/": ..} of
        the parts of a mixture.
      classes: 0: no labels, and no loss on them. most: the paper's 100; 36 is its ablation.
    """
    if width < 1 or classes < 0 or most < 1 or (soft and not classes):
        raise AlignError(
            "config.data.regions: expected width and most of at least 1, classes of at least 0 and with soft of 1, "
            f"found {width}, {most} and {classes}"
        )
    check_rule(key, where="config.data.regions.key")
    if isinstance(path, str):
        path = [path] if path else []
    if isinstance(path, Sequence):
        places = [("", one) for one in path]
    else:  # the longest beginnings first: a config keeps no order
        places = sorted(path.items(), key=lambda item: -len(item[0]))
    return StoredRegions(tuple(places), width, classes, most, key, soft)
