"""Zero-shot classification: the class whose prompts lie nearest to the image (facts: ALIGN section 7)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from align_jax import provenance
from align_jax.data.filter import Filtered
from align_jax.evals import prompts, statistics
from align_jax.evals.blockwise import Blockwise
from align_jax.evals.confusion import worst_confusions
from align_jax.evals.embedding import Embedder, left_out, protocol_of
from align_jax.evals.labelled import open_labelled
from align_jax.evals.panels import Grid, Hit, Item, Panel, picture
from align_jax.evals.prompts import Prompts
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result

BLOCK = 1 << 16  # prompts whose embeddings stand in memory at a time
TOP = 5
SHOWN = 12  # rows of each grid


class Guesses(NamedTuple):
    """What a run found, for its pictures: of each image that could be read."""

    indices: np.ndarray  # int [n], of records
    labels: np.ndarray  # int [n]
    classes: np.ndarray  # int32 [n, TOP], best first
    scores: np.ndarray  # f32 [n, TOP]


class ZeroShot(Evaluator):
    """Accuracy where a class is the normalised mean of the embeddings of its filled templates.

    Ties take the pessimistic rank: of a class that scores as another one does, the other one is guessed. Of classes
    that share a name the first is guessed, as elsewhere: CLIP's names of ImageNet have two such pairs.
    """

    needs = ("embed_images", "embed_texts")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: dict, templates: str | Sequence[str],
        classes: str | Sequence[str] = (), language: str = "en", subset: str | Sequence[str] = (), seed: int = 0,
    ):  # fmt: skip
        """`templates` and `classes`: texts, or where they stand (`prompts.load`, as is `language`); templates hold '{}'
        for the class, `classes` replace the names that the source has (`prompts.match`).

        `subset`: the classes that are told apart, as the source calls them, records of others being left out;
        "present" for those that a record has. `seed` draws the images of the panels.
        """
        where = f"evals.{name}"
        data = open_labelled(embedder, source, where=f"{where}.source")
        whole, labels = data.source, data.labels
        filled = prompts.load("templates", templates, language=language, where=f"{where}.templates")
        names = _names(whole.classes, classes, language, where=f"{where}.classes")
        chosen = _chosen(whole.classes, labels, subset, where=f"{where}.subset")
        place = np.full(len(names), -1)
        place[chosen] = np.arange(len(chosen))
        kept = np.flatnonzero(place[labels] >= 0)
        others = len(labels) - len(kept)

        self._embedder, self._name, self._seed = embedder, name, seed
        self._source = Filtered(whole, kept) if others else whole
        self._labels, self._ids = place[labels[kept]], data.ids[kept]
        self._prompts = Prompts(tuple(names[i] for i in chosen), filled)
        self._guesses: Guesses | None = None
        part = f" of {len(names)} ({'those present' if subset == 'present' else 'a list'})" if subset else ""
        self._protocol = (
            f"{protocol_of(source)}: {len(chosen)} classes{part}, names "
            f"{prompts.describe(classes, language=language) if classes else 'of the source'}, {len(filled)} prompts "
            f"{prompts.describe(templates, language=language)}, mean then normalise, "
            f"{embedder.pairs.view.protocol}, ties pessimistic"
            f"{_sharing(self._prompts.names)}{f', {others} records of other classes left out' if others else ''}"
        )

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """top1, top5 (of more than five classes), mean_per_class, and majority_class, which a blind guess reaches."""
        images, bad = self._embedder.images(params, model_state, self._source)
        skipped = left_out(self._source, bad)
        weights = self._embedder.once(
            self._prompts, lambda: class_weights(self._embedder, params, model_state, self._prompts)
        )
        read = np.array([i for i in range(len(images)) if i not in bad])
        labels = self._labels[read]
        scores = Blockwise(self._embedder.mesh, images[read] if bad else images, weights)
        best, classes = scores.nearest(TOP)
        self._guesses = Guesses(read, labels, classes, best)
        rank = ranks(scores, labels, self._prompts.names)
        ids = statistics.digest(self._ids[read])
        facts = {
            "data": provenance.digest(self._source),
            "prompts": self._prompts.digest(),
            "crop": self._embedder.pairs.view.protocol,
        }
        found = {"top1": (rank < 1, None), "top5": (rank < TOP, None), "mean_per_class": (rank < 1, labels)}
        if len(weights) <= TOP:
            del found["top5"]
        for metric, (right, parts) in found.items():
            outcome = Outcome(right.astype(np.float32), parts=parts, ids=ids)
            value = statistics.estimate(outcome)
            yield Result(f"{self._name}/{metric}", value, len(labels), f"{self._protocol}{skipped}", outcome, facts)
        majority = float(np.bincount(labels).max() / len(labels))
        blind = f"{self._protocol}{skipped}: share of the most frequent class"
        yield Result(f"{self._name}/majority_class", majority, len(labels), blind, facts=facts)

    def panels(self) -> Iterator[Panel]:
        """The classes with most errors, and images drawn from the wrong and from the right ones."""
        if self._guesses is None:
            return
        labels, guesses = self._guesses.labels, self._guesses.classes[:, 0]
        right = labels == guesses
        if not right.all():
            yield worst_confusions(labels, guesses, self._prompts.names, title=f"{self._name}: confusion")
        rng = np.random.default_rng(self._seed)
        for kind, rows in (("wrong", np.flatnonzero(~right)), ("right", np.flatnonzero(right))):
            if len(rows):
                drawn = np.sort(rng.permutation(rows)[:SHOWN])
                note = f"{len(drawn)} of {len(rows)} images, drawn at random, each with the classes that score highest"
                yield Grid(f"{self._name}: {kind}", note, [self._row(self._guesses, row) for row in drawn])

    def _row(self, found: Guesses, row: int) -> tuple[Item, list[Hit]]:
        names, label = self._prompts.names, found.labels[row]
        hits = [
            Hit(Item(text=names[i]), float(score), right=bool(i == label))
            for i, score in zip(found.classes[row], found.scores[row], strict=True)
        ]
        return picture(self._source, int(found.indices[row]), text=names[label]), hits


def class_weights(embedder: Embedder, params: Params, model_state: ModelState, asked: Prompts) -> np.ndarray:
    """Unit rows f32 [C, D]: per class the normalised mean over its filled templates; of one name, the same row."""
    names = list(dict.fromkeys(asked.names))
    step = max(1, BLOCK // len(asked.templates))
    rows = []
    for start in range(0, len(names), step):
        part = Prompts(tuple(names[start : start + step]), asked.templates)
        embedded = embedder.texts(params, model_state, part.filled())
        rows.append(embedded.reshape(len(part.names), len(part.templates), -1).mean(axis=1))
    means = np.concatenate(rows)
    weights = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    row_of = {name: row for row, name in enumerate(names)}
    return weights[[row_of[name] for name in asked.names]]


def ranks(scores: Blockwise, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """int [n], 0 the best: how many other classes score at least as high as an image's own, but for later ones of the
    same name. `scores`: images against classes."""
    later = np.zeros(len(names), np.int64)
    seen: Counter[str] = Counter()
    for place, name in reversed(list(enumerate(names))):
        later[place] = seen[name]
        seen[name] += 1
    own = scores.scores(np.stack([np.arange(len(labels)), labels], axis=1))
    found, _ = scores.at_least(own, np.full(len(names), np.inf, np.float32))
    return found - 1 - later[labels]


def _names(known: Sequence[str], given: str | Sequence[str], language: str, *, where: str) -> tuple[str, ...]:
    """Of all classes of a source."""
    if not given:
        return prompts.own_names(known, where=where)
    names = prompts.load("classes", given, language=language, where=where)
    listed = isinstance(given, str) and not given.endswith(".json") and language == "en"
    return prompts.match(names, known, alike=listed, where=where)


def _chosen(known: Sequence[str], labels: np.ndarray, subset: str | Sequence[str], *, where: str) -> np.ndarray:
    """Places of the classes of a subset, rising."""
    if not subset:
        return np.arange(len(known))
    if subset == "present":
        return np.unique(labels)
    listed = (subset,) if isinstance(subset, str) else subset
    place_of = {name: place for place, name in enumerate(known)}
    unknown = [name for name in listed if name not in place_of]
    if unknown:
        raise AlignError(f"{where}: expected 'present' or classes of the source, as {known[0]!r}, found {unknown[0]!r}")
    chosen = np.unique([place_of[name] for name in listed])
    if not np.isin(labels, chosen).any():
        raise AlignError(f"{where}: expected classes that a record has, found none of {len(labels)} records in them")
    return chosen


def _sharing(names: Sequence[str]) -> str:
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f", of classes with one name the first is guessed ({', '.join(twice[:3])})" if twice else ""
