"""Trains, evaluates and exports what a config says.

python -m align_jax.main --config=configs/align_demo.py --workdir=runs/demo [--config.steps=50 ...]
"""

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from align_jax import config as configs
from align_jax import files, provenance, report, stages, train, warm_start
from align_jax import run as runs
from align_jax.checkpoint import Checkpoints, latest
from align_jax.cli import main_of
from align_jax.config import Config
from align_jax.evaluate import evaluate, show
from align_jax.export import export
from align_jax.hosts.start import start
from align_jax.metrics import Recorder, write_parameters
from align_jax.state import TrainState
from align_jax.types import AlignError, Evaluator, Result
from align_jax.watch.preemption import PREEMPTED

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, configs/*.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, results", required=True)

WAIT = flags.DEFINE_float("wait", 300.0, "seconds to wait for the other processes of a run", 1.0)


def run(config: Config, workdir: Path, *, wait: float = 300.0) -> int:
    """One run, or one after the other for each of `config.stages`; waits `wait` seconds for its other processes.

    The exit status: 0, or PREEMPTED where it was told to stop, and saved, before it was done.
    """
    configs.check(config)
    begin = configs.call(warm_start.make, config.init, where="config.init")
    config = stages.as_before(config, workdir)
    chain = stages.opened(config, workdir)
    facts = {"workdir": str(workdir.absolute())}
    for stage in chain:
        # Hosts that do not see the same folder would start from different steps, or read different records.
        facts[f"last checkpoint in {stage.folder}"] = str(latest(stage.folder / "checkpoints"))
        facts[f"digest of the data of {stage.folder}"] = provenance.digest(stage.source)
    at = max((number for number, stage in enumerate(chain) if stage.begun), default=0)
    start(configs.flat(configs.plain(config)) | facts | {"stage": at}, seconds=wait)
    if (
        not at and latest(chain[0].folder / "checkpoints") is None
    ):  # a run that goes on has its towers, wherever they came from
        chain = stages.fitted(config, workdir, chain, begin.towers)
    for number, stage in enumerate(stages.in_turn(chain, at), at):
        if number:
            begin = configs.call(warm_start.make, stage.config.init, where="config.init")
        if not _run(chain[number:], begin):
            return PREEMPTED
    return 0


def _run(left: Sequence[stages.Stage], begin: warm_start.Start) -> bool:
    """Whether the first of the stages that are left has come to its end; it trains where all of them can."""
    config, workdir, source = left[0].config, left[0].folder, left[0].source
    files.check_writable(workdir)
    resumed = latest(workdir / "checkpoints") is not None
    with contextlib.nullcontext() if resumed else begin.vocabulary(config) as vocabulary:
        parts = runs.prepare(config, workdir, source, vocabulary=vocabulary)
    stages.refuse_unfit(left, parts)
    provenance.refuse_other_reads(parts.pairs.reads, workdir / "run.json")
    rows = parts.stream(source)
    evaluators = parts.evaluators(configs.plain(config.evals), workdir)
    files.write_json(workdir / "config.json", configs.plain(config))
    files.write_json(workdir / "run.json", provenance.describe(source, parts.pairs.reads))
    try:
        with jax.set_mesh(parts.mesh), Checkpoints(workdir / "checkpoints", **config.checkpoint) as checkpoints:
            # Where a run starts: 1. its own last checkpoint, 2. the parameters that config.init names, 3. nothing.
            state = checkpoints.restore(parts.shapes()) if resumed else begin(parts.fresh())
            if config.data.get("features"):
                rows = parts.on_features(rows, state)
            finished, state = _train(parts, state, rows, evaluators, checkpoints)
            if finished and config.export:
                export(parts, state, source)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk has its own error to tell
            report.write(workdir)
        raise
    report.write(workdir)
    return finished


def _train(
    parts: runs.Run, state: TrainState, rows: runs.Rows, evaluators: Mapping[str, Evaluator], checkpoints: Checkpoints
) -> tuple[bool, TrainState]:
    """Trains and evaluates: (whether to the end, the last state)."""
    config, workdir = parts.config, parts.workdir
    if files.is_writer():
        print(f"{workdir}: from step {int(state.step)} of {config.steps} on {parts.mesh.size} "
              f"{jax.devices()[0].platform} device(s); {runs.describe(state.params)}", file=sys.stderr)  # fmt: skip
        if problems := rows.stream.source.problems:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in problems.items())
            print(f"{workdir}: {len(rows.stream.source):,} records; on opening: {counts}", file=sys.stderr)
    write_parameters(workdir / "parameters.txt", state.params, parts.optimizer.factors(state.params))
    recorder = Recorder(
        workdir, start=int(state.step), steps=config.steps, rows=config.batch_size, every=config.log_every,
        examine=parts.doctor().examine,
    )  # fmt: skip
    with recorder, parts.watch(recorder, rows, state) as watch:

        def measure(names: Iterable[str], state: TrainState, *, last: bool = False) -> list[Result]:
            weights, found = parts.weights(state), []
            with recorder.aside("evaluate"):
                asked = {name: evaluators[name] for name in names}
                for results in evaluate(asked, weights, parts, workdir, last=last, tell=recorder.message):
                    found += results
                    watch.alive()
            recorder.results(int(state.step), found)
            if last:
                show(evaluators.values(), found, weights, parts, workdir)
            report.write(workdir)
            return found

        def scheduled(step: int, state: TrainState) -> list[Result]:
            names = parts.due(step)
            return measure(names, state) if names else []

        recorder.note(
            "start", from_step=int(state.step), steps=config.steps, devices=parts.mesh.size,
            processes=jax.process_count(),
        )  # fmt: skip
        state = train.train(
            state, task=parts.task, optimizer=parts.optimizer, batches=rows.batches, evaluate=scheduled,
            checkpoints=checkpoints, config=configs.plain(config), recorder=recorder, stop=watch.stop,
            finished=watch.finished, steps=config.steps, ahead=config.steps_ahead, mesh=parts.mesh,
        )  # fmt: skip
        finished = int(state.step) == config.steps
        if finished:
            measure(evaluators, state, last=True)
            recorder.note("end")
        else:
            recorder.event("preempted", f"told to stop; saved at step {int(state.step)}, start again to go on")
    return finished, state


def checked_workdir() -> Path:
    """--workdir, where it can be one."""
    if "://" in WORKDIR.value:
        raise AlignError(
            f"--workdir: expected a folder, which all hosts see, found {WORKDIR.value}; mount the bucket (gcsfuse, NFS)"
        )
    return Path(WORKDIR.value)


def main(_: list[str]) -> int:
    """Takes the flags."""
    return run(CONFIG.value, checked_workdir(), wait=WAIT.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    main_of(main)
