"""The splits of Karpathy and Fei-Fei (2015), dataset_*.json of caption_datasets.zip: what R@K is reported on.

{"dataset": "coco", "images": [{"filename", "imgid", "split", "sentids": [..], "sentences": [{"raw", "sentid", ..}, ..],
and for COCO "filepath", "cocoid"}, ..]}. `split` is train, restval, val or test. restval, the part of COCO's val2014
that is neither val nor test, goes into train, as is the custom; the feature `karpathy_split` still tells it.
"""

import abc
import functools
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from align_jax.datasets import layout
from align_jax.datasets.builder import Builder, Example, Shard, in_shards, pair_features
from align_jax.types import AlignError

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}  # in the file -> built


class KarpathyBuilder(Builder, skip_registration=True):
    """Images with all their captions. sentence_ids: int64, `sentid` of each caption. karpathy_split: as in the file."""

    JSON: str
    KEYS = ("filename", "split", "sentences")

    @abc.abstractmethod
    def path(self, image: dict[str, Any]) -> str:
        """Where the image lies, relative to the source."""

    @abc.abstractmethod
    def id(self, image: dict[str, Any]) -> str:
        """Names the image."""

    def features(self) -> dict[str, Any]:
        return pair_features() | {
            "sentence_ids": tfds.features.Sequence(np.int64),
            "karpathy_split": tfds.features.Text(),
        }

    def shards(self, source: Path) -> dict[str, list[Shard]]:
        file = source / self.JSON
        content = layout.read_json(file)
        layout.check_keys(content, ["images"], where=str(file))
        splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS.values()}
        for number, image in enumerate(content["images"]):
            where = f"{file}: image {number}"
            layout.check_keys(image, self.KEYS, where=where)
            for sentence in image["sentences"]:
                layout.check_keys(sentence, ["raw", "sentid"], where=f"{where}: a sentence")
            if image["split"] not in SPLITS:
                raise AlignError(f"{where}: expected a split of {list(SPLITS)}, found {image['split']!r}")
            splits[SPLITS[image["split"]]].append(image)
        for split, images in splits.items():
            if not images:
                raise AlignError(f"{file}: expected images of split {split}, found none; download it again")
        layout.require_images(file, source, (self.path(image) for images in splits.values() for image in images))
        return {split: in_shards(images, functools.partial(self._example, source)) for split, images in splits.items()}

    def _example(self, source: Path, image: dict[str, Any]) -> Example:
        return {
            "id": self.id(image),
            "image": source / self.path(image),
            "image/filename": image["filename"],
            "captions": [sentence["raw"] for sentence in image["sentences"]],
            "sentence_ids": [sentence["sentid"] for sentence in image["sentences"]],
            "karpathy_split": image["split"],
        }
