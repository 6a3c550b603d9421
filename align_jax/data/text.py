"""Texts to word pieces: BERT's WordPiece (Devlin et al. 2019), learnt on the training texts as in ALIGN section 4.1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from align_jax.types import AlignError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece:
    """A vocabulary and the rules that apply it. Picklable, safe to share between threads.

    Equals transformers.BertTokenizer, but for texts that spell a special piece: here "[SEP]" in a text is the word sep
    in brackets, as in the original BERT, so that no web text can forge one.
    """

    def __init__(self, pieces: Sequence[str], lowercase: bool = True):
        """`pieces`: the vocabulary, whose order gives the ids; `lowercase` also strips accents, as in BERT."""
        vocab = {piece: index for index, piece in enumerate(pieces)}
        missing = [piece for piece in SPECIAL if piece not in vocab]
        if missing or len(vocab) != len(pieces) or vocab["[PAD]"] != 0:
            raise AlignError(
                f"vocabulary: expected {len(pieces)} distinct pieces, [PAD] first and all of {', '.join(SPECIAL)}; "
                f"found {len(vocab)} distinct, {pieces[0] if pieces else 'nothing'} first, missing {missing}"
            )
        self.pieces = tuple(pieces)
        self.vocab_size = len(vocab)
        self._cls, self._sep = vocab["[CLS]"], vocab["[SEP]"]
        self._tokenizer = _tokenizer(models.WordPiece(vocab, unk_token="[UNK]"), lowercase)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> WordPiece:
        """Learns at most `vocab_size` pieces. The order of the texts does not matter; equal texts, equal vocabulary.

        The trainer of `tokenizers` numbers characters in the order of a randomly seeded hash map and breaks ties
        between merges by number, so that each run would give another vocabulary. Here the single characters are listed
        first, in an order of our own, and texts with characters beyond that alphabet do not reach the trainer.
        """
        tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"), lowercase)
        words: Counter[str] = Counter()
        for text in texts:
            normal = tokenizer.normalizer.normalize_str(text)
            words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
        characters: Counter[str] = Counter()
        for word, count in words.items():
            characters.update(dict.fromkeys(word, count))
        # Each character costs two pieces, as the start of a word and inside one: at most half of the vocabulary.
        ranked = sorted(characters, key=lambda character: (-characters[character], character))
        alphabet = sorted(ranked[: min(1000, vocab_size // 4)])
        known = sorted(word for word in words if set(word) <= set(alphabet))
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[*SPECIAL, *alphabet, *(f"##{character}" for character in alphabet)],
            show_progress=False,
        )
        tokenizer.train_from_iterator((" ".join([word] * words[word]) for word in known), trainer)
        learnt = tokenizer.get_vocab()
        return cls(sorted(learnt, key=lambda piece: learnt[piece]), lowercase)

    @classmethod
    def load(cls, path: str | Path, lowercase: bool = True) -> WordPiece:
        """Reads a vocab.txt, one piece a line."""
        return cls(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), lowercase)

    def save(self, path: str | Path) -> None:
        """Writes a vocab.txt that `load` and transformers.BertTokenizer read."""
        Path(path).write_text("".join(f"{piece}\n" for piece in self.pieces), encoding="utf-8")

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [B, L], mask bool [B, L]) with L = `length`: [CLS] pieces [SEP], cut to fit, padded with id 0."""
        if length < 3:
            raise ValueError(f"text length: expected room for [CLS], a piece and [SEP], found {length}")
        ids = np.zeros((len(texts), length), np.int32)
        mask = np.zeros((len(texts), length), bool)
        # Cut here and not by the tokenizer, whose truncation is a state that threads would share.
        for row, found in enumerate(self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            if not found.ids:
                raise ValueError(f"text {row}: expected at least one word, found {texts[row]!r}")
            pieces = [self._cls, *found.ids[: length - 2], self._sep]
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = True
        return ids, mask


def _tokenizer(model: models.WordPiece, lowercase: bool) -> Tokenizer:
    """`model` behind BERT's own normalisation and word splitting."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
