"""Evaluators by kind: `config.evals.<name> = {"kind": "retrieval", "every": 500, ...}`.

`every` that many steps it takes place during training, 0: at the end alone; by default as `config.evaluate_every` says.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from align_jax.config import call, nearest
from align_jax.evals.accuracy import Accuracy
from align_jax.evals.composed import Composed
from align_jax.evals.contact_sheet import ContactSheet
from align_jax.evals.crisscrossed import Crisscrossed
from align_jax.evals.embedding import Embedder
from align_jax.evals.knn import KNN
from align_jax.evals.linear_probe import LinearProbe
from align_jax.evals.proposals import Loaded
from align_jax.evals.retrieval import Retrieval
from align_jax.evals.scored_retrieval import ScoredRetrieval
from align_jax.evals.simlex import SimLex
from align_jax.evals.zero_shot import ZeroShot
from align_jax.types import AlignError, Evaluator

KINDS = {
    "accuracy": Accuracy,
    "composed": Composed,
    "contact_sheet": ContactSheet,
    "crisscrossed": Crisscrossed,
    "knn": KNN,
    "linear_probe": LinearProbe,
    "retrieval": Retrieval,
    "scored_retrieval": ScoredRetrieval,
    "simlex": SimLex,
    "zero_shot": ZeroShot,
}
WITH_ANOTHER = ("scored_retrieval",)  # kinds that open another model


def _no_other(path: str) -> Loaded:
    raise AlignError(f"expected evaluators of one model alone here, found another: {path}")


def make(
    evals: Mapping[str, Any], embedder: Embedder, *, functions: Mapping[str, Any], workdir: Path,
    load: Callable[[str], Loaded] = _no_other,
) -> list[Evaluator]:  # fmt: skip
    """All evaluators of a config; one that needs what the task lacks is an error here, before any compilation.

    `load`: what opens another model, for the kinds that compare with one or build on one.
    """
    found = []
    for name, options in _sections(evals):
        options.pop("every", None)  # for `schedule`
        kind = options.pop("kind", None)
        if kind not in KINDS:
            raise AlignError(f"evals.{name}.kind: found {kind!r}; {nearest(str(kind), list(KINDS))}")
        missing = [need for need in KINDS[kind].needs if need not in functions]
        if missing:
            raise AlignError(
                f"evals.{name}: needs {missing[0]!r}, the task offers {sorted(functions)}; a model without that tower "
                f"has no such results, leave {name} out"
            )
        seed = options.get("seed", 0)
        if isinstance(seed, int) and seed < 0:
            raise AlignError(f"evals.{name}.seed: expected a whole number of at least 0, found {seed}")
        given = {"embedder": embedder, "name": name, "folder": workdir}
        if kind in WITH_ANOTHER:
            given["load"] = load
        found.append(call(KINDS[kind], options, where=f"evals.{name}", **given))
    return found


def schedule(evals: Mapping[str, Any], *, default: int) -> dict[str, int]:
    """{name: steps between its evaluations, 0 for at the end alone}."""
    every = {name: options.get("every", default) for name, options in _sections(evals)}
    for name, steps in every.items():
        if not isinstance(steps, int) or steps < 0:
            raise AlignError(f"evals.{name}.every: expected a whole number of steps of at least 0, found {steps!r}")
    return every


def _sections(evals: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, section in evals.items():
        if not isinstance(section, Mapping | ConfigDict):
            raise AlignError(f"evals.{name}: expected a section with a kind, found {section!r}")
        yield name, dict(section)
