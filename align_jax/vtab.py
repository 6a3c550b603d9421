"""VTAB-1k: fine-tunes a checkpoint on 19 small tasks by the protocol of ALIGN (Jia et al. 2021, section 5.3, Table 6).

python -m align_jax.vtab --checkpoint=runs/align --workdir=runs/align_vtab --config=configs/vtab.py

Each task: a random search of 50 trials, trained on 800 images and scored on 200 others; the best is trained anew on all
1,000 from three seeds, and these are scored on the test split. Start it again to continue: each training is an ordinary
run in a folder of its own, and what is done stays done. --tasks=dtd,svhn_cropped takes some tasks alone. The results
are in vtab.md and vtab.json.
"""

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from align_jax import config as configs
from align_jax import files, provenance, weights
from align_jax import main as trainer
from align_jax.cli import main_of
from align_jax.config import Config
from align_jax.data import source as sources
from align_jax.data.vtab import SPLITS, TASKS
from align_jax.hosts.start import start
from align_jax.loading import load
from align_jax.metrics import duration
from align_jax.stages import stage_configs
from align_jax.tuning import random_search
from align_jax.tuning.scores import Scores, markdown, summary
from align_jax.types import AlignError
from align_jax.watch.non_finite import Diverged
from align_jax.watch.preemption import PREEMPTED

EVAL = "vtab"  # the evaluator that scores
DIVERGED = -1.0  # the score of a trial that came to no end


class Preempted(Exception):
    """A training was told to stop, and has saved."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training and what it is scored on."""

    folder: Path
    task: str
    settings: Mapping[str, Any]  # dotted key -> value, as the search drew them
    train: str  # split
    test: str  # split
    seed: int


