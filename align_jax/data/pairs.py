"""From a stored record to the arrays of an image-text pair."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.config import call
from align_jax.data import vocab as vocabularies
from align_jax.data.source import BadExample, Record, Source
from align_jax.data.views import Resized
from align_jax.data.vocab import Tokenizer
from align_jax.types import AlignError


@dataclasses.dataclass(frozen=True)
class Pairs:
    """record -> {"image": uint8 [H, W, 3], "text_ids": int32 [L], "text_mask": bool [L], "ids": uint32 [2, 2]}.

    `ids` are hashes of the record's group and of the text that was drawn: rows of a batch that agree in either are no
    true negatives of one another (`task.duplicates`).
    """

    tokenizer: Tokenizer
    resize: int  # pixels of the square to which a picture is resized
    crop: int  # pixels of the square that the model sees
    flip: bool  # mirror half of the training pictures
    text_length: int  # pieces, the first and the last special one among them
    resample: str = "bilinear"  # of `images.RESAMPLE`

    def __post_init__(self):
        _ = self.view  # which checks the window
        if self.text_length < 3:
            raise AlignError(f"config.data.text_length: expected at least 3 word pieces, found {self.text_length}")

    @property
    def view(self) -> Resized:
        """How it sees pictures."""
        return Resized(resize=self.resize, crop=self.crop, flip=self.flip, resample=self.resample)

    @property
    def protocol(self) -> str:
        """The square in evaluation, in words."""
        return self.view.protocol

    @property
    def reads(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One visit: one of the texts, a random window. BadExample where the record cannot be used."""
        _, drawn = self.draw(record, rng)
        try:
            text = self.texts([drawn])
        except ValueError as error:  # only characters that are no word: a zero-width space
            raise BadExample("text empty") from error
        row = {"image": self.view.train(record.image, rng), "ids": self.ids(record, drawn)}
        return row | {name: rows[0] for name, rows in text.items()}

    def draw(self, record: Record, rng: np.random.Generator) -> tuple[int, str]:
        """One of the texts that are not blank, and its number among them. BadExample where there is none."""
        texts = [text for text in record.texts if text.strip()]
        if not texts:
            raise BadExample("text empty")
        number = int(rng.integers(len(texts)))
        return number, texts[number]

    def ids(self, record: Record, text: str) -> np.ndarray:
        """uint32 [2, 2]: hashes of the group and of the text."""
        return np.array([_hash(record.group), _hash(" ".join(text.lower().split()))])

    def image(self, image: Any) -> np.ndarray:
        """The central window for evaluation and inference, uint8 [H, W, 3]."""
        return self.view.evaluate(image)

    def visual(self, item: Any) -> dict[str, np.ndarray]:
        """{"image": the square} of a record or a picture."""
        return {"image": self.image(getattr(item, "image", item))}

    def blank(self) -> dict[str, np.ndarray]:
        """A black square."""
        return {"image": np.zeros((self.view.side, self.view.side, 3), np.uint8)}

    def texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"text_ids": int32 [B, L], "text_mask": bool [B, L]}."""
        ids, mask = self.tokenizer.encode(list(texts), self.text_length)
        return {"text_ids": ids, "text_mask": mask}

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """The vocabulary."""
        return self.tokenizer.files()

    def preprocessing(self) -> dict[str, Any]:
        """`image` and `texts` for other programs."""
        return self.view.preprocessing() | {"text_length": self.text_length} | self.tokenizer.preprocessing()


def make(
    *,
    source: Source | None,
    folder: Path,
    vocab: Mapping[str, Any],
    resize: int,
    crop: int,
    flip: bool,
    text_length: int,
    resample: str = "bilinear",
    features: bool = False,
) -> Pairs:
    """The pairs of `config.data`: fields of `Pairs`, and of `vocab` the options of `vocab.tokenizer`.

    `source` gives the texts of a vocabulary that does not stand in the folder yet. `features`: the run trains on what
    its towers made, once, of each picture's central window.
    """
    if features and flip:
        raise AlignError(
            "config.data.flip: expected False with features=True, whose pictures are seen once, found True"
        )
    tokenizer = call(vocabularies.tokenizer, vocab, where="config.data.vocab", source=source, folder=folder)
    return Pairs(tokenizer, resize, crop, flip, text_length, resample)


def _hash(text: str) -> np.ndarray:
    """64 bits as uint32 [2]: jax has no uint64 without x64, and 32 bits collide in a batch of 65,536."""
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "<u4")
