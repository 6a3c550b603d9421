"""Weights of any kind that is read here, by the name of a file, a folder or a repository; and writing them whole."""

from pathlib import Path

from align_jax.interop.pretrained import Foreign, Pretrained


def open_pretrained(name_or_path: str | Path) -> Pretrained:
    """A model or a tower: a Hugging Face folder or hub name, a file of weights, or a folder that `convert` wrote.

    AlignError, in one line, for what is missing, damaged or of no kind that is read.
    """
    raise NotImplementedError


def save_foreign(foreign: Foreign, folder: Path, *, force: bool = False) -> None:
    """Writes model.safetensors, config.json and the files into `folder`, whole or not at all.

    AlignError where the folder exists, unless `force` says that it may be replaced.
    """
    raise NotImplementedError
