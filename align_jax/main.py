"""Trains, evaluates and exports what a config says.

python -m align_jax.main --config=configs/align_demo.py --workdir=runs/demo [--config.steps=50 ...]
"""

import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from align_jax import config as configs
from align_jax import files, train, warm_start
from align_jax import run as runs
from align_jax.checkpoint import Checkpoints, latest
from align_jax.cli import main_of
from align_jax.config import Config
from align_jax.data import source as sources
from align_jax.export import export
from align_jax.hosts.start import start
from align_jax.metrics import Recorder, write_parameters
from align_jax.types import AlignError

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, configs/*.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, results", required=True)

WAIT = flags.DEFINE_float("wait", 300.0, "seconds to wait for the other processes of a run", 1.0)


def run(config: Config, workdir: Path, *, wait: float = 300.0) -> None:
    """One run, or one after the other for each of `config.stages`; waits `wait` seconds for its other processes."""
    configs.check(config)
    stages = runs.stage_configs(config, workdir)
    facts = {"workdir": str(workdir.absolute())}
    for _, folder in stages:  # hosts that do not see the same folder would start from different steps
        facts[f"last checkpoint in {folder}"] = str(latest(folder / "checkpoints"))
    start(configs.flat(configs.plain(config)) | facts, seconds=wait)
    for stage, folder in stages:
        _run(stage, folder)


def _run(config: Config, workdir: Path) -> None:
    configs.refuse_other(config, workdir / "config.json")
    source = sources.make(**config.data.source)
    parts = runs.prepare(config, workdir, source)
    batches = parts.stream(source)
    evaluators = parts.evaluators()
    initial = warm_start.make(config.init)
    files.write_json(workdir / "config.json", configs.plain(config))
    with (
        jax.set_mesh(parts.mesh),
        Checkpoints(workdir / "checkpoints", **config.checkpoint) as checkpoints,
    ):
        # Where a run starts from: 1. its own last checkpoint, 2. the parameters that config.init names, 3. nothing.
        resumed = checkpoints.latest() is not None
        state = checkpoints.restore(parts.shapes()) if resumed else initial(parts.fresh())
        if files.is_writer():
            print(f"{workdir}: from step {int(state.step)} of {config.steps} on {parts.mesh.size} "
                  f"{jax.devices()[0].platform} device(s); {runs.describe(state)}", file=sys.stderr)  # fmt: skip
            if source.problems:
                counts = ", ".join(f"{count:,} {reason}" for reason, count in source.problems.items())
                print(f"{workdir}: {len(source):,} records; on opening: {counts}", file=sys.stderr)
        write_parameters(workdir / "parameters.txt", state.params)
        recorder = Recorder(
            workdir, start=int(state.step), steps=config.steps, rows=config.batch_size, every=config.log_every
        )
        with recorder:
            state = train.train(
                state, task=parts.task, optimizer=parts.optimizer, batches=batches,
                evaluate=lambda state: parts.evaluate(evaluators, state), evaluate_every=config.evaluate_every,
                checkpoints=checkpoints, config=configs.plain(config), recorder=recorder, steps=config.steps,
                ahead=config.steps_ahead,
                mesh=parts.mesh,
            )  # fmt: skip
            results = parts.evaluate(evaluators, state)
            recorder.results(config.steps, results)
        if results:
            runs.report(results, workdir)
        if config.export:
            export(parts, state, source)


def main(_: list[str]) -> None:
    """Checks the flags."""
    if "://" in WORKDIR.value:
        raise AlignError(
            f"--workdir: expected a folder, which all hosts see, found {WORKDIR.value}; mount the bucket (gcsfuse, NFS)"
        )
    run(CONFIG.value, Path(WORKDIR.value), wait=WAIT.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    main_of(main)
