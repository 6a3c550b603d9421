"""What all builders share: how examples become files, and the features of an image with its texts."""

import abc
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tensorflow_datasets as tfds

from align_jax.datasets import layout

SHARD = 2000  # records of a file: 100 to 300 MB of photos

Example = dict[str, Any]
Shard = Callable[[], Iterator[tuple[int, Example]]]  # yields (key, example); called once, in the order of the shards
Item = TypeVar("Item")


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A data set from a user's folder, tfds' `manual_dir`, written as array_record in the order of its files.

    tfds' GeneratorBasedBuilder is no base: what it shuffles beyond 1 GB, it writes with TensorFlow. Order is no loss,
    since the reader shuffles.

    A builder's docstring says what to download and how the folder looks: it is what --list prints.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; tfds would look for checksums by importlib_resources, which it does not install.
    url_infos = None
    ALSO = ""  # what a family of builders adds to the docstring of each
    HOMEPAGE: str
    NEEDS: tuple[str, ...]  # files, and folders with a slash at the end, relative to the source

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.MANUAL_DOWNLOAD_INSTRUCTIONS = f"{inspect.getdoc(cls)}\n{cls.ALSO}".strip()

    def __init__(self, *, file_format: str = "array_record", **options: Any):
        super().__init__(file_format=file_format, **options)

    @property
    def config(self) -> str:
        """Name of the config; '' where there are none."""
        return self.builder_config.name if self.builder_config else ""

    @property
    def left_out(self) -> dict[str, dict[str, int]]:
        """Split -> reason -> how many of what the source names are no records. It stands beside the records."""
        return cast(dict[str, Any], self.info.metadata).setdefault("left_out", {})

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """Name -> feature."""

    @abc.abstractmethod
    def shards(self, source: Path) -> dict[str, list[Shard]]:
        """Split -> its shards. Checks all it can before the first is called: AlignError."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.MANUAL_DOWNLOAD_INSTRUCTIONS,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(self.features()),
            metadata=tfds.core.MetadataDict(),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Shard]]:
        source = Path(dl_manager.manual_dir)
        layout.require(self.name, source, self.NEEDS)
        return self.shards(source)


def pair_features() -> dict[str, Any]:
    """id: unique and the same in every build. image: encoded bytes. image/filename: in the source. captions: texts."""
    return {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "captions": tfds.features.Sequence(tfds.features.Text()),
    }


def in_shards(items: Sequence[Item], example: Callable[[Item], Example]) -> list[Shard]:
    """The examples of `items`, in order; each is made when it is written."""
    return [functools.partial(_examples, items, start, example) for start in range(0, len(items), SHARD)]


def _examples(items: Sequence[Item], start: int, example: Callable[[Item], Example]) -> Iterator[tuple[int, Example]]:
    for key in range(start, min(start + SHARD, len(items))):
        yield key, example(items[key])
