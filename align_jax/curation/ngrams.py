"""Unigrams, bigrams, and exact counts of 64-bit hashes as sorted arrays, which merge in any order.

A hash stands for what it is made of: among 100 million n-grams, a rare one is taken for a frequent one with probability
5e-12. Its 8 bytes are what makes the tables of a web-scale run small enough to be handed to every worker.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import normalizers, pre_tokenizers

_normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
_splitter = pre_tokenizers.BertPreTokenizer()


def words(text: str) -> list[str]:
    """The unigrams of a text: BERT's words in lower case, accents kept, without punctuation.

    A character of Chinese or Japanese is a word of its own; "dog's" is two.
    """
    pieces = _splitter.pre_tokenize_str(_normalizer.normalize_str(text))
    return [piece for piece, _ in pieces if any(map(str.isalnum, piece))]


def ngrams(unigrams: Sequence[str]) -> list[str]:
    """Unigrams and bigrams, repeated as they occur."""
    return [*unigrams, *(f"{first} {second}" for first, second in pairwise(unigrams))]


def hashed(texts: Iterable[str]) -> np.ndarray:
    """uint64 [n], the same on every machine."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8")


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each key occurs: `keys` uint64 [n], rising, and `counts` int64 [n]."""

    keys: np.ndarray
    counts: np.ndarray

    def of(self, keys: np.ndarray, *, absent: int) -> np.ndarray:
        """int64 [m]: the count of each of `keys` uint64 [m]; `absent` for those that are not in the table."""
        if not len(self.keys):
            return np.full(len(keys), absent, np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], absent)

    def above(self, least: int) -> "Counts":
        """Those that occur more often than `least`."""
        chosen = self.counts > least
        return Counts(self.keys[chosen], self.counts[chosen])


def counted(keys: np.ndarray, counts: np.ndarray | None = None) -> Counts:
    """Adds up `counts` (1 for each without) of equal keys, uint64 [n] in any order."""
    unique, places = np.unique(keys.astype(np.uint64), return_inverse=True)
    totals = np.zeros(len(unique), np.int64)
    np.add.at(totals, places, 1 if counts is None else counts)
    return Counts(unique, totals)


def merged(parts: Iterable[Counts]) -> Counts:
    """The counts over all parts."""
    parts = [Counts(np.zeros(0, np.uint64), np.zeros(0, np.int64)), *parts]
    return counted(np.concatenate([part.keys for part in parts]), np.concatenate([part.counts for part in parts]))


def least_frequent(counts_of_counts: Counts, top: int) -> int:
    """How often the `top`-th most frequent key occurs, from how many keys there are (`counts`) of each frequency.

    1 where there are fewer keys. All keys that occur as often are among the frequent, so that ties need no order.
    """
    from_the_top = np.cumsum(counts_of_counts.counts[::-1])
    place = int(np.searchsorted(from_the_top, top))
    return int(counts_of_counts.keys[::-1][place]) if place < len(from_the_top) else 1


def pair_counts(pairs: np.ndarray) -> Counts:
    """Of uint64 [n, 2]: with how many distinct second members each first one occurs."""
    return counted(np.unique(pairs, axis=0)[:, 0])
