"""Words that a model has to predict: BERT's masking (Devlin et al. 2019, section 3.1)."""

import dataclasses

import numpy as np

from align_jax.data.vocab import Tokenizer
from align_jax.types import AlignError

MASKED, RANDOM = 0.8, 0.1  # of the words to predict; the rest stay as they are


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """Which words of a text are to be predicted, and what is read in their place."""

    mask: int  # id of [MASK]
    special: np.ndarray  # bool [V]: never masked, never drawn
    continues: np.ndarray | None  # bool [V]: pieces that go on with the word before; None: each piece by itself
    share: float  # probability of each word
    predictions: int  # M: at most so many pieces of a text

    def __call__(self, ids: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{"text_ids": int32 [L], "word_positions": int32 [M], "word_labels": int32 [M]}, of ids int32 [L] and
        mask bool [L].

        Positions are places in the text, their labels what stood there; the unused have position 0 and label -1. At
        least one word is to be predicted where the text has any.
        """
        words = self._words(ids, mask)
        drawn = [word for word in words if rng.random() < self.share]
        if words and not drawn:
            drawn = [words[rng.integers(len(words))]]
        chosen: list[int] = []
        for number in rng.permutation(len(drawn)):
            room = self.predictions - len(chosen)
            if len(drawn[number]) <= room or not chosen:  # of a word longer than all the room, what fits
                chosen += drawn[number][:room]
        places = np.sort(np.array(chosen, np.int64))
        read = ids.copy()
        fate = rng.random(len(places))
        ordinary = np.flatnonzero(~self.special)
        read[places] = np.where(
            fate < MASKED, self.mask, np.where(fate < MASKED + RANDOM, rng.choice(ordinary, len(places)), ids[places])
        )
        positions, labels = np.zeros(self.predictions, np.int32), np.full(self.predictions, -1, np.int32)
        positions[: len(places)], labels[: len(places)] = places, ids[places]
        return {"text_ids": read, "word_positions": positions, "word_labels": labels}

    def nothing(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The same, with nothing to predict."""
        labels = np.full(self.predictions, -1, np.int32)
        return {"text_ids": ids, "word_positions": np.zeros(self.predictions, np.int32), "word_labels": labels}

    def _words(self, ids: np.ndarray, mask: np.ndarray) -> list[list[int]]:
        """The places of each word that may be masked."""
        found: list[list[int]] = []
        for place in np.flatnonzero(mask & ~self.special[ids]).tolist():
            if self.continues is not None and self.continues[ids[place]] and found and found[-1][-1] == place - 1:
                found[-1].append(place)
            else:
                found.append([place])
        return found


def make(tokenizer: Tokenizer, *, share: float = 0.15, whole_words: bool = False, predictions: int = 16) -> Masking:
    """The masking of `config.data.masking`.

    Args:
      share: of the words of a text that are to be predicted. whole_words: all pieces of a word, or none.
      predictions: at most so many pieces of a text; a batch has room for as many.
    """
    if not 0 < share < 1 or predictions < 1:
        raise AlignError(
            f"config.data.masking: expected 0 < share < 1 and predictions of at least 1, found {share}, {predictions}"
        )
    if tokenizer.mask is None:
        raise AlignError("config.data.masking: expected a tokenizer with a [MASK] or <mask> piece, found none")
    return Masking(tokenizer.mask, tokenizer.special, tokenizer.continues if whole_words else None, share, predictions)
