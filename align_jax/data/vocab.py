"""The run's vocabulary: given, or learnt on its training texts and kept beside it."""

from pathlib import Path

from align_jax.data.source import Source
from align_jax.data.text import WordPiece
from align_jax.types import AlignError

FILE = "vocab.txt"


def tokenizer(
    source: Source | None, *, folder: Path, size: int, path: str | None = None, lowercase: bool = True
) -> WordPiece:
    """The tokenizer of `config.data.vocab`; the caller keeps its vocabulary in <folder>/vocab.txt.

    Args:
      source: whose texts to learn from; None where the folder must have the vocabulary already.
      size: rows of the embedding table; the vocabulary has at most as many pieces.
      path: a vocab.txt to use instead of learning one; empty: none. lowercase: also strips accents.
    """
    kept = folder / FILE
    # Without a config.json beside it, it is left from a start that failed, perhaps with another config.
    known = kept.exists() and (source is None or (folder / "config.json").exists())
    if known:
        found = WordPiece.load(kept, lowercase)
    elif path:
        if not Path(path).exists():
            raise AlignError(f"data.vocab.path: expected a vocab.txt, found no {path}")
        found = WordPiece.load(path, lowercase)
    elif source is not None:
        found = WordPiece.train(source.texts(), size, lowercase)
    else:
        raise AlignError(f"expected {kept}; the folder is no run or export")
    if found.vocab_size > size:
        raise AlignError(
            f"data.vocab.size: expected at least the {found.vocab_size} pieces of the vocabulary, found {size}"
        )
    return found
