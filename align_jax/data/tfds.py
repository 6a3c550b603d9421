"""Any prepared TensorFlow Datasets data set with images and texts, read by name without TensorFlow."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align_jax.data import captions
from align_jax.data.source import BadExample, File, Record, Source
from align_jax.types import AlignError


def prepared(dataset: str, data_dir: str | None) -> Any:
    """The tfds builder of `dataset`, name[/config][:version], whose files stand in `data_dir`."""
    try:
        import tensorflow_datasets as tfds

        from align_jax.datasets import BUILDERS  # which makes tfds know them
    except ImportError as error:
        raise AlignError("data.source: expected tensorflow-datasets; run: pip install tensorflow-datasets") from error
    try:
        builder: Any = tfds.builder(dataset, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise AlignError(
            f"data.source.dataset: tfds knows no {dataset!r}; see the catalogue of tensorflow-datasets"
        ) from error
    except AssertionError as error:
        raise AlignError(
            f"data.source.dataset: tensorflow-datasets {tfds.__version__} has no {dataset!r}; take a version that it "
            "has, or another tensorflow-datasets"
        ) from error
    if not builder.is_prepared():
        exact = dataset.split(":")[0] + (f":{builder.version}" if ":" in dataset else "")
        build = f"tfds build {exact} --file_format=array_record"  # which needs TensorFlow
        if builder.name in BUILDERS:
            build = f"python -m align_jax.build --dataset={dataset} --source=DOWNLOADS"
        raise AlignError(
            f"data.source: {dataset} is not prepared in {builder.data_dir}; run: {build} "
            f"--data_dir={builder.data_dir_root}"
        )
    return builder


def rows(builder: Any, split: str, image: str) -> Any:
    """The examples of `split`, by index, feature `image` as its encoded bytes."""
    from tensorflow_datasets import decode

    try:
        return builder.as_data_source(split, decoders={image: decode.SkipDecoding()})
    except ValueError as error:
        sizes = ", ".join(f"{name} ({info.num_examples:,})" for name, info in sorted(builder.info.splits.items()))
        raise AlignError(f"data.source.split: {builder.name} cannot give split {split!r}, only {sizes}") from error


def file_of(builder: Any, split: str, records: int) -> File:
    """What a report names: the data set by its version, of which a split is always the same."""
    size = sum(int(builder.info.splits[name].num_bytes) for name in builder.info.splits)
    name = f"{builder.info.full_name} {split}"
    return File(name, records, size, hashlib.blake2b(name.encode(), digest_size=8).hexdigest())


class TfdsPairs(Source):
    """Random access to `split` of data set `dataset`, images as their encoded bytes.

    Args:
      dataset: name[/config][:version], also of the builders in align_jax/datasets. split: as tfds writes it,
        "train[:1%]". data_dir: None for tfds' default.
      image: feature with the picture. texts: feature with one text or several. label: ClassLabel feature, or None.
      id: feature with a text that names the record, "id" in our builders; None for its index. `ids` reads it.
      text_ids: feature with an id for each text, "sentence_ids" of coco_karpathy; None for none.
    """

    def __init__(self, *, dataset: str, split: str, data_dir: str | None = None, image: str = "image",
                 texts: str | None = "texts", label: str | None = None, id: str | None = None,
                 text_ids: str | None = None):  # fmt: skip
        builder = prepared(dataset, data_dir)
        from tensorflow_datasets import features as kinds  # a second, and only where it is used

        features: Any = builder.info.features
        for key, name in (("image", image), ("texts", texts), ("label", label), ("id", id), ("text_ids", text_ids)):
            if name is not None and name not in features:
                raise AlignError(f"data.source.{key}: {dataset} has no feature {name!r}, only {sorted(features)}")
        if not isinstance(features[image], kinds.Image):
            raise AlignError(f"data.source.image: expected an Image of {dataset}, found {features[image]}")
        if label is not None and not isinstance(features[label], kinds.ClassLabel):
            raise AlignError(f"data.source.label: expected a ClassLabel of {dataset}, found {features[label]}")
        if texts is None and label is None:
            raise AlignError("data.source: expected texts or label, the feature to read texts from, found neither")
        self._rows = rows(builder, split, image)
        self.classes = tuple(features[label].names) if label else ()
        self._image, self._texts, self._label, self._id, self._text_ids = image, texts, label, id, text_ids
        if metadata := builder.info.metadata:  # which our builders write
            self.problems = metadata.get("left_out", {}).get(split, {})
        self._file = file_of(builder, split, len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        return self._record(index, row, *self._words(row))

    def about(self, index: int) -> Record:
        """All of a record but its image; no texts where they cannot be used."""
        row = self._rows[index]
        try:
            texts, text_ids = self._words(row)
        except BadExample:  # counted where the record is drawn
            texts, text_ids = (), ()
        return dataclasses.replace(self._record(index, row, texts, text_ids), image=b"")

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        if self._id:
            return pa.chunked_array([[self.about(i).id for i in range(len(self))]], pa.string())
        return pc.cast(pa.chunked_array([np.arange(len(self))]), pa.string())

    def files(self) -> list[File]:
        """The data set, by name and version."""
        return [self._file]

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return (text for i in range(len(self)) for text in self.about(i).texts)

    def _record(self, index: int, row: dict, texts: tuple[str, ...], text_ids: tuple[str, ...]) -> Record:
        name = row[self._id].decode() if self._id else str(index)
        label = int(row[self._label]) if self._label else -1
        return Record(id=name, image=row[self._image], texts=texts, group=name, label=label, text_ids=text_ids)

    def _words(self, row: dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The usable texts and their ids."""
        if self._texts is None:
            return (self.classes[int(row[self._label])],), ()
        found = row[self._texts]
        texts = captions.usable([found] if isinstance(found, bytes | str) else found)
        if not self._text_ids:
            return texts, ()
        text_ids = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in row[self._text_ids])
        if len(text_ids) != len(texts):  # which of them is whose, nobody knows
            raise BadExample("texts and text ids differ in number")
        return texts, text_ids
