"""Conceptual 12M."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from align_jax.datasets.web_pairs import WebPairs, read_table


class Cc12m(WebPairs):
    """Conceptual 12M (Changpinyo et al. 2021): 12.4 million images of the web with their alt-texts.

    Download the list, as the repository google-research-datasets/conceptual-12m says, and what it links to:

      SOURCE/cc12m.tsv                                           url TAB caption, 12,423,374 rows
      SOURCE/train/                                              its images, or 000000000.jpg .. by row

    One split, train.
    """

    HOMEPAGE = "https://github.com/google-research-datasets/conceptual-12m"
    NEEDS = ("train/",)
    LISTS: ClassVar = {"train": ("cc12m.tsv",)}

    def rows(self, *lists: Path) -> Iterator[tuple[str, str]]:
        return read_table(lists[0], ("url", "caption"))
