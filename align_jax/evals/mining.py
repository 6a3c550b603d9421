"""Hard negatives by embeddings: the nearest texts and images that do not belong together.

What belongs together is known by groups: all texts of a group's records are right for all its images, and so is an
image that has one of these texts too. None of them is a negative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from align_jax.evals.blockwise import Blockwise

ENTRIES = 2**20  # scores that the host looks at together


class Nearest(NamedTuple):
    """For each of n records at most K candidates, best first."""

    candidates: np.ndarray  # int64 [n, K]; -1 where there is no more
    scores: np.ndarray  # f32 [n, K]


class Belonging:
    """Which of n images and M texts belong together."""

    def __init__(self, groups: np.ndarray, pairs: np.ndarray, texts: int):
        """groups int [n] of the images; pairs int [P, 2]: (image, text), rising; M texts."""
        self._groups, self._texts, self._texts_of = groups.astype(np.int64), texts, pairs[:, 1]
        self._counts = np.bincount(pairs[:, 0], minlength=len(groups))
        self._starts = np.cumsum(self._counts) - self._counts
        self._owned = np.unique(self._groups[pairs[:, 0]] * texts + pairs[:, 1])

    def texts(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """bool [K], of images int [K] and texts int [K]: whether each text is one of the image's group."""
        wanted = self._groups[images] * self._texts + texts
        places = np.minimum(np.searchsorted(self._owned, wanted), len(self._owned) - 1)
        return self._owned[places] == wanted

    def images(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """bool [K], of images int [K] both: whether each other is of the image's group, or has a text of it."""
        count = self._counts[others]
        pair = np.repeat(np.arange(len(others)), count)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        shared = self.texts(images[pair], self._texts_of[self._starts[others[pair]] + within])
        having = np.bincount(pair[shared], minlength=len(others)) > 0
        return having | (self._groups[images] == self._groups[others])


def nearest(
    mesh: jax.sharding.Mesh, queries: np.ndarray, candidates: np.ndarray, asked: np.ndarray,
    refused: Callable[[np.ndarray, np.ndarray], np.ndarray], *, records: int, most: int, title: str,
) -> Nearest:  # fmt: skip
    """The `most` candidates with the highest scores of each record, none of those that are refused.

    A record's score with a candidate is the highest of its queries'; of equal ones, the first candidate is better.

    Args:
      queries [Q, D], candidates [M, D]: f32. asked int [P, 2]: (record, query), records rising.
      refused: of records int [K] and candidates int [K], bool [K]. records: how many. title: of the bar.
    """
    found = np.full((records, most), -1, np.int64)
    scores = np.zeros((records, most), np.float32)
    starts = np.searchsorted(asked[:, 0], np.arange(records + 1))
    waiting, k = np.flatnonzero(np.diff(starts)), 2 * most
    with tqdm(total=len(waiting), desc=title, unit="record", disable=None) as bar:
        while len(waiting):  # those with many refused ones are asked again, for more
            k = min(k, len(candidates))
            rows = sum(starts[waiting + 1] - starts[waiting])
            short: list[np.ndarray] = []
            for part in np.array_split(waiting, min(-(-rows * k // ENTRIES), len(waiting))):
                own = asked[np.concatenate([np.arange(starts[record], starts[record + 1]) for record in part])]
                unique, place = np.unique(own[:, 1], return_inverse=True)
                values, indices = Blockwise(mesh, queries[unique], candidates).nearest(k)
                of, which, score = np.repeat(own[:, 0], k), indices[place].reshape(-1), values[place].reshape(-1)
                kept = ~refused(of, which)
                _rank(found, scores, of[kept], which[kept], score[kept])
                lacking = own[kept.reshape(-1, k).sum(1) < most, 0] if k < len(candidates) else own[:0, 0]
                short.append(np.unique(lacking))
                bar.update(len(part) - len(short[-1]))
            waiting, k = np.concatenate(short), 2 * k
    return Nearest(found, scores)


def _rank(found: np.ndarray, scores: np.ndarray, records: np.ndarray, which: np.ndarray, score: np.ndarray) -> None:
    """Writes the best of candidates int [K] with scores f32 [K] into the rows of their records int [K]."""
    order = np.lexsort((-score, which, records))
    records, which, score = records[order], which[order], score[order]
    first = np.ones(len(records), bool)  # of several queries, that with the best score
    first[1:] = (records[1:] != records[:-1]) | (which[1:] != which[:-1])
    records, which, score = records[first], which[first], score[first]
    order = np.lexsort((which, -score, records))
    records, which, score = records[order], which[order], score[order]
    rank = np.arange(len(records)) - np.searchsorted(records, records)
    kept = rank < found.shape[1]
    found[records[kept], rank[kept]] = which[kept]
    scores[records[kept], rank[kept]] = score[kept]
