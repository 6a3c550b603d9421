"""Scores pairs of images and texts with a cross-encoder: one pass of it for each pair.

An image's tokens are made once and lie on the devices, block by block, as all texts do, so that only the numbers of a
pair travel. Each device scores its own rows of the pairs. A pair scores the same on any number of devices.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax import sharding
from align_jax.data.source import Source
from align_jax.evals.embedding import COMPUTED_AHEAD, Embedder, begun
from align_jax.evals.features import Records, data_digest, pieces
from align_jax.types import AlignError, Batch, ModelState, Params
from align_jax.weights import digest

NEEDS = ("image_tokens", "score_tokens")
ROWS = 64  # pairs that a device scores at a time
IMAGES = 64  # whose tokens lie on the devices at a time: 20 MB with 100 regions of 768 numbers
PIECE, PIECES = 1024, 1024  # pairs that are written at once, at least, and about how many files that may be at most


class Scorer:
    """Scores pairs of some texts with the images of a block, whose tokens `place` takes to the devices."""

    def __init__(self, embedder: Embedder, params: Params, model_state: ModelState, texts: Batch, *, most: int):
        """`texts`: what the model reads of them, row by row. `most`: pairs, or images, that are given at once."""
        self._embedder, self._mesh = embedder, embedder.mesh
        self._params, self._model_state = params, model_state
        self._texts = {name: self._everywhere(_padded(rows)) for name, rows in texts.items()}
        self._rows = min(ROWS, _power(-(-most // self._mesh.size))) * self._mesh.size

    def place(self, tokens: np.ndarray) -> jax.Array:
        """A block's tokens f32 [n, P, W + 1] on every device."""
        return self._everywhere(_padded(tokens))

    def __call__(self, tokens: jax.Array, pairs: np.ndarray) -> np.ndarray:
        """f32 [P]: the matching logits of pairs int [P, 2] (image of the block, text)."""
        starts = range(0, len(pairs), self._rows)
        computing = (self._begin(tokens, pairs[start : start + self._rows]) for start in starts)
        found = np.concatenate([finished() for finished in begun(computing, COMPUTED_AHEAD)])
        if not np.isfinite(found).all():
            raise AlignError("score_tokens: expected finite numbers, found nan or infinity; the weights are broken")
        return found

    def _begin(self, tokens: jax.Array, pairs: np.ndarray) -> Callable[[], np.ndarray]:
        rows = np.pad(pairs, [(0, self._rows - len(pairs)), (0, 0)], mode="edge").astype(np.int32)
        own = sharding.local_rows(self._mesh, self._rows)
        placed = sharding.place(self._mesh, {"pairs": rows[own.start : own.stop]})
        function = self._embedder.function("score_tokens")
        with self._embedder.launch:
            scores = _scores(
                self._mesh, function, self._params, self._model_state, tokens, self._texts, placed["pairs"]
            )  # fmt: skip
        return lambda: np.asarray(scores, np.float32)[: len(pairs)]

    def _everywhere(self, rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding.replicated(self._mesh), rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(
    mesh: jax.sharding.Mesh, function: Callable[..., jax.Array], params: Params, model_state: ModelState,
    tokens: jax.Array, texts: dict[str, jax.Array], pairs: jax.Array,
) -> jax.Array:  # fmt: skip
    rows = {"tokens": tokens[pairs[:, 0]], **{name: of_all[pairs[:, 1]] for name, of_all in texts.items()}}
    rows = jax.lax.with_sharding_constraint(rows, jax.tree.map(lambda _: sharding.by_row(mesh), rows))
    return function(params, model_state, rows)


def _power(count: int) -> int:
    """The next power of two, so that few programs are compiled."""
    return 1 << max(count - 1, 0).bit_length()


def _padded(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, [(0, _power(len(rows)) - len(rows))] + [(0, 0)] * (rows.ndim - 1), mode="edge")


@dataclasses.dataclass
class Cost:
    """What was scored, and how long that took when it was: also in an earlier process."""

    pairs: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Pairs per second."""
        return self.pairs / self.seconds if self.seconds else float("nan")


class PairScores:
    """Scores of a source's images with texts, kept in <folder>/pair_scores, piece by piece.

    What was scored once, by these weights, of these data, is read: a run that was killed goes on. Of images that a
    manifest names only the names count, as in `FeatureCache`.

    Attributes: weights (digest of the model's); cost (of all that was asked).
    """

    def __init__(
        self, embedder: Embedder, params: Params, model_state: ModelState, options: Mapping[str, Any],
        texts: Sequence[str], *, folder: Path,
    ):  # fmt: skip
        """`options`: of the source."""
        self._embedder, self._params, self._model_state = embedder, params, model_state
        self._source: Source = embedder.open(options)
        self._texts, self._folder = texts, folder / "pair_scores"
        seen = json.dumps(
            [embedder.computes, embedder.pairs.preprocessing(), embedder.pairs.protocol], sort_keys=True
        )  # fmt: skip
        self._data = _digest(data_digest(options, self._source), seen)
        self.weights = digest(params, model_state)
        self.cost = Cost()

    def unreadable(self) -> dict[int, str]:
        """{record: reason} of the images that the model cannot be shown."""

        def make(part: range) -> dict[str, np.ndarray]:
            bad = self._embedder.unreadable(Records(self._source, part))
            return {"index": np.array(list(bad), np.int64), "reason": np.array(list(bad.values()), str)}

        bad: dict[int, str] = {}
        folder = self._folder / f"{self._data}-readable"
        for part, piece in pieces(folder, len(self._source), make, what="reading images", unit="image"):
            bad |= dict(zip((piece["index"] + part.start).tolist(), piece["reason"].tolist(), strict=True))
        return bad

    def every(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """f32 [n, m] of records int [n] with rows int [m] of the texts; equal rows are scored once."""
        images, texts = np.asarray(images, np.int64), np.asarray(texts, np.int64)
        once, column = np.unique(texts, return_inverse=True)

        def pairs(part: range) -> np.ndarray:
            places, columns = np.divmod(np.arange(part.start, part.stop), len(once))
            return np.stack([places, once[columns]], axis=1)

        scores = self._scores(images, pairs, len(images) * len(once), asked=_digest("every", images, once))
        scores = scores.reshape(len(images), len(once))
        return scores if np.array_equal(once, texts) else scores[:, column]

    def some(self, pairs: np.ndarray) -> np.ndarray:
        """f32 [P] of pairs int [P, 2] (record, row of the texts); equal ones are scored once."""
        pairs, back = np.unique(np.asarray(pairs, np.int64), axis=0, return_inverse=True)
        images, places = np.unique(pairs[:, 0], return_inverse=True)
        placed = np.stack([places, pairs[:, 1]], axis=1)  # in the order of images
        asked = _digest("some", pairs)
        return self._scores(images, lambda part: placed[part.start : part.stop], len(placed), asked=asked)[back]

    def _scores(
        self, images: np.ndarray, pairs: Callable[[range], np.ndarray], count: int, *, asked: str
    ) -> np.ndarray:
        """Of `count` pairs (place among the images, row of the texts), which rise by their image."""
        found = np.empty(count, np.float32)
        if not count:
            return found
        size = max(PIECE, -(-count // PIECES))
        blocks = _Blocks(self._embedder, self._params, self._model_state, self._source, images)
        scorer: list[Scorer] = []

        def make(part: range) -> dict[str, np.ndarray]:
            if not scorer:
                scorer.append(self._scorer(min(size, count)))
                blocks.warm_up(scorer[0])
            begun_at = time.perf_counter()
            scores = np.concatenate([scorer[0](*block) for block in blocks.split(scorer[0], pairs(part))])
            return {"scores": scores, "seconds": np.array(time.perf_counter() - begun_at)}

        folder = self._folder / f"{self.weights}-{_digest(self._data, *self._texts, str(size))}-{asked}"
        for part, piece in pieces(folder, count, make, what="scoring pairs", unit="pair", size=size):
            found[part.start : part.stop] = piece["scores"]
            self.cost.seconds += float(piece["seconds"])
        self.cost.pairs += count
        return found

    def _scorer(self, most: int) -> Scorer:
        texts = self._embedder.read(self._texts)
        return Scorer(self._embedder, self._params, self._model_state, texts, most=most)


class _Blocks:
    """Images, of which a block's tokens lie on the devices."""

    def __init__(
        self, embedder: Embedder, params: Params, model_state: ModelState, source: Source, images: np.ndarray
    ):  # fmt: skip
        self._embedder, self._source, self._images = embedder, source, images
        self._model = params, model_state
        # Of nearly one size, so that one program makes the tokens of each.
        count = -(-len(images) // IMAGES)
        self._starts = np.cumsum([0, *(len(part) for part in np.array_split(images, count))])
        self._placed: tuple[int, jax.Array] | None = None

    def warm_up(self, scorer: Scorer) -> None:
        """Compiles what will be needed, on nothing: what is timed then is computing alone."""
        blank = self._embedder.pairs.blank()
        rows = {name: np.repeat(row[None], self._starts[1], axis=0) for name, row in blank.items()}
        size = self._embedder.batch_size
        batches = [
            {name: values[at : at + size] for name, values in rows.items()} for at in range(0, self._starts[1], size)
        ]
        tokens = self._embedder.run("image_tokens", *self._model, batches, progress=False)
        scorer(scorer.place(tokens), np.zeros((1, 2), np.int64))

    def split(self, scorer: Scorer, pairs: np.ndarray) -> Iterator[tuple[jax.Array, np.ndarray]]:
        """(a block's tokens, its pairs by their places in it) of pairs that rise by their image."""
        numbers = np.searchsorted(self._starts, pairs[:, 0], "right") - 1
        for own in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(numbers)) + 1):
            number = int(numbers[own[0]])
            yield self._tokens(scorer, number), pairs[own] - (self._starts[number], 0)

    def _tokens(self, scorer: Scorer, number: int) -> jax.Array:
        if self._placed is None or self._placed[0] != number:
            records = self._images[self._starts[number] : self._starts[number + 1]].tolist()
            tokens, bad = self._embedder.images(
                *self._model, Records(self._source, records), function="image_tokens", remember=False
            )
            if bad:
                place, reason = min(bad.items())
                raise AlignError(
                    f"image_tokens: expected record {self._source.about(records[place]).id} to be readable, as it "
                    f"was before, found {reason}"
                )
            self._placed = number, scorer.place(tokens)
        return self._placed[1]


def _digest(*parts: str | np.ndarray) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()
