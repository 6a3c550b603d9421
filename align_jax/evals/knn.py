"""k nearest neighbours: an image takes the label of the labelled images that lie nearest (facts: ALIGN section 7)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax.evals.blockwise import Blockwise
from align_jax.evals.confusion import worst_confusions
from align_jax.evals.embedding import Embedder
from align_jax.evals.labelled import Embedded, Labelled, known_too, open_labelled, reader, refuse_other_classes
from align_jax.evals.panels import Grid, Hit, Item, Panel, picture
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result

WEIGHTINGS = {
    "recall": "right = the label is among the K neighbours'",
    "majority": "right = the label has most of the K votes, ties to the nearer",
    "softmax": "right = the label has most of the K votes, each exp(cosine / {temperature:g})",
}
SHOWN, BESIDE = 8, 8  # queries of the grid, and neighbours of each


class Neighbours(NamedTuple):
    """Of Q images that asked: rows of the bank int [Q, K], best first, with their cosines f32 [Q, K]."""

    asked: Embedded
    bank: Embedded
    scores: np.ndarray
    rows: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """int [Q, K]."""
        return self.bank.labels[self.rows]


class KNN(Evaluator):
    """Accuracy of the nearest images of a `bank`, by cosine, for several K. Memory is bounded as in `Blockwise`."""

    needs = ("embed_images", "image_features")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: Mapping[str, Any], bank: Mapping[str, Any],
        k: tuple[int, ...] = (1,), weighting: str = "recall", temperature: float = 0.07, features: str = "embedding",
        cache: bool = False,
    ):  # fmt: skip
        """`source` asks, `bank` answers; a record that is in both never finds itself, nor others of its id.

        Args:
          weighting: "recall", the paper's: the label is among those of the K neighbours; "majority": it has most
            votes, of equal ones the class with the nearest neighbour; "softmax": votes are weighted by
            exp(cosine / temperature) (Wu et al. 2018, arXiv 1805.01978, section 3.4; 0.07 there and in DINO).
          features: "embedding", or "features" before the projection, of any length: compared by their direction.
          cache: keep the bank's rows on disk (`FeatureCache`).
        """
        where = f"evals.{name}"
        self._embedder, self._name, self._k = embedder, name, tuple(sorted(set(k)))
        if not self._k or self._k[0] < 1:
            raise AlignError(f"{where}.k: expected numbers of neighbours of at least 1, found {k}")
        if weighting not in WEIGHTINGS:
            raise AlignError(f"{where}.weighting: expected one of {list(WEIGHTINGS)}, found {weighting!r}")
        if not temperature > 0:
            raise AlignError(f"{where}.temperature: expected a number above 0, found {temperature}")
        self._weighting, self._temperature, self._features = weighting, temperature, features
        self._read = reader(embedder, folder=folder, features=features, cache=False, where=where)
        self._read_bank = reader(embedder, folder=folder, features=features, cache=cache, where=where)
        self._asked = open_labelled(embedder, source, where=f"{where}.source")
        self._bank = open_labelled(embedder, bank, where=f"{where}.bank")
        refuse_other_classes(self._asked, self._bank, where=f"{where}.source")
        self._same = self._asked.source is self._bank.source
        both = known_too(self._asked, self._bank)
        ids = np.concatenate([self._bank.ids, self._asked.ids]).astype(str)
        number, itself = np.split(np.unique(ids, return_inverse=True)[1], [len(self._bank.ids)])
        self._number, self._itself = number, np.where(both, itself, -1)
        self._both = int(both.sum())
        self._own = int(np.bincount(number, minlength=len(ids))[itself[both]].max(initial=0))  # neighbours to pass over
        self._refuse_small(len(self._bank.labels))
        self._last: Neighbours | None = None

    def _refuse_small(self, count: int) -> None:
        others = count - self._own
        if self._k[-1] > others:
            raise AlignError(
                f"evals.{self._name}.k: expected at most the {others} {'other ' if self._own else ''}images of the "
                f"bank {self._bank.name}, found {self._k[-1]}"
            )

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """R@K, or top1@K for votes, of each K."""
        bank = self._read_bank(params, model_state, self._bank)
        asked = bank if self._same else self._read(params, model_state, self._asked)
        self._refuse_small(len(bank.rows))
        self._last = near = self._nearest(asked, bank)
        facts = {"data": self._asked.digest, "bank": self._bank.digest, "crop": self._read.crop}
        ids = self._asked.ids_digest(asked.index)
        for k in self._k:
            if self._weighting == "recall":
                right = (near.labels[:, :k] == asked.labels[:, None]).any(axis=1)
            else:
                right = self._vote(near, k) == asked.labels
            metric = f"R@{k}" if self._weighting == "recall" else f"top1@{k}"
            outcome = Outcome(right.astype(np.float32), ids=ids)
            protocol = self._protocol(asked, bank)
            yield Result(f"{self._name}/{metric}", float(right.mean()), len(right), protocol, outcome, facts)

    def _protocol(self, asked: Embedded, bank: Embedded) -> str:
        others = "the others of them" if self._same else f"{len(bank.rows)} of {self._bank.name}{bank.left_out}"
        if self._both and not self._same:
            others += f" ({self._both} are in both and do not find themselves)"
        compared = "embeddings" if self._features == "embedding" else "features before the projection"
        return (
            f"{self._asked.name}: {len(asked.rows)} images{asked.left_out}, against {others}, cosine of {compared}, "
            f"{WEIGHTINGS[self._weighting].format(temperature=self._temperature)}, equally near ones in the order of "
            f"the bank, {self._read.crop}"
        )

    def _nearest(self, asked: Embedded, bank: Embedded) -> Neighbours:
        """Of the largest K."""
        rows = _unit(bank.rows)
        search = Blockwise(self._embedder.mesh, rows if self._same else _unit(asked.rows), rows)
        scores, found = search.nearest(self._k[-1] + self._own)
        if self._own:
            itself = self._number[bank.index][found] == self._itself[asked.index][:, None]
            others = np.argsort(itself, axis=1, kind="stable")[:, : self._k[-1]]
            scores, found = (np.take_along_axis(x, others, axis=1) for x in (scores, found))
        return Neighbours(asked, bank, scores, found)

    def _vote(self, near: Neighbours, k: int) -> np.ndarray:
        scores = near.scores[:, :k].astype(np.float64)
        if self._weighting == "majority":
            return vote(near.labels[:, :k], np.ones_like(scores))
        return vote(near.labels[:, :k], np.exp((scores - scores[:, :1]) / self._temperature))  # the nearest has 1

    def panels(self) -> Iterator[Panel]:
        """The worst classes by the largest K, or by the nearest image for recall; some images with their neighbours."""
        if self._last is None:
            return
        near = self._last
        guesses = near.labels[:, 0] if self._weighting == "recall" else self._vote(near, self._k[-1])
        by = "the nearest image" if self._weighting == "recall" else f"{self._k[-1]} neighbours"
        if (guesses != near.asked.labels).any():
            title = f"{self._name}: worst classes by {by}"
            yield worst_confusions(near.asked.labels, guesses, self._asked.classes, title=title)
        drawn = sorted(np.random.default_rng(0).permutation(len(guesses))[:SHOWN].tolist())
        title, note = f"{self._name}: nearest images", "drawn at random; right = of the same class"
        yield Grid(title, note, [self._shown(near, query) for query in drawn])

    def _shown(self, near: Neighbours, query: int) -> tuple[Item, list[Hit]]:
        """An image with its neighbours, each with its class."""

        def item(data: Labelled, images: Embedded, row: int) -> Item:
            return picture(data.source, int(images.index[row]), text=data.classes[images.labels[row]])

        right = near.labels[query] == near.asked.labels[query]
        hits = [
            Hit(item(self._bank, near.bank, near.rows[query, i]), float(near.scores[query, i]), bool(right[i]))
            for i in range(min(BESIDE, len(right)))
        ]
        return item(self._asked, near.asked, query), hits


def vote(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int [Q]: the class with most weight among a query's neighbours [Q, K], of equal ones that of the nearer."""
    totals = np.stack([(weights * (labels == labels[:, [j]])).sum(axis=1) for j in range(labels.shape[1])], axis=1)
    return np.take_along_axis(labels, totals.argmax(axis=1)[:, None], axis=1)[:, 0]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
