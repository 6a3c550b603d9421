"""What it costs to store weights in fewer bytes: the same evaluators, with the exact weights and with the stored."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from align_jax import sharding
from align_jax.exporting.subject import Subject
from align_jax.types import AlignError, Evaluator, Result
from align_jax.weights import Weights

KINDS = ("retrieval", "accuracy", "zero_shot")  # of evaluators that are asked unless others are named


class Loss(NamedTuple):
    """One result of both."""

    name: str
    exact: float
    stored: float
    n: int
    protocol: str

    @property
    def difference(self) -> float:
        """Of recall and accuracy, below zero is a loss."""
        return self.stored - self.exact

    def __str__(self) -> str:
        return f"{self.name}: {self.exact:.4f} exact, {self.stored:.4f} stored, {self.difference:+.4f} (n={self.n:,})"


def evaluators(subject: Subject, sections: Mapping[str, Any], folder: Path, *, named: bool) -> tuple[dict, str]:
    """({name: evaluator}, why some are left out). `named`: the user asked for these, and one that fails is an error."""
    if named:
        return subject.parts.evaluators(sections, folder), ""
    found: dict[str, Evaluator] = {}
    reasons: list[str] = []
    for name, section in sections.items():
        if section.get("kind") in KINDS:
            try:
                found |= subject.parts.evaluators({name: section}, folder)
            except (AlignError, OSError) as error:  # its data may lie elsewhere
                reasons.append(f"{name}: {error}")
    return found, "; ".join(reasons)


def measure(subject: Subject, sections: Mapping[str, Any], *, named: bool) -> tuple[list[Loss], str]:
    """(each result with both weights, why some or all are left out)."""
    with tempfile.TemporaryDirectory() as folder:
        found, reasons = evaluators(subject, sections, Path(folder), named=named)
        exact, stored = (_results(subject, found, weights) for weights in (subject.exact, subject.restored))
    losses = [
        Loss(a.name, float(a.value), float(b.value), a.n, a.protocol) for a, b in zip(exact, stored, strict=True)
    ]  # fmt: skip
    return losses, reasons or ("" if losses else "the config has no evaluator of retrieval, accuracy or zero-shot")


def _results(subject: Subject, found: Mapping[str, Evaluator], weights: Weights) -> list[Result]:
    parts = subject.parts
    where = sharding.replicated(parts.mesh)
    with jax.set_mesh(parts.mesh), parts.embedder.remembering():
        params, model_state = jax.device_put((weights.params, weights.model_state), where)
        return [result for evaluator in found.values() for result in evaluator.run(params, model_state)]
