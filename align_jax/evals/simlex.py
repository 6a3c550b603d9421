"""SimLex-999: whether the text tower finds words alike as people do (Hill et al. 2015; facts: ALIGN section 8)."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from align_jax.evals.correlation import spearman
from align_jax.evals.embedding import Embedder
from align_jax.evals.statistics import DRAWS
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result

COLUMNS = ("word1", "word2", "POS", "SimLex999", "conc(w1)", "conc(w2)", "concQ", "Assoc(USF)", "SimAssoc333",
           "SD(SimLex)")  # fmt: skip
PARTS = {"A": "adjectives", "N": "nouns", "V": "verbs"}
COUNTS = {"all": 999, "hard": 333, "adjectives": 111, "nouns": 666, "verbs": 222}
FUNCTIONS = {"features": "text_features", "embedding": "embed_texts"}


class WordPairs(NamedTuple):
    """The file: a row is a pair of words."""

    words: list[tuple[str, str]]
    scores: np.ndarray  # f64 [999], from 0 to 10: how alike people find the two
    parts: dict[str, np.ndarray]  # name -> rows: all, parts of speech, and hard, the third that go together most
    digest: str  # of the lines


class SimLex(Evaluator):
    """Spearman's correlation of the cosine of two words with how alike people find them."""

    needs = ("embed_texts", "text_features")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, path: str, features: str = "features", seed: int = 0
    ):
        """`path` of SimLex-999.txt; `features`: the text tower's before the projection, as in the paper, or the
        "embedding". `seed` draws the pairs of the bootstrap."""
        where = f"evals.{name}"
        if features not in FUNCTIONS:
            raise AlignError(f"{where}.features: expected one of {list(FUNCTIONS)}, found {features!r}")
        self._embedder, self._name, self._function, self._seed = embedder, name, FUNCTIONS[features], seed
        self._pairs = read(path, where=f"{where}.path")
        vectors = "text features before the projection" if features == "features" else "text embeddings"
        self._protocol = f"SimLex-999: Spearman of people's scores with the cosine of {vectors} of the bare words"

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """all, hard, adjectives, nouns, verbs."""
        words = list(dict.fromkeys(word for pair in self._pairs.words for word in pair))
        rows = self._embedder.texts(params, model_state, words, function=self._function).astype(np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        place = {word: row for row, word in enumerate(words)}
        first, second = (rows[[place[pair[side]] for pair in self._pairs.words]] for side in (0, 1))
        cosine = (first * second).sum(axis=1)
        facts = {"data": self._pairs.digest}
        for part, own in self._pairs.parts.items():
            drawn = np.random.default_rng(self._seed).choice(own, (DRAWS, len(own)))
            draws = _correlation(cosine[drawn], self._pairs.scores[drawn])
            outcome = Outcome(draws.astype(np.float32), kind="draws", ids=f"{self._pairs.digest} {part} {self._seed}")
            value = float(_correlation(cosine[own], self._pairs.scores[own]))
            yield Result(f"{self._name}/{part}", value, len(own), f"{self._protocol}, {part}", outcome, facts)


def read(path: str, *, where: str) -> WordPairs:
    """The 999 pairs; AlignError, which begins with `where`, for a file of another version."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AlignError(f"{where}: expected SimLex-999.txt, found {error}") from error
    header, *rows = [line.split("\t") for line in lines] or [[]]
    if tuple(header) != COLUMNS:
        raise AlignError(f"{where}: expected columns {', '.join(COLUMNS)}, divided by tabs, in {path}, found {header}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS) or not all(row):
            raise AlignError(f"{where}: expected {len(COLUMNS)} values in line {number} of {path}, found {row}")
    column = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    kinds, hard = np.array(column["POS"]), np.array(column["SimAssoc333"]) == "1"
    parts = {"all": np.arange(len(rows)), "hard": np.flatnonzero(hard)}
    parts |= {name: np.flatnonzero(kinds == letter) for letter, name in PARTS.items()}
    counts = {name: len(part) for name, part in parts.items()}
    if counts != COUNTS:
        raise AlignError(f"{where}: expected the pairs of SimLex-999, {COUNTS}, in {path}, found {counts}")
    scores = [_score(text, f"{where}: line {line} of {path}") for line, text in enumerate(column["SimLex999"], 2)]
    words = list(zip(column["word1"], column["word2"], strict=True))
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
    return WordPairs(words, np.array(scores), parts, digest)


def _score(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 10:
        raise AlignError(f"{where}: expected a score from 0 to 10, found {text!r}")
    return found


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """0 where one side is constant: a model that finds all words equally alike knows nothing."""
    return np.nan_to_num(spearman(first, second))
