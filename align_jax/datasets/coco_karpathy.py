"""COCO captions with Karpathy's splits."""

from typing import Any

from align_jax.datasets.karpathy import KarpathyBuilder


class CocoKarpathy(KarpathyBuilder):
    """COCO captions (Chen et al. 2015) with Karpathy's splits: 113,287 / 5,000 / 5,000 images.

    Download train2014.zip and val2014.zip of COCO and Karpathy's caption_datasets.zip:

      SOURCE/dataset_coco.json
      SOURCE/train2014/COCO_train2014_000000000009.jpg ..        82,783 files
      SOURCE/val2014/COCO_val2014_000000000042.jpg ..            40,504 files

    Splits train (with restval), val, test. id is `cocoid`, COCO's image id. An image has 5 captions or a few more; R@K
    is reported with the first 5.

    Not named `coco_captions`: that name is tfds' own, and its module needs TensorFlow.
    """

    HOMEPAGE = "https://cocodataset.org"
    JSON = "dataset_coco.json"
    KEYS = (*KarpathyBuilder.KEYS, "filepath", "cocoid")
    NEEDS = (JSON, "train2014/", "val2014/")

    def path(self, image: dict[str, Any]) -> str:
        return f"{image['filepath']}/{image['filename']}"

    def id(self, image: dict[str, Any]) -> str:
        return str(image["cocoid"])
