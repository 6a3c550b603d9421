"""Flickr30k with Karpathy's splits."""

from pathlib import PurePosixPath
from typing import Any

from align_jax.datasets.karpathy import KarpathyBuilder


class Flickr30k(KarpathyBuilder):
    """Flickr30k (Young et al. 2014) with Karpathy's splits: 29,000 / 1,014 / 1,000 images, 5 captions each.

    Download flickr30k-images.tar.gz (by the form of the University of Illinois) and Karpathy's caption_datasets.zip:

      SOURCE/dataset_flickr30k.json
      SOURCE/flickr30k-images/1000092795.jpg ..                  31,783 files

    Splits train, val, test. id is the photo's number on Flickr: 1000092795.
    """

    HOMEPAGE = "https://shannon.cs.illinois.edu/DenotationGraph/"
    JSON = "dataset_flickr30k.json"
    NEEDS = (JSON, "flickr30k-images/")

    def path(self, image: dict[str, Any]) -> str:
        return f"flickr30k-images/{image['filename']}"

    def id(self, image: dict[str, Any]) -> str:
        return PurePosixPath(image["filename"]).stem
