"""What a model makes of a source's images, kept on disk: a second evaluator, or a second day, does not embed again."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from tqdm import tqdm

from align_jax import config as configs
from align_jax import files, provenance
from align_jax.data.source import Source
from align_jax.evals import statistics
from align_jax.evals.embedding import SLOW, Embedder
from align_jax.types import ModelState, Params
from align_jax.weights import digest

PIECE = 4096  # records that are embedded and written at once; what a kill can cost


class FeatureCache:
    """<folder>/<weights>-<data>-<function>-<crop>/<first record>.npz: a file per piece, each whole or absent.

    The data are known by the options of their source and the digest of its files. Of images that a manifest names
    only the names count: whoever changes them in place removes the folder.
    """

    def __init__(self, embedder: Embedder, folder: Path):
        self._embedder, self._folder = embedder, folder

    def images(
        self, params: Params, model_state: ModelState, options: Mapping[str, Any], *, function: str = "embed_images"
    ) -> tuple[np.ndarray, dict[int, str]]:
        """As `Embedder.images`, of the source of `options`. Pieces that an earlier call left are read, not embedded."""
        source = self._embedder.open(options)
        view = statistics.digest([self._embedder.computes, self._embedder.pairs.protocol])
        name = f"{digest(params, model_state)}-{data_digest(options, source)}-{function}-{view}"
        return self.of_source(params, model_state, source, function=function, name=name)

    def of_source(
        self, params: Params, model_state: ModelState, source: Source, *, function: str, name: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The same of a source; `name` is that of the folder, which tells weights, data and view."""

        def make(part: range) -> dict[str, np.ndarray]:
            rows, bad = self._embedder.images(
                params, model_state, Records(source, part), function=function, remember=False
            )
            return {"rows": rows, "index": np.array(list(bad), np.int64), "reason": np.array(list(bad.values()), str)}

        rows: Any = None
        bad: dict[int, str] = {}
        for part, piece in pieces(self._folder / name, len(source), make, what=function, unit="image", size=PIECE):
            if rows is None:
                rows = np.empty((len(source), piece["rows"].shape[1]), np.float32)
            rows[part.start : part.stop] = piece["rows"]
            bad |= dict(zip((piece["index"] + part.start).tolist(), piece["reason"].tolist(), strict=True))
        return rows, bad


def pieces(
    folder: Path, count: int, make: Callable[[range], dict[str, np.ndarray]], *, what: str, unit: str, size: int = PIECE
) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
    """(records, what `make` gives of them) of each `size` of `count` records, kept in `folder`, file by file."""
    with tqdm(total=count, desc=what, unit=unit, delay=SLOW, leave=False, disable=None) as bar:
        for start in range(0, count, size):
            part = range(start, min(start + size, count))
            path = folder / f"{start}.npz"
            found = _read(path)
            if found is None:
                found = make(part)
                _write(path, found)
            yield part, found
            bar.update(len(part))


class Records:
    """Some records of a source, by their numbers."""

    def __init__(self, source: Source, part: Sequence[int]):
        self._source, self._part = source, part

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._part[index]]


def data_digest(options: Mapping[str, Any], source: Source) -> str:
    """The options tell parts of one data set from each other, the files' digest two states of the same files."""
    key = json.dumps([configs.plain(options), provenance.digest(source)], sort_keys=True)
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    named: Any = arrays  # any name but that of the one option of savez
    files.write(path, lambda partial: np.savez(partial, **named))


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a piece; None where it is not there, or broken: then it is made again."""
    data = _from_writer(path)
    if not data:
        return None
    try:
        with np.load(io.BytesIO(data)) as piece:
            return {name: piece[name] for name in piece}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is broken (%s): made again", path, error)
        return None


def _from_writer(path: Path) -> bytes:
    """The file as the writing process finds it, for all: the others may see it later, or have no such folder."""
    data = path.read_bytes() if files.is_writer() and path.exists() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    if not size:
        return b""
    own = np.frombuffer(data if files.is_writer() else bytes(size), np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()
