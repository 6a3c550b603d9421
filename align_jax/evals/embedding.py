"""Embeds whole sources with a task's functions: in batches over the mesh, the last one padded, results on the host."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from align_jax import sharding
from align_jax.data.pairs import Pairs
from align_jax.data.source import BadExample, Source
from align_jax.types import Batch, ModelState, Params

Function = Callable[[Params, ModelState, Batch], jax.Array]


class Embedder:
    """Compiles each function once, for batches of `batch_size` rows."""

    def __init__(self, functions: dict[str, Function], pairs: Pairs, *, mesh: jax.sharding.Mesh, batch_size: int):
        self.pairs = pairs
        self._mesh = mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        everywhere = sharding.replicated(mesh)  # so that each host can read the whole result
        self._functions = {name: jax.jit(function, out_shardings=everywhere) for name, function in functions.items()}

    def images(
        self, params: Params, model_state: ModelState, images: Sequence[Any] | Source
    ) -> tuple[np.ndarray, dict[int, str]]:
        """(unit rows [n, D], {index: reason} of pictures that cannot be read; their rows are zero)."""
        bad: dict[int, str] = {}

        def pixels(index: int) -> np.ndarray:
            item = images[index]
            try:
                return self.pairs.image(getattr(item, "image", item))
            except BadExample as error:
                bad[index] = str(error)
                return np.zeros((self.pairs.crop, self.pairs.crop, 3), np.uint8)

        with ThreadPoolExecutor(2) as pool:
            batches = ({"image": np.stack(list(pool.map(pixels, part)))} for part in self._parts(len(images)))
            rows = self._run("embed_images", params, model_state, batches, len(images))
        rows[list(bad)] = 0.0
        return rows, bad

    def texts(self, params: Params, model_state: ModelState, texts: Sequence[str]) -> np.ndarray:
        """Unit rows [n, D]."""
        batches = (self.pairs.texts([texts[i] for i in part]) for part in self._parts(len(texts)))
        return self._run("embed_texts", params, model_state, batches, len(texts))

    def _parts(self, count: int) -> Iterator[list[int]]:
        """Indices in full batches; the last one is filled with repetitions of the last index."""
        for start in range(0, count, self._batch_size):
            yield [min(start + row, count - 1) for row in range(self._batch_size)]

    def _run(
        self, name: str, params: Params, model_state: ModelState, batches: Iterator[dict[str, np.ndarray]], count: int
    ) -> np.ndarray:
        own = sharding.local_rows(self._mesh, self._batch_size)
        parts = []
        for batch in batches:
            local = {key: rows[own.start : own.stop] for key, rows in batch.items()}
            parts.append(self._functions[name](params, model_state, sharding.place(self._mesh, local)))
        return np.concatenate([np.asarray(part) for part in parts])[:count]
