"""Evaluators by kind: `config.evals.<name> = {"kind": "retrieval", ...}`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_jax.config import call, nearest
from align_jax.evals.accuracy import Accuracy
from align_jax.evals.contact_sheet import ContactSheet
from align_jax.evals.embedding import Embedder
from align_jax.evals.retrieval import Retrieval
from align_jax.evals.zero_shot import ZeroShot
from align_jax.types import AlignError, Evaluator

KINDS = {"accuracy": Accuracy, "retrieval": Retrieval, "zero_shot": ZeroShot, "contact_sheet": ContactSheet}


def make(
    evals: Mapping[str, Any], embedder: Embedder, *, functions: Mapping[str, Any], workdir: Path
) -> list[Evaluator]:
    """All evaluators of a config; one that needs what the task lacks is an error here, before any compilation."""
    found = []
    for name, section in evals.items():
        options = dict(section)
        kind = options.pop("kind", None)
        if kind not in KINDS:
            raise AlignError(f"evals.{name}.kind: found {kind!r}; {nearest(str(kind), list(KINDS))}")
        missing = [need for need in KINDS[kind].needs if need not in functions]
        if missing:
            raise AlignError(f"evals.{name}: needs {missing[0]!r}, the task offers {sorted(functions)}")
        given = {"embedder": embedder, "name": name, "folder": workdir}
        found.append(call(KINDS[kind], options, where=f"evals.{name}", **given))
    return found
