"""The order of a curation: read (A), embed where a checkpoint is asked, judge (B), write (C), report.

Each step finds what it has finished, also after a SIGKILL, and does the rest.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from align_jax.config import Config, flat, plain
from align_jax.curation import embeddings, inputs, layout, measures, report, settings, shards
from align_jax.curation.candidates import Candidates
from align_jax.curation.embeddings import Embedder
from align_jax.curation.facts import Reader
from align_jax.curation.layout import RAW
from align_jax.curation.settings import Settings
from align_jax.data import source as sources
from align_jax.data.source import Source
from align_jax.types import AlignError


def curate(
    config: Config,
    workdir: Path,
    *,
    load: Callable[[str], Embedder],
    beam: Sequence[str] = (),
    workers_see: str = "",
) -> None:
    """From raw pairs to clean shards and a report, in `workdir`.

    Args:
      load: from `config.checkpoint` to a model; called only where a rule needs it.
      beam: options of Apache Beam for step B, which runs in this process without any.
      workers_see: the work directory as workers of step B name it; by default as here.
    """
    chosen = settings.of(config)
    source = sources.make(**chosen.source)
    evaluation = [sources.make(**options) for options in chosen.evaluation]
    started_with = {
        workdir / "config.json": flat(plain(config)),
        workdir / "inputs.json": inputs.of(chosen, source, evaluation),
    }
    for path, found in started_with.items():
        layout.refuse_other(path, found, settings.FREE)
    if (workdir / "report.json").exists() and _shards_stand(workdir):
        print(f"{workdir}: all is done; see {workdir / 'report.html'}")
        return
    # Hours of reading come first: what later steps would refuse is refused before.
    run = _Run(chosen, workdir, source, evaluation)
    if not run.is_judged():
        from align_jax.curation import pipeline  # seconds, and only this step needs Beam

        pipeline.options(beam)
    model = load(chosen.checkpoint) if run.to_embed() else None
    with layout.alone(workdir):
        for path, found in started_with.items():
            layout.write_json(path, found)
        run.read()
        if model is not None:
            run.embed(model)
        run.judge(beam, workers_see or str(workdir.absolute()))
        run.write()
        report.write(workdir, chosen, source, run.facts)


class _Run:
    """The steps, with the names of their files."""

    def __init__(self, chosen: Settings, workdir: Path, source: Source, evaluation: Sequence[Source]):
        self._chosen, self._workdir = chosen, workdir
        self._readers = {RAW: _raw_reader(chosen, source)}
        for i, each in enumerate(evaluation):
            no_columns = measures.Columns("", (), each)
            self._readers[f"work/evaluation-{i}"] = Reader(each, chosen.resize, Candidates(), no_columns, {}, {})
        self.facts = {  # set -> folder of each shard
            name: [workdir / name / piece for piece in layout.pieces(len(reader.source), chosen.records_per_shard)]
            for name, reader in self._readers.items()
        }
        self._keep = [workdir / "keep" / f"{folder.name}.parquet" for folder in self.facts[RAW]]
        self._judged = workdir / "work" / "judged.json"
        self._known = workdir / "work" / "known.npz"

    def read(self) -> None:
        """Step A: facts and resized pictures of all sources."""
        work = [(len(rows), folder, self._readers[name], rows) for name, folder, rows in self._shards()]

        def one(folder: Path, reader: Reader, rows: range) -> None:
            with layout.whole(folder) as partial:
                reader.read(rows, partial)

        self._each("read", work, one, self._chosen.threads)

    def to_embed(self) -> bool:
        """Whether a rule needs the checkpoint, and its work is not done."""
        embedded = all(self._embedded(folder).exists() for _, folder, _ in self._shards())
        return self._chosen.embedded and not (embedded and (self._known.exists() or not self._chosen.searched))

    def embed(self, model: Embedder) -> None:
        """With a checkpoint: embeddings of all pictures, and scores of the texts where a rule reads them."""
        work = [
            (len(rows), self._embedded(folder), folder, self._chosen.scored and name == RAW)
            for name, folder, rows in self._shards()
        ]

        def one(target: Path, folder: Path, scored: bool) -> None:
            with layout.whole(target) as partial:
                embeddings.embed(model, folder, partial, texts=scored)

        self._each("embed", work, one, threads=1)
        if self._chosen.searched:
            search = self._chosen.search
            share = -(-search.sample // len(self.facts[RAW]))
            sample = [_units(self._embedded(folder))[:share] for folder in self.facts[RAW]]
            evaluation = [_units(self._embedded(folder)) for folder in self._evaluation()]
            with self.timed("cluster"), layout.whole(self._known) as partial:
                embeddings.save_known(partial, np.concatenate(evaluation), np.concatenate(sample), search)

    def is_judged(self) -> bool:
        """Whether step B is done."""
        return self._judged.exists() and all(path.exists() for path in self._keep)

    def judge(self, beam: Sequence[str], root: str) -> None:
        """Step B: a keep-list for each shard."""
        from align_jax.curation import pipeline

        if self.is_judged():
            return
        chosen, rules = self._chosen, self._chosen.rules
        evaluation = self._evaluation() if "evaluation_pictures" in rules.order else []
        job = pipeline.Job(
            root, [folder.name for folder in self.facts[RAW]], RAW,
            [str(folder.relative_to(self._workdir)) for folder in evaluation],
            f"{RAW}-embedded" if chosen.embedded else "", chosen.scored, "work/known.npz" if chosen.searched else "",
            rules, chosen.search, chosen.counting.top_ngrams, chosen.counting.buckets,
        )  # fmt: skip
        with self.timed("judge"):
            pipeline.run(job, beam)
        layout.write_json(self._judged, {"shards": len(job.shards)})

    def write(self) -> None:
        """Step C: the shards."""
        chosen = self._chosen
        places = shards.Places(self._keep, self.facts[RAW])
        if not len(places):
            raise AlignError(f"config.rules: expected to keep a record, found none; {self._workdir / 'keep'} says why")
        ranges = layout.split(len(places), chosen.output.records_per_shard)
        names = layout.pieces(len(places), chosen.output.records_per_shard)
        work = [
            (len(rows), self._workdir / "shards" / f"shard-{name}.{chosen.output.ending}", rows)
            for name, rows in zip(names, ranges, strict=True)
        ]

        def one(path: Path, rows: range) -> None:
            with layout.whole(path) as partial:
                shards.write(partial, places.read(rows), chosen.output, chosen.resize)

        self._each("write", work, one, chosen.threads)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds a line to work/seconds.jsonl; a step that was killed left none."""
        start = time.perf_counter()
        yield
        path = self._workdir / "work" / "seconds.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": time.perf_counter() - start}) + "\n")

    def _shards(self) -> Iterator[tuple[str, Path, range]]:
        """(set, folder of its facts, records) of all shards."""
        for name, reader in self._readers.items():
            for folder, rows in zip(
                self.facts[name], layout.split(len(reader.source), self._chosen.records_per_shard), strict=True
            ):
                yield name, folder, rows

    def _evaluation(self) -> list[Path]:
        return [folder for name, folders in self.facts.items() if name != RAW for folder in folders]

    def _embedded(self, folder: Path) -> Path:
        return folder.parent.with_name(f"{folder.parent.name}-embedded") / folder.name

    def _each(self, step: str, work: Sequence[tuple], one: Callable[..., None], threads: int) -> None:
        """`one(target, ..)` of each (size, target, ..) whose target is not there, with a bar."""
        left = [item for item in work if not item[1].exists()]
        if not left:
            return
        total, rest = sum(size for size, *_ in work), sum(size for size, *_ in left)
        bar = tqdm(total=total, initial=total - rest, desc=step, unit="record", disable=None)
        with self.timed(step), bar, ThreadPoolExecutor(threads) as pool:
            running = {pool.submit(one, *item[1:]): item[0] for item in left}
            try:
                for future in as_completed(running):
                    future.result()
                    bar.update(running[future])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _raw_reader(chosen: Settings, source: Source) -> Reader:
    """With the columns and functions of the user."""
    classifiers = {
        name: measures.function(path, f"config.measures.{name}") for name, path in chosen.chosen("function").items()
    }
    language_column, identify = (chosen.languages.get(kind, "") for kind in ("column", "function"))
    names = [*chosen.candidates.columns, *chosen.chosen("column").values(), *filter(None, [language_column])]
    return Reader(
        source, chosen.resize, chosen.candidates, measures.Columns(chosen.columns, names, source),
        chosen.chosen("column"), classifiers, language_column,
        measures.function(identify, "config.languages") if identify else None,
    )  # fmt: skip


def _units(folder: Path) -> np.ndarray:
    """Embeddings of the readable pictures of a shard, f32 [n, D]."""
    rows = np.load(folder / "images.npy")
    return rows[np.any(rows != 0, axis=1)]


def _shards_stand(workdir: Path) -> bool:
    listed = json.loads((workdir / "report.json").read_text())["shards"]
    return all((workdir / "shards" / name).exists() for name in listed)
