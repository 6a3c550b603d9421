"""Step B: what is global, as an Apache Beam pipeline over the sidecars, into one keep-list per shard.

The same pipeline runs embedded, on Dataflow, Flink or Spark. Its elements are whole tables: counts as sorted arrays of
64-bit hashes, cut into buckets by hash, so that each stage moves a few large elements and not one for each word. What
it finds reaches the shards as side inputs: the top n-grams are 8 bytes each (800 MB for ALIGN's 100 million), texts and
pictures are named only where they are over their limit, and evaluation pictures are few.

Files are read and written by Beam's own file systems, so `root` may be a bucket as the workers see it.
"""

import dataclasses
import functools
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.config import nearest
from align_jax.curation import embeddings, judging, ngrams
from align_jax.curation.judging import World
from align_jax.curation.ngrams import Counts
from align_jax.curation.perceptual import NearHashes
from align_jax.curation.rules import Rules, Verdict
from align_jax.types import AlignError

logging.disable(logging.WARNING)  # Beam tells of each cloud package that is not there
try:
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsSingleton
except ImportError as error:
    raise AlignError('curate: expected apache-beam; run: pip install "align-jax[curate]"') from error
finally:
    logging.disable(logging.NOTSET)

# What Beam calls DirectRunner first tries to download and start Prism, a binary. This is the engine it falls back to.
EMBEDDED = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
Bucket = tuple[int, np.ndarray]
Collection = Any  # a PCollection; Beam types what `|` gives as less than that


@dataclasses.dataclass(frozen=True)
class Job:
    """What the workers are told."""

    root: str  # the work directory, as they see it
    shards: Sequence[str]  # names of the shards of raw records
    facts: str  # folders under the root: facts of the raw records
    evaluation: Sequence[str]  # of each shard of evaluation pictures
    embedded: str  # embeddings of the raw records, or ""
    scored: bool  # whether they come with scores of the texts
    known: str  # what embeddings.save_known wrote, or ""
    rules: Rules
    search: embeddings.Search
    top_ngrams: int
    buckets: int  # parts into which the counts are cut


