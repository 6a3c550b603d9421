"""What a model makes of a source's images, kept on disk: a second evaluator, or a second day, does not embed again."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
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

PIECE = 16384  # records that are embedded and written at once; what a kill can cost


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
        view = statistics.digest([self._embedder.pairs.view.protocol])
        data = _data_digest(options, source)
        name = f"{digest(params, model_state)}-{data}-{function}-{view}"
        rows: Any = None
        bad: dict[int, str] = {}
        with tqdm(total=len(source), desc=function, unit="image", delay=SLOW, leave=False, disable=None) as bar:
            for start in range(0, len(source), PIECE):
                part = range(start, min(start + PIECE, len(source)))
                path = self._folder / name / f"{start}.npz"
                found = _read(path)
                if found is None:
                    found = self._embedder.images(
                        params, model_state, _Records(source, part), function=function, remember=False
                    )
                    _write(path, *found)
                if rows is None:
                    rows = np.empty((len(source), found[0].shape[1]), np.float32)
                rows[start : part.stop] = found[0]
                bad |= {start + index: reason for index, reason in found[1].items()}
                bar.update(len(part))
        return rows, bad


class _Records:
    """Some records of a source."""

    def __init__(self, source: Source, part: range):
        self._source, self._part = source, part

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._part[index]]


def _data_digest(options: Mapping[str, Any], source: Source) -> str:
    """The options tell parts of one data set from each other, the files' digest two states of the same files."""
    key = json.dumps([configs.plain(options), provenance.digest(source)], sort_keys=True)
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _write(path: Path, rows: np.ndarray, bad: Mapping[int, str]) -> None:
    index, reason = np.array(list(bad), np.int64), np.array(list(bad.values()), str)
    files.write(path, lambda partial: np.savez(partial, rows=rows, index=index, reason=reason))


def _read(path: Path) -> tuple[np.ndarray, dict[int, str]] | None:
    """The rows and reasons of a piece; None where it is not there, or broken: then it is made again."""
    data = _from_writer(path)
    if not data:
        return None
    try:
        with np.load(io.BytesIO(data)) as piece:
            reasons = zip(piece["index"].tolist(), piece["reason"].tolist(), strict=True)
            return piece["rows"], dict(reasons)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is broken (%s): embedded again", path, error)
        return None


def _from_writer(path: Path) -> bytes:
    """The file as the writing process finds it, for all: the others may see it later, or have no such folder."""
    data = path.read_bytes() if files.is_writer() and path.exists() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    if not size:
        return b""
    own = np.frombuffer(data if files.is_writer() else bytes(size), np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()
