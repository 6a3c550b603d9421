"""The run's classes: those of its training source, kept beside it, since labels mean nothing without them."""

from pathlib import Path

from align_jax.data.source import Source
from align_jax.types import AlignError

FILE = "classes.txt"


def names(source: Source | None, *, folder: Path) -> tuple[str, ...]:
    """Class names, label by label; without a source those that `save` left in the folder."""
    kept = folder / FILE
    if source is None:
        if not kept.exists():
            raise AlignError(f"expected {kept}; the folder is no run or export")
        return tuple(kept.read_text("utf-8").split("\n")[:-1])
    if not source.classes:
        raise AlignError("config.data.source: expected a source with classes, found none; give its records labels")
    if any("\n" in name for name in source.classes) or len(set(source.classes)) < len(source.classes):
        raise AlignError("config.data.source: expected classes of different names, each of one line")
    return source.classes


def save(classes: tuple[str, ...], path: Path) -> None:
    """One name a line."""
    path.write_text("".join(f"{name}\n" for name in classes), "utf-8")
