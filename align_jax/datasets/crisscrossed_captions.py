"""Crisscrossed Captions: ratings of similarity."""

import csv
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from align_jax.datasets import layout
from align_jax.datasets.builder import Builder, Example, Shard, in_shards
from align_jax.types import AlignError

RATED = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}
NAMES = {"caption": re.compile(r"COCO_val2014:sentid:(\d+)"), "image": re.compile(r"(COCO_val2014_\d{12}\.jpg)")}


class CrisscrossedCaptions(Builder):
    """Crisscrossed Captions (Parekh et al. 2021): how similar people find captions and images of COCO, 0 to 5.

    Take the folder `data` of the repository google-research-datasets/Crisscrossed-Captions:

      SOURCE/sts_val.csv, sts_test.csv      caption1,caption2,agg_score,sampling_method
      SOURCE/sis_val.csv, sis_test.csv      image1,image2,agg_score,sampling_method
      SOURCE/sits_val.csv, sits_test.csv    caption,image,agg_score,sampling_method

    Configs sts (two captions), sis (two images), sits (a caption and an image); splits val and test, those of Karpathy.
    A record is a rating, without pictures or texts: it names a caption by the sentence id (int64) and an image by the
    file name that the data set `coco_karpathy` has in `sentence_ids` and `image/filename`. Features: the first two
    columns, score (float32, the mean over the annotators), sampling (how the pair was found).
    """

    HOMEPAGE = "https://github.com/google-research-datasets/Crisscrossed-Captions"
    NEEDS = tuple(f"{task}_{split}.csv" for task in RATED for split in ("val", "test"))
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="sts", description="semantic textual similarity"),
        tfds.core.BuilderConfig(name="sis", description="semantic image similarity"),
        tfds.core.BuilderConfig(name="sits", description="semantic image-text similarity"),
    ]

    def features(self) -> dict[str, Any]:
        kinds = {"caption": np.int64, "image": tfds.features.Text()}
        rated = {column: kinds[column.rstrip("12")] for column in RATED[self.config]}
        return rated | {"score": np.float32, "sampling": tfds.features.Text()}

    def shards(self, source: Path) -> dict[str, list[Shard]]:
        return {split: in_shards(ratings(source, self.config, split), dict) for split in ("val", "test")}


def ratings(folder: Path, task: str, split: str) -> list[Example]:
    """What stands in <task>_<split>.csv: a record for each rating."""
    path, rated = folder / f"{task}_{split}.csv", RATED[task]
    columns = [*rated, "agg_score", "sampling_method"]
    reader = csv.DictReader(layout.read_lines(path))
    if reader.fieldnames != columns:
        raise AlignError(f"{path}: expected the columns {columns}, found {reader.fieldnames}; download it again")
    return [_rating(row, rated, f"{path}:{reader.line_num}") for row in reader]


def _rating(row: dict[str, Any], rated: tuple[str, str], where: str) -> Example:
    example: Example = {}
    for column in rated:
        kind = column.rstrip("12")
        name = NAMES[kind].fullmatch(row[column] or "")
        if name is None:
            raise AlignError(f"{where}: expected {column} like {NAMES[kind].pattern}, found {row[column]!r}")
        example[column] = int(name[1]) if kind == "caption" else name[1]
    try:
        score = float(row["agg_score"])
    except (TypeError, ValueError):
        score = float("nan")
    if not 0 <= score <= 5:
        raise AlignError(f"{where}: expected an agg_score of 0 to 5, found {row['agg_score']!r}")
    return example | {"score": score, "sampling": row["sampling_method"]}
