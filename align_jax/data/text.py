"""Texts to word pieces: BERT's WordPiece (Devlin et al. 2019), learnt on the training texts as in ALIGN section 4.1."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from align_jax.types import AlignError

FILE = "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST = 100  # characters of a word: BERT's limit, a longer one is [UNK] whatever the vocabulary


class WordCounts:
    """How often each word occurs in texts that are met one by one, in bounded memory.

    No more than `most` distinct words are held, at about 150 bytes each. Up to that many, the counts are exact and the
    order of the texts does not matter. Whenever there are more, the rarer half is forgotten, or more where counts are
    equal; what is frequent enough to be learnt has by then been met often.

    Attributes: counts (word -> occurrences, of those held), texts, words (all occurrences met), forgotten (those among
    them whose word was not held, or had more than 100 characters).
    """

    def __init__(self, *, lowercase: bool = True, most: int = 10_000_000):
        self.counts: Counter[str] = Counter()
        self.texts = self.words = self.forgotten = 0
        self.lowercase = lowercase
        self._most = most
        self._tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"), lowercase)

    def add(self, text: str) -> None:
        """Counts the words of one more text."""
        normal = self._tokenizer.normalizer.normalize_str(text)
        words = [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        short = [word for word in words if len(word) <= LONGEST]
        self.counts.update(short)
        self.texts += 1
        self.words += len(words)
        self.forgotten += len(words) - len(short)
        while len(self.counts) > self._most:  # more than once, where one text brings many new words
            self._forget()

    def _forget(self) -> None:
        least = sorted(self.counts.values())[len(self.counts) // 2]
        kept = Counter({word: count for word, count in self.counts.items() if count > least})
        self.forgotten += self.counts.total() - kept.total()
        self.counts = kept


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
        self.lowercase = lowercase
        self.vocab_size = len(vocab)
        self.unknown, self.mask = vocab["[UNK]"], vocab["[MASK]"]
        self.special = np.array([piece in SPECIAL and piece != "[UNK]" for piece in self.pieces])
        self.continues = np.array([piece.startswith("##") for piece in self.pieces])
        self._cls, self._sep = vocab["[CLS]"], vocab["[SEP]"]
        self._tokenizer = _tokenizer(models.WordPiece(vocab, unk_token="[UNK]"), lowercase)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> WordPiece:
        """Learns at most `vocab_size` pieces from texts."""
        words = WordCounts(lowercase=lowercase)
        for text in texts:
            words.add(text)
        return cls.learn(words, vocab_size)

    @classmethod
    def learn(cls, words: WordCounts, vocab_size: int) -> WordPiece:
        """Learns at most `vocab_size` pieces; equal counts, equal vocabulary.

        The trainer of `tokenizers` numbers characters in the order of a randomly seeded hash map and breaks ties
        between merges by number, so that each run would give another vocabulary. Here the single characters are listed
        first, in an order of our own, and texts with characters beyond that alphabet do not reach the trainer.
        """
        characters: Counter[str] = Counter()
        for word, count in words.counts.items():
            characters.update(dict.fromkeys(word, count))
        # Each character costs two pieces, as the start of a word and inside one: at most half of the vocabulary.
        ranked = sorted(characters, key=lambda character: (-characters[character], character))
        alphabet = sorted(ranked[: min(1000, vocab_size // 4)])
        known = sorted(word for word in words.counts if set(word) <= set(alphabet))
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[*SPECIAL, *alphabet, *(f"##{character}" for character in alphabet)],
            show_progress=False,
        )
        tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"), words.lowercase)
        tokenizer.train_from_iterator((text for word in known for text in _repeated(word, words.counts[word])), trainer)
        learnt = tokenizer.get_vocab()
        return cls(sorted(learnt, key=lambda piece: learnt[piece]), words.lowercase)

    @classmethod
    def load(cls, path: str | Path, lowercase: bool = True) -> WordPiece:
        """Reads a vocab.txt, one piece a line."""
        return cls(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), lowercase)

    def save(self, path: str | Path) -> None:
        """Writes a vocab.txt that `load` and transformers.BertTokenizer read."""
        Path(path).write_text("".join(f"{piece}\n" for piece in self.pieces), encoding="utf-8")

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """What a run keeps of it."""
        return {FILE: self.save}

    def preprocessing(self) -> dict[str, Any]:
        """`encode` for other programs."""
        ids = {piece.strip("[]").lower(): self.pieces.index(piece) for piece in SPECIAL}
        return {
            "tokenizer": "wordpiece", "tokenizer_file": FILE, "lowercase": self.lowercase,
            "strip_accents": self.lowercase, "longest_word": LONGEST, "special_ids": ids, "first_ids": [self._cls],
            "last_ids": [self._sep], "padding_id": 0, "padding_side": "right", "truncation_side": "right",
        }  # fmt: skip

    def coverage(self, words: WordCounts) -> tuple[float, float]:
        """(share of all words met that need no [UNK], mean number of pieces of those), by the words that are held."""
        spelt = pieces = 0
        held = iter(words.counts)
        while some := list(itertools.islice(held, 10_000)):
            for word, found in zip(
                some, self._tokenizer.encode_batch_fast(some, add_special_tokens=False), strict=True
            ):
                if self.unknown not in found.ids:
                    spelt += words.counts[word]
                    pieces += words.counts[word] * len(found.ids)
        return spelt / max(words.words, 1), pieces / max(spelt, 1)

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


def _repeated(word: str, count: int) -> Iterator[str]:
    """Texts with the word `count` times, a limited number in each: a frequent word is met billions of times."""
    for start in range(0, count, 10_000):
        yield " ".join([word] * min(10_000, count - start))


def _tokenizer(model: models.WordPiece, lowercase: bool) -> Tokenizer:
    """`model` behind BERT's own normalisation and word splitting."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
