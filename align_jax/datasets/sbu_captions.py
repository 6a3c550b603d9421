"""SBU captioned photos."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import ClassVar

from align_jax.datasets.web_pairs import WebPairs
from align_jax.types import AlignError


class SbuCaptions(WebPairs):
    """SBU captioned photos (Ordonez et al. 2011): a million photos of Flickr with their owners' captions.

    Download SBUCaptionedPhotoDataset.tar.gz, and what its list of URLs links to:

      SOURCE/SBU_captioned_photo_dataset_urls.txt                a URL on each line
      SOURCE/SBU_captioned_photo_dataset_captions.txt            the caption of the URL on the same line
      SOURCE/train/                                              the photos, or 4385058960_b0f291553e.jpg .. by URL

    One split, train.
    """

    HOMEPAGE = "https://www.cs.rice.edu/~vo9/sbucaptions/"
    NEEDS = ("train/",)
    LISTS: ClassVar = {"train": ("SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt")}

    def stem(self, row: int, url: str) -> str:
        return PurePosixPath(url).stem

    def rows(self, *lists: Path) -> Iterator[tuple[str, str]]:
        with lists[0].open("rb") as urls, lists[1].open("rb") as captions:
            for number, lines in enumerate(zip_longest(urls, captions), 1):
                if None in lines:
                    raise AlignError(f"{lists[0]}:{number}: expected a line for each of {lists[1]}, found one without")
                url, caption = (line.decode("utf-8", "surrogateescape").rstrip("\r\n") for line in lines)
                if not url.startswith(("http://", "https://")):
                    raise AlignError(f"{lists[0]}:{number}: expected a URL, found {url!r:.100}")
                yield url, caption
