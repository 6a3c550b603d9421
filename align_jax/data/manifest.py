"""Your own pairs: a jsonl or csv file beside a folder of images."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from align_jax.data.source import File, Record, Source
from align_jax.types import AlignError


class Manifest(Source):
    """jsonl lines {"image": path, "texts": [..]} (or "text": ".."), csv with columns image, text (one row a pair).

    Image paths are relative to `images`, or to the folder of the manifest. Optional fields: "id", "label" (a class
    name; classes are the sorted labels) and "group" (records that show the same thing; by default the image).
    """

    def __init__(self, *, path: str, images: str | None = None):
        file = Path(path)
        if not file.is_file():
            raise AlignError(f"data.source.path: expected a .jsonl or .csv file, found no {path}")
        self._folder = Path(images) if images else file.parent
        if not self._folder.is_dir():
            raise AlignError(f"data.source.images: expected a folder, found no {self._folder}")
        if file.suffix not in (".jsonl", ".csv"):
            raise AlignError(f"data.source.path: expected a .jsonl or .csv file, found {path}")
        try:
            rows = list(_jsonl(file) if file.suffix == ".jsonl" else _csv(file))
        except UnicodeDecodeError as error:
            raise AlignError(f"{file}: expected UTF-8, found byte {error.object[error.start]:#x}") from error
        labels = [str(row["label"]) for row in rows if "label" in row]
        self.classes = tuple(sorted(set(labels)))
        self._records = [
            Record(
                id=str(row.get("id", row["image"])),
                image=str(self._folder / row["image"]),
                texts=tuple(row["texts"]),
                group=str(row.get("group", row["image"])),
                label=self.classes.index(str(row["label"])) if "label" in row else -1,
            )
            for row in rows
        ]
        digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
        self._file = File(path, len(rows), file.stat().st_size, digest)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return pa.chunked_array([[record.id for record in self._records]], pa.string())

    def files(self) -> list[File]:
        """The manifest."""
        return [self._file]

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return (text for record in self._records for text in record.texts)


def _jsonl(file: Path) -> Iterator[dict]:
    with file.open(encoding="utf-8-sig") as lines:  # not str.splitlines, which also splits at U+2028 inside a text
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = {key: value for key, value in json.loads(line).items() if value is not None}
            except (json.JSONDecodeError, AttributeError):
                row = {}
            row["texts"] = [row["text"]] if "text" in row else row.get("texts")
            if not _is_pair(row.get("image"), row["texts"]):
                raise AlignError(
                    f'{file}:{number}: expected {{"image": path, "texts": [text, ..]}}, found {line.strip()[:80]!r}'
                )
            yield row


def _is_pair(image: Any, texts: Any) -> bool:
    return isinstance(image, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def _csv(file: Path) -> Iterator[dict]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"image", "text"} <= set(reader.fieldnames or ()):
            raise AlignError(f"{file}: expected columns image and text, found {reader.fieldnames}")
        rows: dict[str, dict] = {}
        for row in reader:
            if not row["image"]:
                raise AlignError(f"{file}:{reader.line_num}: expected an image path, found none")
            kept = rows.setdefault(row["image"], {k: v for k, v in row.items() if k != "text" and v} | {"texts": []})
            kept["texts"].append(row["text"] or "")
    yield from rows.values()
