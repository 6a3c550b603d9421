"""From a config to the parts of a run. Everything that can be wrong in a config is found here, before a compilation."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax

from align_jax import code, evals, features, files, optim, sharding, tasks
from align_jax import config as configs
from align_jax import state as states
from align_jax.checkpoint import Checkpoints
from align_jax.config import Config
from align_jax.data import source as sources
from align_jax.data.examples import KINDS, Examples
from align_jax.data.feature_rows import FeatureRows
from align_jax.data.pairs import Pairs
from align_jax.data.pipeline import Stream
from align_jax.data.skips import SkipLog
from align_jax.evals.embedding import Embedder
from align_jax.hosts import place as places
from align_jax.metrics import Recorder
from align_jax.optim import Optimizer
from align_jax.state import TrainState
from align_jax.types import AlignError, Batch, Evaluator, Params, Task
from align_jax.watch.doctor import Doctor
from align_jax.watch.non_finite import NonFinite
from align_jax.watch.watch import Watch
from align_jax.weights import Weights, sizes

WATCH = ("non_finite", "minutes")
READING = ("source", "shuffle", "shuffle_window", "threads", "prefetch", "max_bad_share")  # besides the examples' own


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of one run, or of one stage of it."""

    config: Config
    workdir: Path
    mesh: jax.sharding.Mesh
    pairs: Examples  # an image and what goes with it
    task: Task
    optimizer: Optimizer
    embedder: Embedder

    def stream(self, source: sources.Source) -> "Rows":
        """This process's training rows."""
        data = self.config.data
        rows = sharding.local_rows(self.mesh, self.config.batch_size)
        self.task.check(self.config.batch_size // self.mesh.size)
        if self.config.data.threads < 1 or self.config.data.prefetch < 1:
            raise AlignError(
                f"config.data: expected threads and prefetch of at least 1, found {data.threads}, {data.prefetch}"
            )
        stream = Stream(
            source, self.pairs.train, self.config.batch_size, rows, self.config.steps, self.config.seed,
            shuffle=data.shuffle, window=data.shuffle_window, threads=data.threads, prefetch=data.prefetch,
        )  # fmt: skip

        own = f"-{jax.process_index()}" if jax.process_count() > 1 else ""  # each process reads rows of its own
        return Rows(stream, SkipLog(self.workdir / f"skipped{own}.jsonl", max_share=data.max_bad_share))

    def on_features(self, rows: "Rows", state: TrainState) -> "Rows":
        """The same rows, of features that the frozen towers of `state` make once of the whole source."""
        begun, source = time.monotonic(), rows.stream.source
        found = features.compute(self.embedder, state.params, state.model_state, source, self.config, self.workdir)
        if files.is_writer():
            print(f"{self.workdir}: features of {len(found.images):,} images and {len(found.texts):,} texts, in "
                  f"{time.monotonic() - begun:.1f} s", file=sys.stderr)  # fmt: skip
        table = FeatureRows(source, cast(Pairs, self.pairs), found)
        return dataclasses.replace(rows, stream=dataclasses.replace(rows.stream, source=table, transform=table.train))

    def doctor(self) -> Doctor:
        """What looks for the usual faults in the logged numbers."""
        low, high = self.optimizer.bounds_of("log_temperature")
        bounds = (None if low is None else math.exp(low), None if high is None else math.exp(high))
        return Doctor(chance=self.task.chance(self.config.batch_size), bounds=bounds)

    def watch(self, recorder: Recorder, rows: "Rows", state: TrainState) -> Watch:
        """What watches over the training of `state`."""
        non_finite = NonFinite(
            self.workdir / "replay", limit=self.config.watch.non_finite,
            parameters=self.optimizer.trained(state.params), ids=rows.ids, tell=recorder.event,
            facts={"seed": self.config.seed, "rng": jax.random.key_data(state.rng).tolist(),
                   "batch_size": self.config.batch_size, "code": code.digest()},
        )  # fmt: skip
        return Watch(
            self.workdir, recorder, non_finite, minutes=self.config.watch.minutes, metadata=places.metadata_server()
        )  # fmt: skip

    def evaluators(self, sections: Mapping[str, Any], folder: Path) -> dict[str, Evaluator]:
        """Evaluators by name, with their sources opened; their files go to `folder`."""
        from align_jax.loading import load  # which imports this module

        made = evals.make(sections, self.embedder, functions=self.task.functions(), workdir=folder, load=load)
        return dict(zip(sections, made, strict=True))

    def due(self, step: int) -> list[str]:
        """The names of `config.evals` that take place after `step` steps."""
        every = evals.schedule(self.config.evals, default=self.config.evaluate_every)
        return [name for name, steps in every.items() if steps and step % steps == 0]

    def weights(self, state: TrainState) -> Weights:
        """What is evaluated of a state: the averaged weights where they are kept."""
        return Weights(
            self.optimizer.averaged(state.params, state.opt_state), state.model_state,
            path=self.workdir / "checkpoints" / str(int(state.step)), step=int(state.step),
            averaged=self.optimizer.ema is not None,
        )  # fmt: skip

    def fresh(self) -> TrainState:
        """A new state on the devices."""
        return states.create(
            self.task, self.optimizer, self.task.dummy_batch(1), seed=self.config.seed, mesh=self.mesh
        )  # fmt: skip

    def shapes(self) -> TrainState:
        """What a state looks like, and where its parts live."""
        return states.abstract(self.task, self.optimizer, self.task.dummy_batch(1), mesh=self.mesh)

    def restored(self, step: int | None = None) -> TrainState:
        """The state of a finished checkpoint in the work directory, by default the last."""
        with Checkpoints(self.workdir / "checkpoints", **self.config.checkpoint) as checkpoints:
            if checkpoints.latest() is None:
                raise AlignError(
                    f"{self.workdir}: expected a finished checkpoint in checkpoints/, found none; train first"
                )
            return checkpoints.restore(self.shapes(), step)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The training rows of one process."""

    stream: Stream
    skips: SkipLog

    def batches(self, start: int) -> Iterator[Batch]:
        """From step `start` on; what is skipped is written down as it is consumed."""
        self.skips.resume(start, len(self.stream.rows))
        for step, (batch, skips) in enumerate(self.stream.from_step(start), start):
            self.skips.add(step, len(self.stream.rows), skips)
            yield batch

    def ids(self, step: int) -> list[str]:
        """Of the records at `step`."""
        return self.stream.ids(step)


def prepare(config: Config, workdir: Path, source: sources.Source | None, *, vocabulary: Path | None = None) -> Run:
    """Builds the parts; `source` gives the vocabulary, or the classes, that do not stand in `workdir` yet.

    `vocabulary`: that of the text tower which the run starts from, for a config that names none.
    """
    parts = _built(config, workdir, source, vocabulary)
    if source is not None:
        for name, save in parts.pairs.files().items():
            files.write(workdir / name, save)
    return parts


def check(config: Config, workdir: Path, source: sources.Source) -> None:
    """Refuses what `prepare`, and a stream of the source, would refuse; writes nothing."""
    _built(config, workdir, source, None).stream(source)


def _built(config: Config, workdir: Path, source: sources.Source | None, vocabulary: Path | None) -> Run:
    data = config.data.to_dict()
    if vocabulary is not None and not data["vocab"].get("path"):
        data["vocab"]["path"] = str(vocabulary)
    make_examples, given = KINDS[tasks.examples(config)], {"source": source, "folder": workdir}
    known, needed = configs.keywords(make_examples, given)
    configs.check_keys(data, (*READING, *known), (*READING, *needed), where="config.data")
    configs.check_keys(config.watch, WATCH, WATCH, where="config.watch")
    if config.watch.minutes <= 0 or config.watch.non_finite < 1:
        raise AlignError(
            "config.watch: expected minutes above 0 and non_finite of at least 1, found "
            f"{config.watch.minutes} and {config.watch.non_finite}"
        )
    best = config.checkpoint.get("best", "")
    every = evals.schedule(config.evals, default=config.evaluate_every)
    if best and not every.get(best.split("/")[0]):
        scheduled = sorted(name for name, steps in every.items() if steps)
        raise AlignError(
            "config.checkpoint.best: expected a result of an evaluator of config.evals that takes place during "
            f"training ({scheduled or 'none does: set config.evaluate_every'}), found {best!r}"
        )
    mesh, task, optimizer = _trained(config)
    pairs = make_examples(**given, **{key: value for key, value in data.items() if key not in READING})
    computes = json.dumps(configs.plain(config.task), sort_keys=True)
    embedder = Embedder(
        task.functions(), pairs, mesh=mesh, batch_size=min(config.batch_size, 256), computes=computes
    )  # fmt: skip
    return Run(config, workdir, mesh, pairs, task, optimizer, embedder)


def abstract(config: Config) -> TrainState:
    """What the state of a run of this config looks like; costs no memory, and needs no data."""
    mesh, task, optimizer = _trained(config)
    with jax.set_mesh(mesh):
        return states.abstract(task, optimizer, task.dummy_batch(1), mesh=mesh)


def _trained(config: Config) -> tuple[jax.sharding.Mesh, Task, Optimizer]:
    mesh = configs.call(sharding.make_mesh, config.mesh, where="config.mesh")
    task = tasks.make(config)
    optimizer = configs.call(
        optim.make, config.optim, where="config.optim", steps=config.steps, freeze=(*config.freeze, *task.locked)
    )
    return mesh, task, optimizer


def describe(params: Params) -> str:
    """One line about the size of a model."""
    found = sizes(params)
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in found.items() if count > 1)
    return f"{sum(found.values()) / 1e6:.2f} M parameters: {parts}"
