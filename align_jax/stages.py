"""`config.stages`: runs one after the other, each from where the one before it ended. Without stages, one run.

A stage is {"name": .., dotted key: value, ..}: the config with those values. So each may have data of its own (a
mixture too), its steps ("2 epochs" of those data), its schedule, its batches and its evaluators. Steps, and with them
the schedule and the warm-up, are counted anew in each, and records come in the order that "seed" draws. Two keys are
the chain's own:

  "optimizer": "fresh", or "kept": the optimizer goes on with the state that the stage before ended with, its moments
    and the moving average of the parameters. In a chain that begins with this stage there is none to keep.
  "skip": True leaves the stage out, as if it did not stand there; its folder is not looked at.

What a later stage lacks, but for what its evaluators read, is told before the first one trains.

One override leaves out the first stage, where the config has the key: --config.stages[0].skip=True. A row of a sweep
says {"stages[0].skip": True}, and may set any key of a stage, {"stages[1].optim.learning_rate": 1e-4}.
"""

import contextlib
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_jax import config as configs
from align_jax import files, provenance, published, warm_start
from align_jax import run as runs
from align_jax.checkpoint import latest
from align_jax.config import Config
from align_jax.data import source as sources
from align_jax.metrics import duration
from align_jax.state import TrainState
from align_jax.types import AlignError

