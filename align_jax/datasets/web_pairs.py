"""Pairs of the web: a list of URLs and captions, and the images that could still be downloaded.

An image that is not there is no error, since dead links are the rule: it is left out and counted by its reason.
"""

import abc
import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from align_jax.datasets import img2dataset
from align_jax.datasets.builder import SHARD, Builder, Example, Shard, pair_features
from align_jax.datasets.img2dataset import Pair, pair
from align_jax.types import AlignError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

# What all docstrings of these builders would say.
ALSO = """
The images are what img2dataset left, with --caption_col and --output_format webdataset, files or parquet: then the
list is not needed, and id is img2dataset's key. Or they are files of the names shown, with any suffix of an image: then
id is the row in the list, nine digits from 000000000 on.

Features url and captions (one). What is left out is counted by reason: an image that is missing or empty, a caption
that is empty or not UTF-8, or the status that img2dataset gave.
"""


class WebPairs(Builder, skip_registration=True):
    """Pairs from a list and a folder of downloaded images for each split."""

    ALSO = ALSO
    LISTS: ClassVar[dict[str, tuple[str, ...]]]  # split, which names its folder -> the files of its list

    @abc.abstractmethod
    def rows(self, *lists: Path) -> Iterator[tuple[str, str]]:
        """(url, caption) of each row; AlignError at one that is malformed."""

    def stem(self, row: int, url: str) -> str:
        """Name of the file, without its suffix, of an image that was downloaded without img2dataset."""
        return f"{row:09d}"

    def features(self) -> dict[str, Any]:
        return pair_features() | {"url": tfds.features.Text()}

    def shards(self, source: Path) -> dict[str, list[Shard]]:
        splits = [split for split in self.LISTS if (source / split).is_dir()]
        left_out: dict[str, Counter[str]] = {split: Counter() for split in splits}
        self.left_out.update(left_out)
        streams = {split: self._streams(source, split) for split in splits}
        return {
            split: [functools.partial(_examples, pairs, left_out[split]) for pairs in streams[split]]
            for split in splits
        }

    def _streams(self, source: Path, split: str) -> list[Iterator[Pair | str]]:
        """For each shard, its pairs, and a reason in place of one that is left out."""
        folder = source / split
        lists = [source / name for name in self.LISTS[split]]
        if found := img2dataset.shards(folder):
            return found
        for path in lists:
            if not path.is_file():
                raise AlignError(
                    f"{self.name}: expected what img2dataset leaves in {folder}, or images and their list, found no "
                    f"{path}; python -m align_jax.build --list says what to download"
                )
        images = {path.stem: path.name for path in map(Path, os.listdir(folder)) if path.suffix.lower() in SUFFIXES}
        stems = [self.stem(row, url) for row, (url, _) in enumerate(self.rows(*lists))]
        if not stems:
            raise AlignError(f"{lists[0]}: expected a row for each image, found an empty file; download it again")
        if not any(stem in images for stem in stems):
            raise AlignError(
                f"{self.name}: expected images in {folder} by the names {stems[0]}.jpg .., found "
                f"{sorted(images.values())[:3]}; python -m align_jax.build --list says how to name them"
            )
        pairs = self._listed(folder, images, lists)
        # One stream for all shards, since they are written one after the other.
        return [itertools.islice(pairs, SHARD) for _ in range(0, len(stems), SHARD)]

    def _listed(self, folder: Path, images: dict[str, str], lists: list[Path]) -> Iterator[Pair | str]:
        for row, (url, caption) in enumerate(self.rows(*lists)):
            name = images.get(self.stem(row, url))
            yield "image missing" if name is None else pair(f"{row:09d}", url, caption, name, folder / name)


def _examples(pairs: Iterable[Pair | str], left_out: Counter[str]) -> Iterator[tuple[int, Example]]:
    for key, found in enumerate(pairs):
        if isinstance(found, str):
            left_out[found] += 1
            continue
        example = {"id": found.id, "image": found.image, "image/filename": found.filename, "url": found.url}
        yield key, example | {"captions": [found.caption]}


def read_table(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """(url, caption) of the tab-separated columns url and caption, in the order that `columns` says.

    The distributors' tables have no line of column names; the one that img2dataset needs is skipped.
    """
    url, caption = columns.index("url"), columns.index("caption")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
            if number == 1 and tuple(cells) == columns:
                continue
            if len(cells) != 2 or not cells[url].startswith(("http://", "https://")):
                raise AlignError(f"{path}:{number}: expected {columns[0]} TAB {columns[1]}, found {cells!r:.100}")
            yield cells[url], cells[caption]
