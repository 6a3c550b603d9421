"""A collection of pictures and their embeddings on disk, which belong to one model and one set of records."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from align_jax import files, provenance, weights
from align_jax.data import source as sources
from align_jax.data.source import Record, Source
from align_jax.embed import embed_source
from align_jax.model import Model
from align_jax.types import AlignError

NAMED = 3  # ids that a message names
FACTS = "collection.json"


class Collection:
    """The pictures that can be searched, of a source: those that could be read, the first of each id.

    A *place* counts the pictures that can be searched, a *row* the records of the source.

    Attributes: source; folder; identity ({"weights", "data"}: digests; "records"); rows (int64 [n], the row of each
    place); labels (int32 [n], into `source.classes`); problems (reason -> records that cannot be searched, or which the
    source did not take for records).
    """

    def __init__(self, source: Source, folder: Path, identity: Mapping[str, Any]):
        """Of a finished folder."""
        self.source, self.folder, self.identity = source, folder, identity
        self._embeddings = np.load(folder / "embeddings" / "images.npy", mmap_mode="r")
        table = pq.read_table(folder / "embeddings" / "images.parquet", columns=["id", "label", "skipped"])
        skipped = table.column("skipped").to_numpy()
        ids = table.column("id").combine_chunks().dictionary_encode()
        names, numbers = ids.dictionary.to_pylist(), ids.indices.to_numpy()
        readable = np.flatnonzero(skipped == "")
        usable = readable[numbers[readable] != names.index("")] if "" in names else readable
        self.rows = np.sort(usable[np.unique(numbers[usable], return_index=True)[1]])
        again = np.setdiff1d(usable, self.rows)
        self.problems: Counter[str] = Counter(source.problems)
        self.problems.update(str(reason) for reason in skipped[skipped != ""])
        if len(again):
            named = ", ".join(dict.fromkeys(repr(names[number]) for number in numbers[again[:NAMED]]))
            self.problems[f"id that came before ({named}{', ...' if len(again) > NAMED else ''})"] += len(again)
        if len(readable) > len(usable):
            self.problems["id empty"] += len(readable) - len(usable)
        if not len(self.rows):
            raise AlignError(f"--data: expected pictures to search, found none: {self.left_out()}")
        self.labels = table.column("label").to_numpy()[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return self._embeddings.shape[1]

    def vectors(self, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """f32 [k, D], unit rows; of all places the file itself, mapped, unless some rows of it are left out."""
        if len(self.rows) == len(self._embeddings):
            return self._embeddings[places]
        return self._embeddings[self.rows[places]]

    def about(self, place: int) -> Record:
        """The record of a place, without its picture."""
        return self.source.about(int(self.rows[place]))

    def left_out(self) -> str:
        """'2 image unreadable, 1 id empty', or nothing."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.problems.items()))


def open_collection(model: Model, options: Mapping[str, Any], *, workdir: Path, folder: Path | None) -> Collection:
    """The collection of a source's options, embedded where it is not yet; what a kill left is gone on with.

    `folder` is by default <workdir>/search/<digests of weights and data>. AlignError for a folder of another model or
    of other data, and for a model that lacks a tower.
    """
    missing = sorted({"embed_images", "embed_texts"} - set(model.functions))
    if missing:
        raise AlignError(f"{workdir}: expected a model with {missing[0]}, its task offers {sorted(model.functions)}")
    source = sources.make(**options)
    identity = {
        "weights": weights.digest(model.params, model.model_state),
        "data": digest(source, options),
        "records": len(source),
    }
    folder = folder or workdir / "search" / f"{identity['weights']}-{identity['data']}"
    _claim(folder, identity)
    if not (folder / "embeddings" / "images.parquet").exists():
        embed_source(model, source, folder / "embeddings", texts=False)
    return Collection(source, folder, identity)


def digest(source: Source, options: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what is read and how. Where it lies does not matter."""
    how = {key: value for key, value in options.items() if key != "path"}
    text = json.dumps([provenance.digest(source), how], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Notes whose folder it is before anything else is written; refuses one that is of something else."""
    path = folder / FACTS
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise AlignError(f"--index: expected a new folder or an index, found {folder} with other files in it")
        files.write_json(path, identity)
        return
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise AlignError(f"{path}: expected the digests of an index, found no JSON; delete {folder}") from error
    for key, what in (("weights", "another checkpoint"), ("data", "other data"), ("records", "other data")):
        if found.get(key) != identity[key]:
            raise AlignError(
                f"{folder} holds an index made with {what}: {key} {found.get(key)}, now {identity[key]}; give another "
                "--index, or delete that folder"
            )
