"""Rows of fine-tuning on retrieval: a pair, with other texts for its image and other images for its text.

ImageBERT section 4.4 (facts: ImageBERT section 6). Which are the others is drawn anew at each visit.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax.data import joint
from align_jax.data.joint import Joint
from align_jax.data.source import BadExample, Record, Source
from align_jax.types import AlignError

DIRECTIONS = ("both", "text", "image")


class Places(NamedTuple):
    """What a row has room for; in place 0 of each stands the row's own."""

    images: int  # I
    texts: int  # T


def places(*, candidates: int = 2, directions: str = "both") -> Places:
    """Of `config.data`.

    Args:
      candidates: P of each direction: the right one and P - 1 negatives. By default one negative, as UNITER has it; the
        paper does not say.
      directions: of DIRECTIONS: negative texts for the image, negative images for the text, or both.
    """
    if candidates < 2:
        raise AlignError(f"config.data.candidates: expected at least 2, the right one among them, found {candidates}")
    if directions not in DIRECTIONS:
        raise AlignError(f"config.data.directions: expected one of {DIRECTIONS}, found {directions!r}")
    return Places(
        images=candidates if directions != "text" else 1, texts=candidates if directions != "image" else 1
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranked(Joint):
    """record -> {.. of the images .., "text_ids": int32 [T, L], "text_mask": bool [T, L]}.

    What the model is shown of an image has an axis of places before its own: "regions" are f32 [I, R, F], an "image" is
    uint8 [I, H, W, 3]. So a row takes I times the memory of a pair: 100 regions of 2048 numbers are 0.8 MB each, and a
    batch of 24 rows with two images 39 MB. The negatives of a row differ from one another.
    """

    places: Places

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One visit. BadExample where the record cannot be used, or has no negatives.

        A negative that cannot be used is drawn again, uncounted here: it counts where its own record is visited.
        """
        negatives = self.negatives
        assert negatives is not None, "who trains has a source"

        def other_text(seen: set[str]) -> tuple[str, str]:
            found = negatives.text(record, rng, without=seen)
            return found, found

        def other_image(seen: set[str]) -> tuple[str, Record]:
            found = negatives.image(record, text, rng, without=seen)
            return found.id, found

        text = joint.one_text(record, rng)
        images, texts = [self.shown.train(record, rng)], [self.read(text)]
        texts += _drawn(self.places.texts - 1, other_text, self.read)
        images += _drawn(self.places.images - 1, other_image, lambda found: self.shown.train(found, rng))
        row = {name: np.stack([image[name] for image in images]) for name in images[0]}
        ids, mask = (np.stack(values) for values in zip(*texts, strict=True))
        return row | {"text_ids": ids, "text_mask": mask}


def _drawn(count: int, draw: Callable[[set[str]], tuple[str, Any]], use: Callable[[Any], Any]) -> list[Any]:
    """What `use` makes of `count` draws, (name, item) each; `draw` is told the names it gave before."""
    found: list[Any] = []
    seen: set[str] = set()
    while len(found) < count:
        name, item = draw(seen)
        seen.add(name)
        with contextlib.suppress(BadExample):
            found.append(use(item))
    return found


def make(
    *,
    source: Source | None,
    folder: Path,
    vocab: Mapping[str, Any],
    text_length: int,
    negatives: Mapping[str, Any],
    candidates: int = 2,
    directions: str = "both",
    resize: int | None = None,
    crop: int | None = None,
    flip: bool = False,
    resample: str = "bilinear",
    regions: Mapping[str, Any] | None = None,
) -> Ranked:
    """The rows of `config.data`; see `joint.parts` and `places`."""
    room = places(candidates=candidates, directions=directions)
    fields = joint.parts(
        source=source, folder=folder, vocab=vocab, text_length=text_length, negatives=negatives, resize=resize,
        crop=crop, flip=flip, resample=resample, regions=regions,
    )  # fmt: skip
    return Ranked(**fields, places=room)
