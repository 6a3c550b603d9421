"""Multi30k: captions in several languages."""

import functools
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from align_jax.datasets import layout
from align_jax.datasets.builder import Builder, Example, Shard, in_shards, pair_features
from align_jax.types import AlignError


class Row(NamedTuple):
    """An image with its captions by language."""

    filename: str
    captions: dict[str, list[str]]


class Files(NamedTuple):
    """How a task names its files."""

    languages: tuple[str, ...]
    test: str  # the test split of 2016
    texts: tuple[str, ...]  # per caption, before .LANGUAGE.gz
    images: str


TASKS = {
    "task1": Files(("en", "de", "fr", "cs"), "test_2016_flickr", ("{split}",), "{split}.txt"),
    "task2": Files(("en", "de"), "test_2016", tuple(f"{{split}}.{i}" for i in range(1, 6)), "{split}_images.txt"),
}


class Multi30k(Builder):
    """Multi30k (Elliott et al. 2016): Flickr30k's images with captions in several languages.

    Clone the repository multi30k/dataset, and put Flickr30k's images beside its `data`:

      SOURCE/data/task1/raw/train.en.gz ..                       {train,val,test_2016_flickr}.{en,de,fr,cs}.gz
      SOURCE/data/task1/image_splits/train.txt ..                {train,val,test_2016_flickr}.txt
      SOURCE/data/task2/raw/train.1.en.gz ..                     {train,val,test_2016}.{1,2,3,4,5}.{en,de}.gz
      SOURCE/data/task2/image_splits/train_images.txt ..         {train,val,test_2016}_images.txt
      SOURCE/flickr30k-images/1000092795.jpg ..

    Config task1: a caption in en and its translations into de, fr and cs. Config task2: 5 captions in en and 5 in de,
    written independently. Splits train, val and test: 29,000 / 1,014 / 1,000, test that of 2016, since later ones have
    other images. Features captions/en, captions/de .. hold one language each, captions all of them.
    """

    HOMEPAGE = "https://github.com/multi30k/dataset"
    NEEDS = (*(f"data/{task}/{folder}/" for task in TASKS for folder in ("raw", "image_splits")), "flickr30k-images/")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="task1", description="a caption and its translations"),
        tfds.core.BuilderConfig(name="task2", description="5 captions in each language"),
    ]

    def features(self) -> dict[str, Any]:
        texts = {
            f"captions/{language}": tfds.features.Sequence(tfds.features.Text()) for language in self._files.languages
        }
        return pair_features() | texts

    def shards(self, source: Path) -> dict[str, list[Shard]]:
        splits = {"train": "train", "val": "val", "test": self._files.test}
        rows = {split: self._rows(source, name) for split, name in splits.items()}
        return {split: in_shards(items, functools.partial(_example, source)) for split, items in rows.items()}

    @property
    def _files(self) -> Files:
        return TASKS[self.config]

    def _rows(self, source: Path, split: str) -> list[Row]:
        folder, files = source / "data" / self.config, self._files
        listed = folder / "image_splits" / files.images.format(split=split)
        names = layout.read_lines(listed)
        columns: dict[str, list[list[str]]] = {language: [] for language in files.languages}
        for language, texts in ((language, text) for language in files.languages for text in files.texts):
            path = folder / "raw" / f"{texts.format(split=split)}.{language}.gz"
            lines = layout.read_lines(path)
            if len(lines) != len(names):
                raise AlignError(
                    f"{path}: expected {len(names)} lines, one for each image of {listed}, found {len(lines)}; "
                    "take both from the same clone of multi30k/dataset"
                )
            columns[language].append(lines)
        layout.require_images(listed, source, (_path(name) for name in names))
        return [
            Row(name, {language: [lines[i] for lines in texts] for language, texts in columns.items()})
            for i, name in enumerate(names)
        ]


def _path(filename: str) -> str:
    return f"flickr30k-images/{filename}"


def _example(source: Path, row: Row) -> Example:
    return {
        "id": PurePosixPath(row.filename).stem,
        "image": source / _path(row.filename),
        "image/filename": row.filename,
        "captions": [text for texts in row.captions.values() for text in texts],
    } | {f"captions/{language}": texts for language, texts in row.captions.items()}
