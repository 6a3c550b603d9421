"""Evaluates the last checkpoint of a run by the evaluators of its config.

python -m align_jax.evaluate --workdir=runs/demo
"""

import sys
from pathlib import Path

import jax
from absl import flags

from align_jax import config as configs
from align_jax import run as runs
from align_jax.cli import main_of
from align_jax.metrics import table
from align_jax.types import AlignError

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")


def main(_: list[str]) -> None:
    """Prints the table and writes eval.json."""
    workdir = Path(WORKDIR.value)
    parts = runs.prepare(configs.load(workdir / "config.json"), workdir, None)
    evaluators = parts.evaluators()
    if not evaluators:
        raise AlignError(f"{workdir}: expected evaluators in config.evals, found none")
    with jax.set_mesh(parts.mesh):
        results = parts.evaluate(evaluators, parts.restored())
    print(table(results), file=sys.stdout)
    runs.report(results, workdir)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    main_of(main)
