"""Where this machine keeps what it can make again: compiled programs, plans, indexes of shards."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`align_jax` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "align_jax"
