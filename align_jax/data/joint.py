"""Image and text for a model that reads both at once: what training adds to this stands in `masked` and `ranked`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.config import call
from align_jax.data import visual as visuals
from align_jax.data import vocab as vocabularies
from align_jax.data.negatives import Negatives
from align_jax.data.source import BadExample, Record, Source
from align_jax.data.views import View
from align_jax.data.visual import Visual
from align_jax.data.vocab import Tokenizer
from align_jax.types import AlignError


@dataclasses.dataclass(frozen=True)
class Joint:
    """Rows {.. of the image .., "text_ids": int32 [L], "text_mask": bool [L]}."""

    tokenizer: Tokenizer
    text_length: int  # pieces, [CLS] and the last [SEP] among them
    shown: Visual
    negatives: Negatives | None  # None where nothing is trained

    def __post_init__(self):
        if self.text_length < 3:
            raise AlignError(f"config.data.text_length: expected at least 3 word pieces, found {self.text_length}")

    @property
    def view(self) -> View:
        """How it sees pictures."""
        return self.shown.view

    @property
    def protocol(self) -> str:
        """What the model is shown of an image, in words."""
        return self.shown.protocol

    @property
    def reads(self) -> dict[str, str]:
        """Digests of the stored regions and of the hard negatives, where there are any."""
        own = {"regions": self.shown.digest, "hard negatives": self.negatives.digest if self.negatives else ""}
        return {name: digest for name, digest in own.items() if digest}

    def image(self, image: Any) -> np.ndarray:
        """The square for evaluation and inference, uint8 [H, W, 3]."""
        return self.view.evaluate(image)

    def visual(self, item: Any) -> dict[str, np.ndarray]:
        """What the model is shown of a record or a picture."""
        return self.shown.evaluate(item)

    def blank(self) -> dict[str, np.ndarray]:
        """The same of nothing."""
        return self.shown.blank()

    def texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"text_ids": int32 [B, L], "text_mask": bool [B, L]}."""
        ids, mask = self.tokenizer.encode(list(texts), self.text_length)
        return {"text_ids": ids, "text_mask": mask}

    def read(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [L], mask bool [L]) of one text. BadExample where it has no word."""
        try:
            ids, mask = self.tokenizer.encode([text], self.text_length)
        except ValueError as error:  # only characters that are no word: a zero-width space
            raise BadExample("text empty") from error
        return ids[0], mask[0]

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """The vocabulary."""
        return self.tokenizer.files()

    def preprocessing(self) -> dict[str, Any]:
        """`visual` and `texts` for other programs."""
        return self.shown.preprocessing() | {"text_length": self.text_length} | self.tokenizer.preprocessing()


def one_text(record: Record, rng: np.random.Generator) -> str:
    """One of the texts that are not blank. BadExample where there is none."""
    texts = [text for text in record.texts if text.strip()]
    if not texts:
        raise BadExample("text empty")
    return texts[int(rng.integers(len(texts)))]


def parts(
    *,
    source: Source | None,
    folder: Path,
    vocab: Mapping[str, Any],
    text_length: int,
    negatives: Mapping[str, Any],
    resize: int | None = None,
    crop: int | None = None,
    flip: bool = False,
    resample: str = "bilinear",
    regions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of `Joint`, of `config.data`.

    Args:
      vocab: options of `vocab.tokenizer`. text_length: L; with 100 regions, 43 makes the paper's sequence of 144.
      negatives: options of `Negatives`.
      regions: options of `visual.regions`, where the model is shown stored ones. resize, crop, flip, resample: where it
        sees pictures.
    """
    if regions is None:
        shown = visuals.pictures(resize=resize, crop=crop, flip=flip, resample=resample)
    else:
        shown = call(visuals.regions, regions, where="config.data.regions")
        if source is not None:
            _ = shown.stores  # found before a compilation
    others = None if source is None else call(Negatives, negatives, where="config.data.negatives", source=source)
    return {
        "tokenizer": call(vocabularies.tokenizer, vocab, where="config.data.vocab", source=source, folder=folder),
        "text_length": text_length,
        "shown": shown,
        "negatives": others,
    }