class Sweep:
    """All tasks for one checkpoint."""

    def __init__(
        self, config: Config, workdir: Path, *, checkpoint: str, tasks: Sequence[str], trials: int, runs: int,
        train: Callable[[Config, Path], int] = trainer.run,
    ):  # fmt: skip
        """Finds what can be wrong before the first training: AlignError. `train` trains as `main.run` does."""
        if trials < 1 or runs < 1:
            raise AlignError(f"expected --trials and --runs of at least 1, found {trials} and {runs}")
        if not tasks:
            raise AlignError(f"--tasks: expected some of {list(TASKS)}, found none")
        for task in tasks:
            if task not in TASKS:
                raise AlignError(f"--tasks: VTAB has no task {task!r}; {configs.nearest(task, list(TASKS))}")
        if "search" not in config:
            raise AlignError("--config: expected a section search, what trials are drawn from, as configs/vtab.py has")
        self._config: Config = ConfigDict(configs.plain(config))
        self._search = self._config.search
        del self._config.search
        random_search.check(self._search, where="config.search")
        self._workdir, self._checkpoint, self._train = workdir, checkpoint, train
        self._tasks, self._trials, self._runs = tuple(dict.fromkeys(tasks)), trials, runs
        towers = configs.load(Path(checkpoint) / "config.json").task
        if "image" not in towers:
            raise AlignError(f"--checkpoint: expected a model with an image tower, found {towers.name!r}")
        self._image = towers.image.to_dict()
        data = self._config.data.source
        self._sources = {
            (task, split): sources.make(**{**data, "task": task, "split": split})
            for task in self._tasks
            for split in SPLITS
        }
        for task in self._tasks:
            for trial in self._search_of(task):
                configs.check(self._config_of(trial))
        self._facts = self._stamp()
        self._passed = 0  # trainings, those that were done before included
        self._seconds: list[float] = []  # of each that this process has done

    def run(self) -> str:
        """Does what is not done yet: the table. `Preempted` where it was told to stop."""
        found: list[Scores] = []
        for task in self._tasks:
            found.append(self._task(task))
            self._write(found)
        return markdown(self._facts | summary(found))

    def _task(self, task: str) -> Scores:
        trials, val, best = self._search_of(task), [], 0
        for number, trial in enumerate(trials):
            val.append(self._score(trial))
            best = int(np.argmax(val))  # the first of equals
            self._tell(
                f"{task}: trial {number} of {self._trials}, val200: {_percent(val[-1])}; best {_percent(val[best])} "
                f"(trial {best})"
            )
        if val[best] == DIVERGED:
            raise AlignError(f"{task}: all {self._trials} trials diverged; lower the learning rates of config.search")
        test = []
        for number, run in enumerate(self._runs_of(task, best, trials[best].settings)):
            test.append(self._score(run))
            if test[-1] == DIVERGED:
                raise AlignError(f"{task}: {run.folder} diverged, though trial {best} of the same settings did not")
            self._tell(f"{task}: run {number} of {self._runs}, test: {_percent(test[-1])}")
        data = self._sources[task, "test"]
        return Scores(task, test, len(data), provenance.digest(data), val, best, dict(trials[best].settings))

    def _write(self, found: Sequence[Scores]) -> None:
        result = self._facts | summary(found)
        files.write_json(self._workdir / "vtab.json", result)
        files.write(self._workdir / "vtab.md", lambda partial: partial.write_text(markdown(result), "utf-8"))

    def _search_of(self, task: str) -> list[Training]:
        """The trials, which see nothing of the test split."""
        seed, folder = self._config.seed, self._workdir / task / "trials"
        drawn = [random_search.draw(self._search, seed=seed, name=task, number=i) for i in range(self._trials)]
        return [
            Training(folder / f"{i:03}", task, settings, "train800", "val200", seed)
            for i, settings in enumerate(drawn)
        ]  # fmt: skip

    def _runs_of(self, task: str, best: int, settings: Mapping[str, Any]) -> list[Training]:
        """The best trial anew, on all 1,000."""
        folder = self._workdir / task / "runs"
        return [
            Training(folder / f"trial_{best:03}_seed_{seed}", task, settings, "train800val200", "test", seed)
            for seed in range(self._config.seed, self._config.seed + self._runs)
        ]

    def _config_of(self, training: Training) -> Config:
        """What `main.run` takes."""
        config = configs.override(self._config, training.settings, where="config.search")
        source = {**config.data.source, "task": training.task}
        config.seed, config.evaluate_every = training.seed, 0  # eval.json is the mark of what is done
        config.task.image = {**self._image, **config.task.image}
        config.data.source = {**source, "split": training.train}
        config.data.classes = len(self._sources[training.task, training.train].classes)
        config.evals = {EVAL: {"kind": "accuracy", "source": {**source, "split": training.test}, "at": (1,)}}
        config.init.checkpoints = ({"checkpoint": self._checkpoint, "paths": {"image_tower": "image_tower"}},)
        return config

    def _score(self, training: Training) -> float:
        """The accuracy, after the training if it is not done; DIVERGED where its steps were not finite."""
        config = self._config_of(training)
        found = self._read(config, training.folder)
        if math.isnan(found):
            begun = time.monotonic()
            try:
                if self._train(config, training.folder) == PREEMPTED:
                    raise Preempted
            except Diverged as error:
                files.write_json(training.folder / "diverged.json", {"reason": str(error)})
            found = self._read(config, training.folder)
            self._seconds.append(time.monotonic() - begun)
        if files.is_writer():  # of large towers a thousand checkpoints would be too many
            for folder in training.folder.glob("**/checkpoints"):
                shutil.rmtree(folder)
        self._passed += 1
        return found

    def _read(self, config: Config, folder: Path) -> float:
        """What stands in the folder of a training, the same on all processes: nan where it is not done."""
        found = math.nan
        if files.is_writer():
            done = stage_configs(config, folder)[-1][1] / "eval.json"
            if done.exists():
                found = next(row["value"] for row in json.loads(done.read_text()) if row["name"] == f"{EVAL}/top1")
            elif (folder / "diverged.json").exists():
                found = DIVERGED
        if jax.process_count() > 1:  # as two halves: jax has no f64
            found = float(multihost_utils.broadcast_one_to_all(np.array([found]).view(np.uint32)).view(np.float64)[0])
        return found

    def _stamp(self) -> dict[str, Any]:
        """What the results are of. Refuses to continue a sweep of something else."""
        model = load(self._checkpoint)
        facts = {"checkpoint": self._checkpoint, "weights": weights.digest(model.params, model.model_state)}
        whole: Config = ConfigDict(configs.plain(self._config) | {"model": facts, "search": self._search})
        configs.refuse_other(whole, self._workdir / "config.json")
        files.check_writable(self._workdir)
        files.write_json(self._workdir / "config.json", configs.plain(whole))
        protocol = (
            f"VTAB-1k: top-1 accuracy on the whole test split, mean and standard deviation (n - 1) of {self._runs} "
            f"run(s) on train800val200 from seeds of their own; settings by random search, {self._trials} trial(s) a "
            "task on train800, the best on val200; all tasks weigh alike"
        )
        return facts | {"protocol": protocol}

    def _tell(self, text: str) -> None:
        """A line on screen, with the time that is left."""
        left = len(self._tasks) * (self._trials + self._runs) - self._passed
        if self._seconds:
            text += f"; {duration(left * sum(self._seconds) / len(self._seconds))} left for {left} trainings"
        if files.is_writer():
            print(text, file=sys.stderr)


def _percent(score: float) -> str:
    return "diverged" if score == DIVERGED else f"{100 * score:.2f} %"


def main(_: list[str]) -> int:
    """Checks the flags."""
    options, config, workdir = flags.FLAGS, trainer.CONFIG.value, trainer.checked_workdir()
    facts = {"workdir": str(workdir.absolute()), "tasks": options.tasks, "trials": options.trials, "runs": options.runs}
    # Hosts that do not see the same folder would go on from different steps.
    facts["files of trainings"] = sorted(map(str, [*workdir.glob("**/checkpoints/*"), *workdir.glob("**/eval.json")]))
    start(configs.flat(configs.plain(config)) | facts, seconds=trainer.WAIT.value)
    sweep = Sweep(
        config, workdir, checkpoint=options.checkpoint, tasks=options.tasks, trials=options.trials, runs=options.runs
    )
    try:
        table = sweep.run()
    except Preempted:
        return PREEMPTED
    if files.is_writer():
        print(table)
    return 0


if __name__ == "__main__":
    flags.adopt_module_key_flags(trainer)  # --config, --workdir and --wait
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("checkpoint", None, "a run or an export of ALIGN, whose image tower is tested", required=True)
    flags.DEFINE_list("tasks", list(TASKS), "those of VTAB to take")
    flags.DEFINE_integer("trials", 50, "of the search, for each task", 1)
    flags.DEFINE_integer("runs", 3, "of the best trial, with a seed each", 1)
    main_of(main)
