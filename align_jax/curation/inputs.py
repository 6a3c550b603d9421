"""What a curation reads: a run in the same work directory must find the same."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from align_jax.curation.settings import Settings
from align_jax.data.source import Source


def of(chosen: Settings, source: Source, evaluation: Sequence[Source]) -> dict[str, str]:
    """Each file of each source by records, bytes and digest; the contents of columns and checkpoint."""
    found = {}
    for name, each in [("source", source), *((f"evaluation[{i}]", each) for i, each in enumerate(evaluation))]:
        found[f"{name} records"] = str(len(each))
        for file in each.files():
            found[f"{name} {file.name}"] = f"{file.records} records, {file.bytes} bytes, digest {file.digest}"
    if chosen.columns:
        found["columns"] = _digest([Path(chosen.columns)])
    if chosen.embedded:
        folder = Path(chosen.checkpoint)
        found["checkpoint"] = _digest([folder / "model.safetensors", *sorted((folder / "checkpoints").rglob("*"))])
    return found


def _digest(paths: Sequence[Path]) -> str:
    """Of the contents of those that are files."""
    total = hashlib.blake2b(digest_size=8)
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()
