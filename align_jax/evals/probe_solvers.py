"""How a linear probe is fitted: `solver = {"name": "lbfgs", ...}` of its section."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from absl import logging

from align_jax.evals import logistic_sgd
from align_jax.evals.logistic import Logistic, Regression, predict
from align_jax.types import AlignError

DECADES = tuple(10.0**i for i in range(-6, 7))  # of the range in which CLIP searches


class Probe(NamedTuple):
    """A fitted model, and what the protocol says of how it was."""

    model: Logistic
    how: str


class Solver(Protocol):
    """`sweeps`: whether it chooses something by rows that are held out. `protocol`: what it does, of any rows."""

    sweeps: bool
    protocol: str

    def fit(
        self, mesh: jax.sharding.Mesh, rows: np.ndarray, labels: np.ndarray, classes: int, held: np.ndarray
    ) -> Probe:
        """The probe of rows f32 [n, D] with labels int [n]; where bool [n] `held` they only choose, before the end."""
        ...


class Lbfgs(Solver):
    """By L-BFGS, with the l2 that is best on held rows, then on all rows (CLIP, arXiv 2103.00020, appendix A.3)."""

    def __init__(
        self, *, within: str, l2: float | Sequence[float] = DECADES, tolerance: float = 1e-5, steps: int = 1000
    ):  # fmt: skip
        """`l2`: 1 / C of scikit-learn's LogisticRegression, or several: the best, of equally good ones the largest.

        A fit ends where the norm of its gradient is at most `tolerance` of that at zero weights, or after `steps`.
        """
        given = [l2] if isinstance(l2, int | float) else list(l2)
        if not given or not all(0 < value < np.inf for value in [*given, tolerance]) or steps < 1:
            raise AlignError(
                f"{within}: expected finite l2 and tolerance above 0, steps of at least 1, found {l2}, {tolerance} and "
                f"{steps}"
            )
        self._l2 = sorted({float(value) for value in given}, reverse=True)
        self._tolerance, self._steps = tolerance, steps
        self.sweeps = len(self._l2) > 1
        self.protocol = f"L-BFGS, l2 {self._l2[0]:g}"
        if self.sweeps:
            self.protocol = (
                f"L-BFGS, the best of {len(self._l2)} l2 from {self._l2[-1]:g} to {self._l2[0]:g} by top-1 on held-out "
                "images, then fitted on all"
            )

    def fit(
        self, mesh: jax.sharding.Mesh, rows: np.ndarray, labels: np.ndarray, classes: int, held: np.ndarray
    ) -> Probe:
        """From the largest l2 to the smallest, each from the one before."""
        regression = Regression(mesh, rows, labels, classes)
        chosen, start, how = self._l2[0], None, f"l2 {self._l2[0]:g}"
        if self.sweeps:
            right, model = -1, None
            for l2 in self._l2:
                fitted = regression.fit(~held, l2, start=model, tolerance=self._tolerance, most=self._steps)
                model = fitted.model
                found = int((predict(mesh, model, rows[held], 1)[:, 0] == labels[held]).sum())
                logging.info(
                    "l2 %g: %d of %d held out right, %d steps, gradient %.1e", l2, found, held.sum(), fitted.steps,
                    fitted.gradient,
                )  # fmt: skip
                if found > right:
                    right, chosen, start = found, l2, model
            how = f"l2 {chosen:g} by {held.sum()} held-out images"
            if chosen in (self._l2[0], self._l2[-1]):
                how += " (WARNING: the best l2 lies at the edge of the range, widen it)"
        every = np.ones(len(rows), bool)
        fitted = regression.fit(every, chosen, start=start, tolerance=self._tolerance, most=self._steps)
        if fitted.gradient > self._tolerance:
            how += f" (WARNING: not converged after {fitted.steps} steps, gradient {fitted.gradient:.0e} of the first)"
        return Probe(fitted.model, how)


class Sgd(Solver):
    """By SGD: the recipe of ALIGN's frozen head (facts: ALIGN section 6), on features without augmentation."""

    sweeps = False

    def __init__(
        self, *, within: str, learning_rate: float = 0.1, momentum: float = 0.9, batch_size: int = 1024,
        epochs: int = 100, decay: float = 0.2, every: int = 30, seed: int = 0,
    ):  # fmt: skip
        """The learning rate is multiplied by `decay` after each `every` epochs; `seed` draws their orders."""
        if seed < 0:
            raise AlignError(f"{within}.seed: expected a whole number of at least 0, found {seed}")
        whole = min(batch_size, epochs, every)
        if not 0 < learning_rate < np.inf or not 0 <= momentum < 1 or whole < 1 or not 0 < decay <= 1:
            raise AlignError(
                f"{within}: expected learning_rate above 0, 0 <= momentum < 1, batch_size, epochs, every of at least 1 "
                f"and 0 < decay <= 1, found {learning_rate}, {momentum}, {batch_size}, {epochs}, {every} and {decay}"
            )
        self._options = {
            "learning_rate": learning_rate, "momentum": momentum, "batch_size": batch_size, "epochs": epochs,
            "decay": decay, "every": every, "seed": seed,
        }  # fmt: skip
        self.protocol = "SGD, " + ", ".join(f"{key} {value:g}" for key, value in self._options.items())

    def fit(
        self, mesh: jax.sharding.Mesh, rows: np.ndarray, labels: np.ndarray, classes: int, held: np.ndarray
    ) -> Probe:
        """On all rows."""
        model = logistic_sgd.fit(mesh, rows, labels, classes, **self._options)
        return Probe(model, "")


SOLVERS = {"lbfgs": Lbfgs, "sgd": Sgd}
