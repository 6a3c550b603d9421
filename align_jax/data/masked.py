"""Rows of masked pre-training: a pair, or image and text that do not belong together, with words to predict.

ImageBERT section 4.3 (facts: ImageBERT section 3). The regions to predict are drawn on the devices.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.config import call
from align_jax.data import joint
from align_jax.data import masking as masks
from align_jax.data.joint import Joint
from align_jax.data.masking import Masking
from align_jax.data.source import Record, Source
from align_jax.types import AlignError


@dataclasses.dataclass(frozen=True)
class Masked(Joint):
    """Adds to a row "match": bool, whether image and text belong together, "hides_regions": bool, and what `Masking`
    gives: "word_positions" and "word_labels", int32 [M].
    """

    masking: Masking
    unmatched: float  # share of the rows whose text, or whose image, is another's
    one_modality: bool  # hide words or regions, never both (UNITER's conditional masking)

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One visit. BadExample where the record, or what was drawn to go with it, cannot be used."""
        assert self.negatives is not None, "who trains has a source"
        text, shown = joint.one_text(record, rng), record
        match = bool(rng.random() >= self.unmatched)
        if not match and rng.random() < 0.5:
            text = self.negatives.text(record, rng)
        elif not match:
            shown = self.negatives.image(record, text, rng)
        ids, mask = self.read(text)
        which = rng.integers(2) if self.one_modality else -1
        words = self.masking.nothing(ids) if which == 1 else self.masking(ids, mask, rng)
        row = self.shown.train(shown, rng) | words
        return row | {"text_mask": mask, "match": np.array(match), "hides_regions": np.array(which != 0)}


def make(
    *,
    source: Source | None,
    folder: Path,
    vocab: Mapping[str, Any],
    text_length: int,
    masking: Mapping[str, Any],
    negatives: Mapping[str, Any],
    unmatched: float = 0.5,
    one_modality: bool = False,
    resize: int | None = None,
    crop: int | None = None,
    flip: bool = False,
    resample: str = "bilinear",
    regions: Mapping[str, Any] | None = None,
) -> Masked:
    """The rows of `config.data`; see `joint.parts` and `masking.make`.

    Args:
      unmatched: share of the rows that are no pair, half of them with another's text, half with another's image.
      one_modality: a row hides words or regions, each half of the time, and never both.
    """
    if not 0 <= unmatched < 1:
        raise AlignError(f"config.data.unmatched: expected a share of at least 0 and below 1, found {unmatched}")
    fields = joint.parts(
        source=source, folder=folder, vocab=vocab, text_length=text_length, negatives=negatives, resize=resize,
        crop=crop, flip=flip, resample=resample, regions=regions,
    )  # fmt: skip
    hide = call(masks.make, masking, where="config.data.masking", tokenizer=fields["tokenizer"])
    return Masked(**fields, masking=hide, unmatched=unmatched, one_modality=one_modality)
