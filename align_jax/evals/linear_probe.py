"""Linear probe: how well a linear classifier on the frozen image tower does (facts: ALIGN sections 6 and 7)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.config import call, nearest
from align_jax.evals import statistics
from align_jax.evals.confusion import worst_confusions
from align_jax.evals.embedding import Embedder
from align_jax.evals.labelled import Embedded, Labelled, known_too, open_labelled, reader, refuse_other_classes
from align_jax.evals.logistic import predict
from align_jax.evals.panels import Panel
from align_jax.evals.probe_solvers import SOLVERS, Solver
from align_jax.types import AlignError, Evaluator, ModelState, Outcome, Params, Result

TOP = 5


class LinearProbe(Evaluator):
    """Top-1, top-5 and mean per-class accuracy of multinomial logistic regression."""

    needs = ("embed_images", "image_features")

    def __init__(
        self, embedder: Embedder, *, name: str, folder: Path, source: Mapping[str, Any], train: Mapping[str, Any],
        validation: Mapping[str, Any] | float = 0.2, solver: Mapping[str, Any] = {"name": "lbfgs"},
        features: str = "features", standardise: bool = False, cache: bool = False, seed: int = 0,
    ):  # fmt: skip
        """Fits on `train`, asks `source`.

        Args:
          validation: what a sweep chooses by: a source, or the share of each class of `train` that `seed` draws. In the
            end they are fitted on too.
          solver: "name" of `SOLVERS`, and its options.
          features: "features" before the projection, or "embedding".
          standardise: to mean 0 and deviation 1 over what is fitted on, which changes what l2 weighs.
          cache: keep the rows of `train` and of a validation source on disk (`FeatureCache`).
        """
        where = f"evals.{name}"
        self._embedder, self._name, self._features, self._standardise = embedder, name, features, standardise
        self._solver = _solver(solver, where=f"{where}.solver")
        self._read = reader(embedder, folder=folder, features=features, cache=False, where=where)
        self._read_train = reader(embedder, folder=folder, features=features, cache=cache, where=where)
        self._asked = open_labelled(embedder, source, where=f"{where}.source")
        self._train = open_labelled(embedder, train, where=f"{where}.train")
        refuse_other_classes(self._asked, self._train, where=f"{where}.source")
        if len(self._train.labels) < len(self._train.classes):
            raise AlignError(
                f"{where}.train: expected at least an image for each of the {len(self._train.classes)} classes, found "
                f"{len(self._train.labels)} in {self._train.name}"
            )
        self._share, self._seed, self._validation = 0.0, seed, None
        if not isinstance(validation, int | float):
            self._validation = self._open_validation(embedder, validation, f"{where}.validation")
        elif self._solver.sweeps:
            self._share = float(validation)
            held_out(self._train.labels, self._share, seed, where=f"{where}.validation")
        for option, data in (("train", self._train), ("validation", self._validation)):
            both = int(known_too(self._asked, data).sum()) if data is not None else 0
            if data is not None and both:
                raise AlignError(
                    f"{where}.{option}: expected other images than those of the source, found {data.name} with {both} "
                    "of them; a probe is asked about what it has not seen"
                )
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def _open_validation(self, embedder: Embedder, options: Mapping[str, Any], where: str) -> Labelled:
        if not self._solver.sweeps:
            raise AlignError(f"{where}: expected a solver that sweeps over several values, found one that does not")
        found = open_labelled(embedder, options, where=where)
        refuse_other_classes(found, self._train, where=where)
        return found

    def run(self, params: Params, model_state: ModelState) -> Iterator[Result]:
        """Top-1 accuracy, top-5 with more classes than five, and the mean over classes of their accuracy."""
        train = self._read_train(params, model_state, self._train)
        rows, labels, held, said = train.rows, train.labels, np.zeros(len(train.rows), bool), ""
        if self._validation is not None:
            extra = self._read_train(params, model_state, self._validation)
            rows, labels = np.concatenate([rows, extra.rows]), np.concatenate([labels, extra.labels])
            held = np.arange(len(rows)) >= len(held)
            said = f" and {len(extra.rows)} of {self._validation.name}{extra.left_out}"
        elif self._solver.sweeps:
            held = held_out(labels, self._share, self._seed, where=f"evals.{self._name}.validation")
        asked = self._read(params, model_state, self._asked)
        asked_rows = asked.rows
        if self._standardise:
            mean, deviation = rows.mean(axis=0), rows.std(axis=0)
            deviation[deviation == 0] = 1
            rows, asked_rows = ((x - mean) / deviation for x in (rows, asked_rows))
        classes, mesh = len(self._train.classes), self._embedder.mesh
        probe = self._solver.fit(mesh, rows, labels, classes, held)
        guesses = predict(mesh, probe.model, asked_rows, min(TOP, classes))
        self._last = asked.labels, guesses[:, 0]
        protocol = self._protocol(asked, f"{len(train.rows)} images of {self._train.name}{train.left_out}{said}")
        absent = classes - len(np.unique(labels))
        missing = f", {absent} of {classes} classes without training images" if absent else ""
        yield from self._results(asked, guesses, f"{protocol}, {self._solver.protocol}{missing}", probe.how)

    def _protocol(self, asked: Embedded, trained: str) -> str:
        rows = "features before the projection" if self._features == "features" else "embeddings"
        return (
            f"{self._asked.name}: {len(asked.rows)} images{asked.left_out}, multinomial logistic regression on "
            f"{'standardised ' if self._standardise else ''}{rows} of {trained}, {self._read.crop} without augmentation"
        )

    def _results(self, asked: Embedded, guesses: np.ndarray, protocol: str, how: str) -> Iterator[Result]:
        ids = self._asked.ids_digest(asked.index)
        facts = {"data": self._asked.digest, "train": self._train.digest, "crop": self._read.crop}
        facts |= {"fit": how} if how else {}
        right = (guesses == asked.labels[:, None]).astype(np.float32)
        outcomes = {"top1": Outcome(right[:, 0], ids=ids)}
        if len(self._train.classes) > TOP:
            outcomes["top5"] = Outcome(right.max(axis=1), ids=ids)
        outcomes["mean_per_class"] = Outcome(right[:, 0], parts=asked.labels, ids=ids)
        for metric, outcome in outcomes.items():
            value = statistics.estimate(outcome)
            yield Result(f"{self._name}/{metric}", value, len(right), protocol, outcome, facts)

    def panels(self) -> Iterator[Panel]:
        """The worst classes."""
        if self._last is not None and (self._last[0] != self._last[1]).any():
            yield worst_confusions(*self._last, self._train.classes, title=f"{self._name}: worst classes")


def _solver(options: Mapping[str, Any], *, where: str) -> Solver:
    section = dict(options)
    name = section.pop("name", None)
    if name not in SOLVERS:
        raise AlignError(f"{where}.name: found {name!r}; {nearest(str(name), list(SOLVERS))}")
    return call(SOLVERS[name], section, where=where, within=where)


def held_out(labels: np.ndarray, share: float, seed: int, *, where: str) -> np.ndarray:
    """bool [n]: `share` of the examples of each class, rounded, but never all; AlignError where that is none."""
    held = np.zeros(len(labels), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        held[own[: min(round(share * len(own)), len(own) - 1)]] = True
    if not 0 < share < 1 or not held.any():
        raise AlignError(
            f"{where}: expected a source, or a share between 0 and 1 of the images of each class, found {share} of "
            f"{len(labels)}, which holds out {int(held.sum())}"
        )
    return held
