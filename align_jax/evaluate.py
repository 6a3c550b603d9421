"""Evaluates the last checkpoint of a run by the evaluators of its config.

python -m align_jax.evaluate --workdir=runs/demo
"""

from pathlib import Path

import jax
from absl import flags

from align_jax import run as runs
from align_jax.cli import main_of
from align_jax.metrics import table
from align_jax.model import parts_of
from align_jax.types import AlignError


def main(_: list[str]) -> None:
    """Prints the table and writes eval.json."""
    workdir = Path(flags.FLAGS.workdir)
    parts = parts_of(workdir)
    evaluators = parts.evaluators()
    if not evaluators:
        raise AlignError(f"{workdir}: expected evaluators in config.evals, found none")
    with jax.set_mesh(parts.mesh):
        results = parts.evaluate(evaluators, parts.restored())
    print(table(results))
    runs.write_results(results, workdir)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    main_of(main)
