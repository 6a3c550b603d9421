"""The run's vocabulary: given, or learnt on its training texts and kept beside it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from align_jax.data import tokenizer_folder
from align_jax.data.source import Source
from align_jax.data.text import WordPiece
from align_jax.types import AlignError


class Tokenizer(Protocol):
    """Texts to ids. Picklable, safe to share between threads."""

    @property
    def vocab_size(self) -> int:
        """Rows of an embedding table that holds all ids."""
        ...

    @property
    def unknown(self) -> int | None:
        """The id of what cannot be spelt; None where everything can."""
        ...

    @property
    def mask(self) -> int | None:
        """The id of the piece that stands for a hidden one; None where there is none."""
        ...

    @property
    def special(self) -> np.ndarray:
        """bool [V]: pieces that stand for no part of a text."""
        ...

    @property
    def continues(self) -> np.ndarray:
        """bool [V]: pieces that go on with the word of the piece before them."""
        ...

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [B, L], mask bool [B, L]) with L = `length`: texts between a first and a last special piece, cut
        to fit and padded. ValueError for a text without words.
        """
        ...

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """What a run keeps of it: name -> what writes the file."""
        ...

    def preprocessing(self) -> dict[str, Any]:
        """`encode` for other programs."""
        ...


def tokenizer(
    source: Source | None, *, folder: Path, size: int, path: str | None = None, lowercase: bool = True
) -> Tokenizer:
    """The tokenizer of `config.data.vocab`; the caller keeps its `files` in the folder, under their names.

    Args:
      source: whose texts to learn from; None where the folder must have the vocabulary already.
      size: rows of the embedding table; the vocabulary has at most as many pieces.
      path: what to use instead of learning: a vocab.txt, a tokenizer.json, or a folder that has one of them, such as a
        run or a model of transformers; empty: none.
      lowercase: of word pieces, and also strips accents; a tokenizer.json has rules of its own.
    """
    # Without a config.json beside it, what is kept is left from a start that failed, perhaps with another config.
    known = source is None or (folder / "config.json").exists()
    kept = tokenizer_folder.kept(folder) if known else None
    if kept:
        found = tokenizer_folder.load(kept, lowercase)
    elif path:
        found = tokenizer_folder.open_tokenizer(Path(path), lowercase)
    elif source is not None:
        found = WordPiece.train(source.texts(), size, lowercase)
    else:
        raise AlignError(
            f"{folder}: expected one of {', '.join(tokenizer_folder.FILES)}; the folder is no run or export"
        )
    if found.vocab_size > size:
        raise AlignError(
            f"data.vocab.size: expected at least the {found.vocab_size} pieces of the vocabulary, found {size}"
        )
    return found