def options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options, the runner named. AlignError for an option that Beam does not know."""
    known = sorted(PipelineOptions([]).get_all_options(retain_unknown_options=False))
    for argument in arguments:
        name = argument.removeprefix("--").split("=")[0]
        if not argument.startswith("--") or name.removeprefix("no_") not in known:
            raise AlignError(
                f"after --: expected options of Apache Beam as --name=value, found {argument!r}; {nearest(name, known)}"
            )
    found = PipelineOptions(list(arguments))
    if found.get_all_options()["runner"] in (None, "DirectRunner"):
        found = PipelineOptions([*arguments, f"--runner={EMBEDDED}"])
    return found


def run(job: Job, arguments: Sequence[str]) -> None:
    """Writes <root>/keep/<shard>.parquet of every shard; waits for the end."""
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with beam.Pipeline(options=options(arguments)) as pipeline:
        build(pipeline, job)


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """The pipeline, read top to bottom."""
    rules = job.rules
    shards = pipeline | "shards" >> beam.Create(list(job.shards)) | beam.Reshuffle()
    frequent = _frequent(shards, job)
    pairs = shards | "pairs" >> beam.Map(functools.partial(_pairs, job))
    texts_of = _crowds(pairs, "texts of a picture", 1, job, rules.threshold("texts_per_image", "at_most"))
    images_of = _crowds(pairs, "pictures of a text", 0, job, rules.threshold("shared_text", "at_most"))
    evaluation = (
        pipeline
        | "evaluation shards" >> beam.Create(list(job.evaluation))
        | "evaluation hashes" >> beam.Map(functools.partial(_hashes, job))
        | "all evaluation hashes" >> beam.CombineGlobally(_united)
    )
    judged = shards | "judge" >> beam.Map(
        functools.partial(_judge, job),
        frequent=AsSingleton(frequent), texts_of=AsSingleton(texts_of), images_of=AsSingleton(images_of),
        evaluation=AsSingleton(evaluation),
    )  # fmt: skip
    kept = judged | "kept pairs" >> beam.Map(functools.partial(_kept_pairs, job))
    described = _crowds(kept, "kept pictures of a text", 0, job, rules.threshold("shared_description", "at_most"))
    _ = judged | "write" >> beam.Map(functools.partial(_write, job), described=AsSingleton(described))


def _frequent(shards: Collection, job: Job) -> Collection:
    """One array: hashes of the `top_ngrams` most frequent unigrams and bigrams, rising; empty where no rule asks."""
    asked = {"rare_ngrams", "unknown_words"} & set(job.rules.order)
    counts = (
        shards
        | "n-grams" >> beam.FlatMap(functools.partial(_ngrams, job) if asked else _nothing)
        | "count n-grams" >> beam.CombinePerKey(ngrams.merged)
        | "n-gram counts" >> beam.Values()
    )
    least = (
        counts
        | "count counts" >> beam.Map(lambda part: ngrams.counted(part.counts))
        | "all counts" >> beam.CombineGlobally(ngrams.merged)
        | "least count" >> beam.Map(ngrams.least_frequent, job.top_ngrams)
    )
    return (
        counts
        | "frequent" >> beam.Map(lambda part, least: part.above(least - 1).keys, AsSingleton(least))
        | "all frequent" >> beam.CombineGlobally(_united)
    )


def _crowds(pairs: Collection, name: str, column: int, job: Job, at_most: int | None) -> Collection:
    """One Counts: which member of `column` of (text, picture) pairs has more than `at_most` distinct partners."""
    return (
        pairs
        | f"{name}: cut"
        >> beam.FlatMap(functools.partial(_cut, column, job.buckets) if at_most is not None else _nothing)
        | f"{name}: distinct" >> beam.CombinePerKey(_distinct)
        | f"{name}: count" >> beam.MapTuple(lambda _, found: ngrams.pair_counts(found).above(at_most or 0))
        | f"{name}: all" >> beam.CombineGlobally(ngrams.merged)
    )


def _cut(column: int, buckets: int, pairs: np.ndarray) -> Iterator[Bucket]:
    """Pairs by the hash of one member, which comes first."""
    pairs = pairs if column == 0 else pairs[:, ::-1]
    places = pairs[:, 0] % np.uint64(buckets)
    for bucket in np.unique(places).tolist():
        yield bucket, pairs[places == bucket]


def _ngrams(job: Job, shard: str) -> Iterator[tuple[int, Counts]]:
    keys, counts = np.load(_opened(job, job.facts, shard, "ngrams.npy"))
    places = keys % np.uint64(job.buckets)
    for bucket in np.unique(places).tolist():
        here = places == bucket
        yield bucket, Counts(keys[here], counts[here].astype(np.int64))


def _nothing(_: object) -> Iterator[tuple[int, Any]]:
    return iter(())


def _pairs(job: Job, shard: str) -> np.ndarray:
    return judging.pairs(_records(job, shard))


def _kept_pairs(job: Job, judged: tuple[str, list[Verdict]]) -> np.ndarray:
    return judging.kept_pairs(_records(job, judged[0]), judged[1])


def _hashes(job: Job, folder: str) -> np.ndarray:
    records = pq.read_table(_opened(job, folder, "records.parquet"), columns=["phash", "reason"])
    good = np.array([not reason for reason in records["reason"].to_pylist()], bool)
    return records["phash"].to_numpy()[good]


def _united(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))


def _distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros((0, 2), np.uint64), *parts]), axis=0)


def _judge(
    job: Job, shard: str, *, frequent: np.ndarray, texts_of: Counts, images_of: Counts, evaluation: np.ndarray
) -> tuple[str, list[Verdict]]:
    bits = job.rules.threshold("evaluation_pictures", "bits")
    world = World(
        frequent, texts_of, images_of,
        NearHashes(evaluation, bits) if bits is not None and len(evaluation) else None,
        _known(job.root, job.known, job.search) if job.known else None,
    )  # fmt: skip
    images = scores = None
    if job.embedded:
        images = np.load(_opened(job, job.embedded, shard, "images.npy"))
    if job.scored:
        scores = pq.read_table(_opened(job, job.embedded, shard, "scores.parquet"))["scores"].to_pylist()
    return shard, judging.judge(_records(job, shard), job.rules, world, images, scores)


def _write(job: Job, judged: tuple[str, list[Verdict]], *, described: Counts) -> None:
    shard, verdicts = judged
    records = _records(job, shard)
    table = judging.keep_list(records, judging.describe(records, job.rules, verdicts, described))
    path = FileSystems.join(job.root, "keep", f"{shard}.parquet")
    with FileSystems.create(path) as file:
        pq.write_table(table, file)


def _records(job: Job, shard: str) -> pa.Table:
    return pq.read_table(_opened(job, job.facts, shard, "records.parquet"))


def _opened(job: Job, *parts: str) -> io.BytesIO:
    with FileSystems.open(FileSystems.join(job.root, *parts)) as file:
        return io.BytesIO(file.read())


@functools.lru_cache(maxsize=1)  # once in each worker, not for each shard
def _known(root: str, path: str, search: embeddings.Search) -> embeddings.NearEmbeddings:
    with FileSystems.open(FileSystems.join(root, path)) as file:
        return embeddings.load_known(file.read(), search)
