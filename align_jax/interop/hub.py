"""Repositories of the Hugging Face hub, fetched by name: weights and what belongs to them, never code."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from align_jax.types import AlignError

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
TEXTS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
         "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "README.md",
         "LICENSE*")  # fmt: skip
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def fetch(name: str) -> Path:
    """The folder in the hub's cache with the repository `name`; torch files only where it has no safetensors.

    AlignError where `name` is none, and where it is neither in the cache nor within reach.
    """
    if not NAME.fullmatch(name):
        raise AlignError(f"expected a folder, a file of weights or a hub name (owner/name), found no {name}")
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*TEXTS, *SAFETENSORS]))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*TEXTS, *TORCH]))
    except (HTTPError, HFValidationError, OSError) as error:
        raise AlignError(
            f"{name}: expected a folder of that name, or a repository of the Hugging Face hub within reach, found "
            f"neither ({type(error).__name__}); elsewhere run `hf download {name} --local-dir FOLDER`, and give FOLDER"
        ) from error
    return folder