OPTIMIZERS = ("fresh", "kept")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run, ready to begin or to go on."""

    config: Config  # its steps a number
    folder: Path
    source: sources.Source
    where: str  # as config.stages[1]; empty: the config has no stages

    @functools.cached_property
    def shapes(self) -> TrainState:
        """What its state looks like."""
        return runs.abstract(self.config)

    @property
    def begun(self) -> bool:
        """Whether it has been started before, so that the stages before it are done."""
        return (self.folder / "config.json").exists()


def stage_configs(config: Config, workdir: Path) -> list[tuple[Config, Path]]:
    """[(config, folder)] of each of `config.stages` that is not skipped, or of the one run of a config without stages.

    A stage lies in <workdir>/<name>. All but the first start from the parameters of the one before. AlignError for what
    is no stage, and for a value that cannot be.
    """
    if not config.stages:
        return [(config, workdir)]
    found: list[tuple[Config, Path]] = []
    for number, stage in enumerate(config.stages):
        where = f"config.stages[{number}]"
        if isinstance(stage, str):  # what a single stage, not in a list, comes apart into
            raise AlignError(f"{where}: expected {{'name': .., key: value}} in a list, found {stage!r} in it")
        values: dict[str, Any] = {"name": f"stage_{number}", "skip": False, "optimizer": "fresh", **stage}
        name, skip, optimizer = (values.pop(key) for key in ("name", "skip", "optimizer"))
        if not isinstance(skip, bool):
            raise AlignError(f"{where}.skip: expected True or False, found {skip!r}")
        if optimizer not in OPTIMIZERS or (number == 0 and optimizer == "kept"):
            known = OPTIMIZERS if number else OPTIMIZERS[:1]
            raise AlignError(f"{where}.optimizer: expected one of {known}, found {optimizer!r}")
        if skip:
            continue
        if found and (taken := [key for key in values if key.split(".")[0] == "init" or key == "data.vocab.path"]):
            raise AlignError(f"{where}: expected no {taken[0]!r}: it starts from the stage before, {found[-1][1].name}")
        own = configs.override(config, {"stages": (), **values}, where=where)
        with _named(where):
            configs.check(own)
        if found:
            before = str(found[-1][1])
            kept = {"optimizer": True} if optimizer == "kept" else {}
            own.init = {"image": "", "text": "", "checkpoints": [{"checkpoint": before, "paths": {"": ""}, **kept}]}
            if "vocab" in own.data:
                own.data.vocab.path = before  # rows of the embedding table keep their meaning
        found.append((own, workdir / name))
    folders = [folder for _, folder in found]
    if len(set(folders)) < max(len(folders), 1):
        raise AlignError(
            "config.stages: expected at least one that is not skipped, of names that differ, found "
            f"{[folder.name for folder in folders]}"
        )
    return found


def as_before(config: Config, workdir: Path) -> Config:
    """The config with what it leaves to published towers as in the run that `workdir` holds, if any."""
    return published.as_before(config, stage_configs(config, workdir)[0][1] / "config.json")


def opened(config: Config, workdir: Path) -> list[Stage]:
    """The stages, their sources open. Refuses to go on with stages that began with other data or another config."""
    found, own = [], stage_configs(config, workdir)
    places = [f"config.stages[{number}]" for number, stage in enumerate(config.stages) if not stage.get("skip")] or [""]
    for (stage, folder), where in zip(own, places, strict=True):
        with _named(where):
            source = sources.make(**stage.data.source)
            provenance.refuse_other_data(source, folder / "run.json")
            found.append(Stage(counted(stage, source), folder, source, where))
            configs.refuse_other(found[-1].config, folder / "config.json")
    return found


def fitted(config: Config, workdir: Path, stages: Sequence[Stage], towers: published.Towers) -> list[Stage]:
    """The same stages of the config with what it leaves to its towers."""
    own = stage_configs(published.fitted(config, towers), workdir)
    return [
        dataclasses.replace(stage, config=counted(found, stage.source))
        for (found, _), stage in zip(own, stages, strict=True)
    ]


def counted(config: Config, source: sources.Source) -> Config:
    """The config with `steps` as a number, where it says epochs of the source."""
    number = configs.steps(config.steps, records=len(source), batch_size=config.batch_size)
    return configs.override(config, {"steps": number}, where="config")


def refuse_unfit(stages: Sequence[Stage], parts: runs.Run) -> None:
    """Refuses stages, not begun yet, that could not be prepared, or cannot start from what the one before ends with.

    No record is read and nothing is compiled. Evaluators are left to their stage. `parts`: of the first stage, whose
    vocabulary the others take over, each from the folder of the one before it, which does not stand yet: here they read
    a copy.
    """
    known = {str(stage.folder): stage for stage in stages}
    with tempfile.TemporaryDirectory() as folder:
        for name, save in parts.pairs.files().items():
            save(Path(folder) / name)
        for stage in stages:
            with _named(stage.where):
                if stage is not stages[0]:  # before its shapes are asked for, which rely on sizes that can be
                    vocabulary = {"data.vocab.path": folder} if "vocab" in stage.config.data else {}
                    runs.check(configs.override(stage.config, vocabulary, where=""), stage.folder, stage.source)
                for entry in () if stage.begun else stage.config.init.checkpoints:
                    _refuse_unfit(stage, known.get(entry["checkpoint"]), entry)


def _refuse_unfit(stage: Stage, before: Stage | None, entry: Mapping[str, Any]) -> None:
    """`before`: the stage that the entry names; None: it names another run, whose optimizer's state alone counts."""
    origin = entry["checkpoint"]
    if before is not None:
        warm_start.refuse_other_parameters(stage.shapes, before.shapes, entry)
        if "vocab" in stage.config.data and "vocab" in before.config.data:
            warm_start.refuse_other_case(stage.config, before.config, origin)
    if entry.get("optimizer"):
        there = before.shapes if before else runs.abstract(configs.load(Path(origin) / "config.json"))
        warm_start.refuse_other_state(stage.shapes.opt_state, there.opt_state, origin)


def in_turn(stages: Sequence[Stage], at: int) -> Iterator[Stage]:
    """The stages from number `at` on, each with a line on screen as it begins.

    The line tells the time that is left, once a stage has been trained here: as if each row took as long as its rows.
    """
    seconds, rows = 0.0, 0
    for number, stage in enumerate(stages[at:], at):
        if len(stages) > 1 and files.is_writer():
            line = f"stage {number + 1} of {len(stages)}: {stage.folder.name}, {stage.config.steps:,} steps"
            if rows:
                left = seconds / rows * sum(map(_rows_left, stages[number:]))
                line += f"; about {duration(left)} left for all"
            print(line, file=sys.stderr)
        begun, own = time.monotonic(), _rows_left(stage)
        yield stage
        seconds, rows = seconds + time.monotonic() - begun, rows + own


def _rows_left(stage: Stage) -> int:
    return (stage.config.steps - (latest(stage.folder / "checkpoints") or 0)) * stage.config.batch_size


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Puts the stage before what an AlignError says."""
    try:
        yield
    except AlignError as error:
        raise AlignError(f"{where}: {error}" if where else str(error)) from error
