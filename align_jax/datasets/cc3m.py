"""Conceptual Captions, 3 million pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from align_jax.datasets.web_pairs import WebPairs, read_table


class Cc3m(WebPairs):
    """Conceptual Captions (Sharma et al. 2018): 3.3 million images of the web with their cleaned alt-texts.

    Download the two lists from ai.google.com/research/ConceptualCaptions/download, and what they link to:

      SOURCE/Train_GCC-training.tsv                              caption TAB url, 3,318,333 rows
      SOURCE/train/                                              its images, or 000000000.jpg .. by row
      SOURCE/Validation_GCC-1.1.0-Validation.tsv                 caption TAB url, 15,840 rows
      SOURCE/val/                                                likewise; may be left out

    Splits train and val.
    """

    HOMEPAGE = "https://ai.google.com/research/ConceptualCaptions"
    NEEDS = ("train/",)
    LISTS: ClassVar = {"train": ("Train_GCC-training.tsv",), "val": ("Validation_GCC-1.1.0-Validation.tsv",)}

    def rows(self, *lists: Path) -> Iterator[tuple[str, str]]:
        return read_table(lists[0], ("caption", "url"))
