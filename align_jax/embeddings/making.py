"""Makes the embeddings of a source: reading, computing and writing at the same time, part by part."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from align_jax import config as configs
from align_jax import files
from align_jax.data.examples import Examples
from align_jax.data.source import BadExample, Record, Source
from align_jax.embeddings.layout import Facts, Layout, claim, data_digest
from align_jax.embeddings.parts import Part, Piece
from align_jax.evals.embedding import COMPUTED_AHEAD, READ_AHEAD, READERS, begun
from align_jax.model import Model
from align_jax.weights import digest

CAPTIONS = ("first", "all", "none")
DTYPES = ("float32", "float16")
PART = 2**16  # records of a part by default: a file of 168 MB at 640 numbers of 4 bytes
SAVED_EVERY = 60.0  # seconds of work that a kill may cost
CACHED = 32  # pictures for each device that is a processor: with more, what is computed leaves its cache


def facts_of(
    model: Model,
    source: Source,
    options: Mapping[str, Any],
    *,
    captions: str = "first",
    dtype: str = "float32",
    part_size: int = PART,
) -> Facts:
    """What a folder with the embeddings of the source of `options` is known by.

    Args:
      captions: of CAPTIONS; the facts have "none" where the model or the source has no texts.
      dtype: of DTYPES. float32 gives the scores that the model gives; float16, clip-retrieval's own, half the size.
      part_size: records of a part.
    """
    if "embed_texts" not in model.functions or next(iter(source.texts()), None) is None:
        captions = "none"
    return Facts(
        weights=digest(model.params, model.model_state), data=data_digest(source, configs.plain(options)),
        records=len(source), captions=captions, dtype=dtype, part_size=part_size,
    )  # fmt: skip


def embed_source(
    model: Model,
    source: Source,
    out: Path,
    *,
    facts: Facts,
    batch_size: int | None = None,
    threads: int = READERS,
    process: int = 0,
    processes: int = 1,
    flag: str = "--out",
) -> "Speed":
    """Writes what is not there yet of the parts `process`, `process` + `processes`, ... of a folder of embeddings.

    Processes that jax has joined, for one run of many, make every part together, and the first of them writes.

    Args:
      facts: of `facts_of`, for this model and source.
      batch_size: pictures that all devices take at a time; by default as in evaluation, or CACHED on processors.
      threads: that read pictures; over a network it takes more than there are cores.
      flag: where `out` comes from, as an AlignError names it that refuses a folder of something else.

    A picture that cannot be read has no row, nor has one without a caption where captions are read: both are counted
    and listed in left_out/. What is left out of the texts is counted.
    """
    layout = claim(out, facts, flag=flag, process=process) if files.is_writer() else Layout(out, facts)
    parts = [Part(layout, number) for number in range(process, facts.parts, processes)]
    reader = _Reader(source, model.embedder.pairs, facts.captions)
    if batch_size is None:
        most = CACHED * model.mesh.size if jax.default_backend() == "cpu" else model.embedder.batch_size
        batch_size = min(most, model.embedder.batch_size)
    making = _Making(model, reader, np.dtype(facts.dtype), batch_size, threads)
    with jax.set_mesh(model.mesh):
        return making.make(parts, title=f"embedding into {out}")


@dataclasses.dataclass
class Speed:
    """How fast it went, and what it waited for. Reading, the devices and writing go on at the same time."""

    pictures: int = 0
    texts: int = 0
    seconds: float = 0.0
    waited: dict[str, float] = dataclasses.field(default_factory=dict)  # what for -> seconds

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Counts the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited[name] = self.waited.get(name, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        if not self.pictures:
            return "nothing was left to embed"
        rate = f"{self.pictures / self.seconds:,.1f} pictures/s"
        rate += f", {self.texts / self.seconds:,.1f} texts/s" if self.texts else ""
        waits = ", ".join(f"{100 * spent / self.seconds:.0f} % for {name}" for name, spent in self.waited.items())
        return f"{self.pictures:,} pictures and {self.texts:,} texts in {self.seconds:,.1f} s: {rate}; waited {waits}"


@dataclasses.dataclass(frozen=True)
class _Read:
    """What becomes of one record."""

    record: Record
    pixels: np.ndarray | None  # uint8 [H, H, 3]
    reason: str  # why it has no row
    texts: Sequence[tuple[str, Mapping[str, np.ndarray]]]  # and what the model reads of each, one row
    texts_left_out: Counter[str]


class _Reader:
    """Reads records, in many threads."""

    def __init__(self, source: Source, examples: Examples, captions: str):
        self.captions, self.classes = captions, source.classes
        self.blank = examples.blank()["image"]
        self._source, self._examples = source, examples

    def __call__(self, row: int) -> _Read:
        try:
            record = self._source[row]
            pixels = self._examples.image(record.image)
        except BadExample as error:
            record = self._without_picture(row)
            texts = len(record.texts) if self.captions != "none" else 0
            return _Read(record, None, str(error), (), Counter({"of pictures left out": texts} if texts else {}))
        record = dataclasses.replace(record, image=record.image if isinstance(record.image, str) else "")
        if self.captions == "none":
            return _Read(record, pixels, "", (), Counter())
        texts, left_out = self._texts(record.texts)
        return _Read(record, pixels if texts else None, "" if texts else "caption missing", texts, left_out)

    def _without_picture(self, row: int) -> Record:
        try:
            return self._source.about(row)
        except BadExample:  # its texts cannot be read either
            name = str(self._source.ids()[row])
            return Record(name, "", (), name)

    def _texts(self, texts: Sequence[str]) -> tuple[list[tuple[str, Mapping[str, np.ndarray]]], Counter[str]]:
        found: list[tuple[str, Mapping[str, np.ndarray]]] = []
        left_out: Counter[str] = Counter()
        for text in texts:
            if found and self.captions == "first":
                left_out["after the first"] += 1
                continue
            try:
                found.append((text, self._examples.texts([text])))
            except ValueError:  # blanks, or only characters that are no word
                left_out["without a word"] += 1
        return found, left_out


class _Batch(NamedTuple):
    """Some records of a part on the devices."""

    part: Part
    rows: range  # of the source
    records: list[_Read]
    images: Callable[[], np.ndarray]
    texts: list[Callable[[], np.ndarray]]


class _Making:
    """The pipeline: `READ_AHEAD` batches are read while `COMPUTED_AHEAD` are on the devices and one is written."""

    def __init__(self, model: Model, reader: _Reader, dtype: np.dtype, batch_size: int, threads: int):
        self._model, self._embedder, self._reader, self._dtype = model, model.embedder, reader, dtype
        self._batch_size, self._threads = batch_size, threads
        self._speed = Speed()

    def make(self, parts: Sequence[Part], *, title: str) -> Speed:
        """Goes on with each part where it stands."""
        # As the writing process finds them: others may see its files late, or not at all.
        done = multihost_utils.broadcast_one_to_all(np.array([part.next - part.records.start for part in parts]))
        begin = time.perf_counter()
        for part, count in zip(parts, done.tolist(), strict=True):
            if count == len(part.records) and not part.done and files.is_writer():
                part.finish()  # a kill came between
        work = (
            (part, range(start, min(start + size, part.records.stop)), size)
            for part, count in zip(parts, done.tolist(), strict=True)
            for size in [self._embedder.rows(len(part.records), self._batch_size)]
            for start in range(part.records.start + count, part.records.stop, size)
        )
        total = sum(len(part.records) for part in parts)
        with (
            ThreadPoolExecutor(self._threads) as pool,
            tqdm(total=total, initial=int(sum(done)), unit="picture", desc=title, disable=None) as bar,
        ):
            try:
                self._make(pool, work, bar)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self._speed.seconds = time.perf_counter() - begin
        return self._speed

    def _make(self, pool: ThreadPoolExecutor, work: Iterable[tuple[Part, range, int]], bar: tqdm) -> None:
        reading = begun(((*item, pool.map(self._reader, item[1])) for item in work), READ_AHEAD)
        saved = time.monotonic()
        for batch in begun((self._begin(*item) for item in reading), COMPUTED_AHEAD):
            piece = self._finished(batch)
            self._speed.pictures += len(batch.rows)
            self._speed.texts += sum(len(read.texts) for read in batch.records)
            bar.update(len(batch.rows))
            if not files.is_writer():
                continue
            with self._speed.waiting("writing"):
                batch.part.add(piece, batch.rows.stop)
                if batch.rows.stop == batch.part.records.stop:
                    batch.part.finish()
                elif time.monotonic() - saved > SAVED_EVERY:
                    batch.part.save()
                    saved = time.monotonic()

    def _begin(self, part: Part, rows: range, size: int, reads: Iterable[_Read]) -> _Batch:
        with self._speed.waiting("reading"):
            records = list(reads)
        with self._speed.waiting("the devices"):
            pixels = [self._reader.blank if read.pixels is None else read.pixels for read in records]
            images = self._compute("embed_images", {"image": np.stack(pixels)}, size)
            encoded = [row for read in records for _, row in read.texts]
            texts = [
                self._compute("embed_texts", _stacked(encoded[start : start + size]), size)
                for start in range(0, len(encoded), size)
            ]
        return _Batch(part, rows, [dataclasses.replace(read, pixels=None) for read in records], images, texts)

    def _compute(self, function: str, batch: Mapping[str, np.ndarray], size: int) -> Callable[[], np.ndarray]:
        return self._embedder.begin(function, self._model.params, self._model.model_state, batch, size)

    def _finished(self, batch: _Batch) -> Piece:
        with self._speed.waiting("the devices"):
            images = batch.images()
            texts = np.concatenate([images[:0], *(finished() for finished in batch.texts)])
        reader, samples, left_out, owners = self._reader, [], [], []
        for place, (row, read) in enumerate(zip(batch.rows, batch.records, strict=True)):
            record = read.record
            if read.reason:
                left_out.append({"row": row, "id": record.id, "reason": read.reason})
                continue
            sample = {
                "image_path": record.image or record.id, "id": record.id, "group": record.group, "label": record.label,
                "class": reader.classes[record.label] if record.label >= 0 else "", "row": row,
            }  # fmt: skip
            captions = [{}] if reader.captions == "none" else [{"caption": text} for text, _ in read.texts]
            samples += [sample | caption for caption in captions]
            owners += [place] * len(captions)
        return Piece(
            images[np.array(owners, np.int64)].astype(self._dtype),
            None if reader.captions == "none" else texts.astype(self._dtype),
            samples,
            left_out,
            sum((read.texts_left_out for read in batch.records), Counter()),
        )


def _stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
