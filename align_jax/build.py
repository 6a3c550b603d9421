"""Builds a data set from the files that you have downloaded, for the source {"name": "tfds", "dataset": NAME, ..}.

python -m align_jax.build --list                                    # the data sets, and what to download for each
python -m align_jax.build --dataset=flickr30k --source=downloads/flickr30k [--data_dir=tensorflow_datasets]
"""

import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import flags

from align_jax.cli import main_of
from align_jax.config import nearest
from align_jax.datasets import BUILDERS, Builder
from align_jax.types import AlignError

DATASET = flags.DEFINE_string("dataset", None, f"name[/config]: {', '.join(BUILDERS)}; all configs if none is named")
SOURCE = flags.DEFINE_string("source", None, "the folder that holds what you have downloaded: see --list")
DATA_DIR = flags.DEFINE_string("data_dir", None, "where to write it; by default where tfds looks for data sets")
LIST = flags.DEFINE_bool("list", False, "print the data sets and what to download for each")


def build(dataset: str, source: Path, data_dir: str | None) -> list[Builder]:
    """Builds name[/config], all configs if none is named; what is already built stays as it is."""
    name, _, config = dataset.partition("/")
    if name not in BUILDERS:
        raise AlignError(f"--dataset: no data set {name!r}; {nearest(name, list(BUILDERS))}")
    configs = list(BUILDERS[name].builder_configs)
    if config and config not in configs:
        known = nearest(config, configs) if configs else "it has none"
        raise AlignError(f"--dataset: {name} has no config {config!r}; {known}")
    if not source.is_dir() or not any(source.iterdir()):
        raise AlignError(f"--source: expected a folder with files, found none at {source}; see --list")
    wanted = [config] if config else configs or [None]
    return [_built(BUILDERS[name](config=each, data_dir=data_dir), source) for each in wanted]


def _built(builder: Builder, source: Path) -> Builder:
    if builder.is_prepared():
        print(f"{builder.info.full_name} stands already in {builder.data_dir}; remove that folder to build it anew")
        return builder
    with tempfile.TemporaryDirectory() as scratch:  # nothing is downloaded, and yet tfds makes folders for it
        config = tfds.download.DownloadConfig(manual_dir=source.absolute(), extract_dir=scratch)
        builder.download_and_prepare(download_dir=scratch, download_config=config)
    return builder


def report(builder: Builder) -> Iterator[str]:
    """What was built, and what of each split was left out, by reason."""
    kept = {split: info.num_examples for split, info in builder.info.splits.items()}
    yield f"{builder.info.full_name}: {', '.join(f'{n} {split}' for split, n in kept.items())} in {builder.data_dir}"
    for split, reasons in builder.left_out.items():
        lost = sum(reasons.values())
        if lost:
            words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            yield f"left out of {split}: {lost} of {lost + kept[split]} ({lost / (lost + kept[split]):.1%}): {words}"


def main(_: list[str]) -> None:
    """Checks the flags."""
    if LIST.value:
        for name, cls in BUILDERS.items():
            print(f"{name}\n{textwrap.indent(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.strip(), '  ')}\n")
        return
    if DATASET.value is None or SOURCE.value is None:
        raise AlignError("expected --dataset and --source, or --list, which says what to download for each data set")
    for builder in build(DATASET.value, Path(SOURCE.value), DATA_DIR.value):
        print(*report(builder), sep="\n")


if __name__ == "__main__":
    main_of(main)
