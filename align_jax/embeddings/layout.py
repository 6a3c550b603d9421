"""The folder: whose it is, and the files of its parts."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from align_jax import files, provenance
from align_jax.data.source import Source
from align_jax.types import AlignError

FACTS = "embeddings.json"
OTHER = {"weights": "another checkpoint", "data": "other data", "records": "other data"}  # the rest: other options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What all files of a folder have in common."""

    weights: str  # digest
    data: str  # digest
    records: int  # of the source
    captions: str  # "first", "all" or "none"
    dtype: str  # of the embeddings
    part_size: int  # records of a part; the last has fewer

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-self.records // self.part_size)

    def part(self, number: int) -> range:
        """The records of a part."""
        return range(number * self.part_size, min((number + 1) * self.part_size, self.records))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of files. Numbers have as many digits as that of the parts, so that names sort as numbers do."""

    folder: Path
    facts: Facts

    def images(self, part: int) -> Path:
        """[n, D] of the pictures."""
        return self._of("img_emb", part, "npy")

    def texts(self, part: int) -> Path:
        """[n, D] of the captions."""
        return self._of("text_emb", part, "npy")

    def metadata(self, part: int) -> Path:
        """A row for each row of the above."""
        return self._of("metadata", part, "parquet")

    def left_out(self, part: int) -> Path:
        """A row for each record that is not among them."""
        return self._of("left_out", part, "parquet")

    def counts(self, part: int) -> Path:
        """The end of a part."""
        return self.folder / "parts" / f"part_{self._number(part)}.json"

    def unfinished(self, part: int) -> Path:
        """Folder of pieces."""
        return self.folder / "parts" / f"part_{self._number(part)}.unfinished"

    @cached_property
    def finished(self) -> dict[int, dict[str, Any]]:
        """Part -> its counts, of the parts that were finished when this was first asked for."""
        paths = {part: self.counts(part) for part in range(self.facts.parts)}
        return {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}

    def _of(self, folder: str, part: int, suffix: str) -> Path:
        return self.folder / folder / f"{folder}_{self._number(part)}.{suffix}"

    def _number(self, part: int) -> str:
        return str(part).zfill(len(str(self.facts.parts)))


def data_digest(source: Source, options: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what is read and how. Where it lies does not matter."""
    how = {key: value for key, value in options.items() if key != "path"}
    text = json.dumps([provenance.digest(source), how], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def claim(folder: Path, facts: Facts, *, flag: str, process: int = 0) -> Layout:
    """Notes whose folder it is before anything else is written. AlignError, which names the flag, for one of others.

    Processes that work together may all do it, each with a number of its own.
    """
    path = folder / FACTS
    if not path.exists():
        begun = f"{path.stem}.partial"  # by another process, which may even be through by now
        others = folder.exists() and any(not found.name.startswith(begun) for found in folder.iterdir())
        if others and not path.exists():
            raise AlignError(f"{flag}: expected a new folder, or embeddings, found {folder} with other files in it")
        files.write_json(path, dataclasses.asdict(facts), process=process)
    found = dataclasses.asdict(read_facts(folder))
    for key, wanted in dataclasses.asdict(facts).items():
        if found[key] != wanted:
            raise AlignError(
                f"{folder} holds embeddings made with {OTHER.get(key, 'other options')}: {key} {found[key]}, now "
                f"{wanted}; give another {flag}, or delete that folder"
            )
    return Layout(folder, facts)


def read_facts(folder: Path) -> Facts:
    """Whose folder it is; AlignError where it is none of embeddings."""
    path = folder / FACTS
    try:
        return Facts(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise AlignError(f"{folder}: expected embeddings, found no {FACTS}; make them with align_jax.embed") from error
    except (ValueError, TypeError) as error:
        raise AlignError(f"{path}: expected the facts of embeddings, found {error}; delete {folder}") from error


def clear(folder: Path, facts: Facts) -> None:
    """Removes the folder unless it has these facts."""
    try:
        kept = read_facts(folder) == facts
    except AlignError:
        kept = False
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
