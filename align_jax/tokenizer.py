"""Learns the word pieces of a config's training texts, `data.source`, one text at a time.

python -m align_jax.tokenizer --config=configs/align_demo.py --out=vocab.txt [--config.data.vocab.size=1000 ...]

Then train with --config.data.vocab.path=vocab.txt.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from align_jax import config as configs
from align_jax import files
from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.source import Source
from align_jax.data.text import WordCounts, WordPiece
from align_jax.types import AlignError

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, configs/*.py", lock_config=True)


def learn(
    source: Source, *, size: int = 100_000, path: str | None = None, lowercase: bool = True
) -> tuple[WordPiece, WordCounts]:
    """(the vocabulary of `config.data.vocab`, the words that it was learnt from), with a progress bar.

    Args:
      size: pieces, at most. lowercase: also strips accents. path: what a run would read instead; not used here.

    Above 10 million distinct words, the rarest are forgotten (`WordCounts`).
    """
    words = WordCounts(lowercase=lowercase)
    for text in tqdm(source.texts(), desc="reading", unit=" texts", unit_scale=True, disable=None):
        words.add(text)
    if not words.counts:
        raise AlignError(f"data.source: expected texts with words, found none in {words.texts:,} texts")
    found = WordPiece.learn(words, size)
    if found.vocab_size > size:
        raise AlignError(f"config.data.vocab.size: expected at least {found.vocab_size} pieces, found {size}")
    return found, words


def summary(vocabulary: WordPiece, words: WordCounts) -> str:
    """How well the vocabulary spells what it was learnt from, in one line."""
    spelt, pieces = vocabulary.coverage(words)
    lost = f"; {words.forgotten:,} were too long or too rare to be held" if words.forgotten else ""
    return (
        f"{vocabulary.vocab_size:,} pieces from {words.texts:,} texts of {words.words:,} words, {len(words.counts):,} "
        f"distinct; {spelt:.3%} of the words need no [UNK] and take {pieces:.2f} pieces each{lost}"
    )


def main(_: list[str]) -> None:
    """Writes --out, whole or not at all."""
    jax.config.update("jax_platforms", "cpu")  # texts need no accelerator: another program may hold it
    data = CONFIG.value.data
    if "vocab" not in data:
        raise AlignError("--config: expected config.data.vocab, found none; a classifier has no vocabulary")
    source = sources.make(**data.source)
    vocabulary, words = configs.call(learn, data.vocab, where="config.data.vocab", source=source)
    files.write(Path(flags.FLAGS.out), vocabulary.save)
    print(f"{flags.FLAGS.out}: {summary(vocabulary, words)}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("out", None, "the vocabulary, one piece a line, as BERT's vocab.txt", required=True)
    main_of(main)
