"""A collection of pictures and their embeddings on disk, which belong to one model and one set of records."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.data import source as sources
from align_jax.data.source import Record, Source
from align_jax.embeddings.making import embed_source, facts_of
from align_jax.embeddings.reader import Embeddings, listed
from align_jax.model import Model
from align_jax.types import AlignError

NAMED = 3  # ids that a message names


class Collection:
    """The pictures that can be searched, of a source: those that could be read, the first of each id.

    A *place* counts the pictures that can be searched, a *row* the records of the source.

    Attributes: source; folder; identity (the facts of its embeddings); images (unit rows f32 [n, D], mapped); rows
    (int64 [n], the row of each place); labels (int32 [n], into `source.classes`); problems (reason -> records that
    cannot be searched, or which the source did not take for records).
    """

    def __init__(self, source: Source, folder: Path):
        """Of a finished folder of embeddings."""
        self.source, self.folder = source, folder
        embeddings = Embeddings(folder)
        self.identity = dataclasses.asdict(embeddings.facts)
        self.problems = Counter(source.problems) + embeddings.left_out
        if not len(embeddings):
            raise AlignError(f"--data: expected pictures to search, found none: {self.left_out()}")
        table = embeddings.metadata(["id", "label", "row"])
        ids = table.column("id").combine_chunks().dictionary_encode()
        names, numbers = ids.dictionary.to_pylist(), ids.indices.to_numpy()
        usable = np.flatnonzero(numbers != names.index("")) if "" in names else np.arange(len(table))
        places = np.sort(usable[np.unique(numbers[usable], return_index=True)[1]])
        again = np.setdiff1d(usable, places)
        if len(again):
            named = ", ".join(dict.fromkeys(repr(names[number]) for number in numbers[again[:NAMED]]))
            self.problems[f"id that came before ({named}{', ...' if len(again) > NAMED else ''})"] += len(again)
        if len(table) > len(usable):
            self.problems["id empty"] += len(table) - len(usable)
        if not len(places):
            raise AlignError(f"--data: expected pictures to search, found none: {self.left_out()}")
        self.images = embeddings.images if len(places) == len(table) else embeddings.images.choose(places)
        self.rows, self.labels = (table.column(name).to_numpy()[places] for name in ("row", "label"))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return self.images.shape[1]

    def about(self, place: int) -> Record:
        """The record of a place, without its picture."""
        return self.source.about(int(self.rows[place]))

    def left_out(self) -> str:
        """'2 image unreadable, 1 id empty', or nothing."""
        return listed(self.problems)


def open_collection(model: Model, options: Mapping[str, Any], *, workdir: Path, folder: Path | None) -> Collection:
    """The collection of a source's options, embedded where it is not yet; what a kill left is gone on with.

    `folder` is by default <workdir>/search/<digests of weights and data>. AlignError for a folder of another model or
    of other data, and for a model that lacks a tower.
    """
    missing = sorted({"embed_images", "embed_texts"} - set(model.functions))
    if missing:
        raise AlignError(f"{workdir}: expected a model with {missing[0]}, its task offers {sorted(model.functions)}")
    source = sources.make(**options)
    facts = facts_of(model, source, options, captions="none")
    folder = folder or workdir / "search" / f"{facts.weights}-{facts.data}"
    embed_source(model, source, folder, facts=facts, flag="--index")
    return Collection(source, folder)
