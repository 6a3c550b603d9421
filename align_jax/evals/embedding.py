"""Embeds whole sources with a task's functions: in batches over the mesh, the last one padded, results on the host."""

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from align_jax import config as configs
from align_jax import sharding
from align_jax.data import source as sources
from align_jax.data.examples import Examples
from align_jax.data.source import BadExample, Source
from align_jax.types import AlignError, Batch, ModelState, Params

Function = Callable[[Params, ModelState, Batch], jax.Array]
Job = TypeVar("Job")
NAMED = 3  # unreadable images that a protocol names
SLOW = 5  # seconds after which a bar appears
READERS = os.cpu_count() or 1  # threads that decode pictures
READ_AHEAD, COMPUTED_AHEAD = 4, 2  # batches that are read, and computed, before they are asked for


class Images(Protocol):
    """Pictures, or records that hold one, by index: a list or a source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Embedder:
    """Compiles each function for batches of `batch_size` rows, and for the next power of two where there are fewer.

    Whoever starts a program of his own on the mesh holds `launch` while he does.
    """

    def __init__(
        self, functions: dict[str, Function], pairs: Examples, *, mesh: jax.sharding.Mesh, batch_size: int,
        computes: str = "",
    ):  # fmt: skip
        """`computes`: what the functions make of equal weights; results that are kept are told apart by it."""
        self.pairs, self.mesh, self.computes = pairs, mesh, computes
        self.batch_size = batch_size
        # Two programs that start at once, on some devices the one first and on some the other, wait for each other.
        self.launch = threading.Lock()
        self._opened: dict[str, Source] = {}
        self._remembered: dict[Hashable, Any] | None = None
        everywhere = sharding.replicated(mesh)  # so that each host can read the whole result

        def compiled(function: Function) -> Function:
            def call(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
                return function(sharding.whole(mesh, params), model_state, batch)

            return jax.jit(call, out_shardings=everywhere)

        self._functions = {name: compiled(function) for name, function in functions.items()}

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of what can be asked."""
        return tuple(self._functions)

    def open(self, source: Mapping[str, Any]) -> Source:
        """The source of these options; the same one for the same options, so that evaluators share it."""
        if not isinstance(source, Mapping | ConfigDict):
            raise AlignError(f"source: expected a section, as {{'name': ...}}, found {source!r}")
        key = json.dumps(configs.plain(source), sort_keys=True)
        if key not in self._opened:
            self._opened[key] = sources.make(**source)
        return self._opened[key]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Inside, with one model, what several evaluators ask for is made once: embeddings of pictures, and `once`."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives; inside `remembering`, what it gave first for this key."""
        if self._remembered is None:
            return make()
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def images(
        self,
        params: Params,
        model_state: ModelState,
        images: Images,
        *,
        function: str = "embed_images",
        remember: bool = True,
    ) -> tuple[np.ndarray, dict[int, str]]:
        """(rows f32 [n, D], {index: reason} of pictures that cannot be read; their rows are zero).

        The rows are what the task's `function` makes of the pictures: by default their embeddings, of unit length.
        `remember` False: they take no part in `remembering`.
        """
        if not remember:
            return self._images(params, model_state, images, function)
        # With the pictures themselves: the id of what is gone may be given again.
        key = (id(images), function)
        return self.once(key, lambda: (self._images(params, model_state, images, function), images))[0]

    def _images(
        self, params: Params, model_state: ModelState, images: Images, function: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        bad: dict[int, str] = {}
        batches = map(stacked, self._shown(images, bad))
        rows = self.run(function, params, model_state, batches, count=len(images))
        rows[list(bad)] = 0.0
        return rows, bad

    def unreadable(self, images: Images) -> dict[int, str]:
        """{index: reason} of pictures that cannot be read: all are, and nothing is computed."""
        bad: dict[int, str] = {}
        for _ in self._shown(images, bad):
            pass
        return bad

    def _shown(self, images: Images, bad: dict[int, str]) -> Iterator[list[dict[str, np.ndarray]]]:
        """What the model is shown of each picture, batch by batch; those that cannot be read are added to `bad`."""

        def one(index: int) -> dict[str, np.ndarray]:
            try:
                return self.pairs.visual(images[index])
            except BadExample as error:
                bad[index] = str(error)
                return self.pairs.blank()

        with ThreadPoolExecutor(READERS) as pool:
            reading = begun((pool.map(one, part) for part in self._parts(len(images))), READ_AHEAD)
            yield from map(list, reading)

    def texts(
        self, params: Params, model_state: ModelState, texts: Sequence[str], *, function: str = "embed_texts"
    ) -> np.ndarray:
        """Rows f32 [n, D] of what the task's `function` makes of texts: by default embeddings, of unit length."""
        batches = (self.read(texts[part.start : part.stop]) for part in self._parts(len(texts)))
        return self.run(function, params, model_state, batches, count=len(texts))

    def read(self, texts: Sequence[str]) -> Batch:
        """What the model reads of texts. AlignError where one has no word: a zero-width space is none."""
        try:
            return self.pairs.texts(texts)
        except ValueError as error:
            raise AlignError(f"evaluation: {error}; take it out of the data") from error

    def run(
        self, name: str, params: Params, model_state: ModelState, batches: Iterable[Batch], *,
        count: int | None = None, progress: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """Rows f32 [n, D] of what the task's function `name` makes of rows as `Examples` makes them.

        Each batch has `batch_size` rows, but for the last one. `count`: n, where it is known, for the bar. Several
        threads may call it.
        """
        self.function(name)
        total = None if count is None else -(-count // self.batch_size)
        hidden = None if progress else True  # None: where nobody looks
        shown = tqdm(batches, name, total, unit="batch", delay=SLOW, leave=False, disable=hidden)

        def computing() -> Iterator[Callable[[], np.ndarray]]:
            rows = 0
            for batch in shown:
                rows = rows or self.rows(len(next(iter(batch.values()))))  # the first is the largest
                yield self.begin(name, params, model_state, batch, rows)

        found = [finished() for finished in begun(computing(), COMPUTED_AHEAD)]
        if not found:
            raise AlignError(f"{name}: expected at least one input, found none")
        return np.concatenate(found)

    def _parts(self, count: int) -> Iterator[range]:
        return (range(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size))

    def rows(self, count: int, batch_size: int | None = None) -> int:
        """Rows of the batches in which `count` inputs are computed, by default those of `batch_size` at most."""
        rows = min(batch_size or self.batch_size, 1 << (count - 1).bit_length())
        return -(-rows // self.mesh.size) * self.mesh.size

    def begin(
        self, name: str, params: Params, model_state: ModelState, batch: Mapping[str, np.ndarray], rows: int
    ) -> Callable[[], np.ndarray]:
        """Has the devices compute a batch, padded to `rows`; what is returned waits for its rows f32 [n, D]."""
        function = self.function(name)
        own = sharding.local_rows(self.mesh, rows)
        local = {key: _padded(values, rows)[own.start : own.stop] for key, values in batch.items()}
        with self.launch:
            computing = function(params, model_state, sharding.place(self.mesh, local))
        count = len(next(iter(batch.values())))

        def finished() -> np.ndarray:
            found = np.asarray(computing, np.float32)[:count]
            if not np.isfinite(found).all():  # nothing is larger than nan: every rank would be the first
                raise AlignError(f"{name}: expected finite numbers, found nan or infinity; the weights are broken")
            return found

        return finished

    def function(self, name: str) -> Function:
        """The task's function, compiled for what it is given, its result whole on every device."""
        if name not in self._functions:
            raise AlignError(f"{name}: the model has no such function, only {sorted(self._functions)}")
        return self._functions[name]


def begun(jobs: Iterable[Job], ahead: int) -> Iterator[Job]:
    """The jobs, which begin as they are drawn, in order; `ahead` more are begun before one is given."""
    waiting: deque[Job] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch of rows."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """`rows` rows: the last one repeated."""
    return np.pad(values, [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1), mode="edge")


def protocol_of(options: Mapping[str, Any]) -> str:
    """A source as a protocol names it: 'emoji(split=held_out)'."""
    given = ", ".join(f"{key}={value}" for key, value in options.items() if key != "name")
    return f"{options['name']}({given})"


def left_out(source: Source, bad: Mapping[int, str]) -> str:
    """What a protocol says of unreadable images; the log names each. AlignError where no image can be read."""
    for index, reason in sorted(bad.items()):
        logging.warning("evaluation: %s of record %s", reason, source.about(index).id)
    if len(bad) == len(source):
        raise AlignError(f"evaluation: expected images, found none of {len(source)} readable ({min(bad.values())})")
    named = [f"{source.about(index).id} ({bad[index]})" for index in sorted(bad)[:NAMED]]
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f", {len(bad)} images left out: {', '.join(named)}{more}" if bad else ""
