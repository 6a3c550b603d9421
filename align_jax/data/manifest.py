"""Your own pairs: a jsonl or csv file beside a folder of images."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from align_jax.data.source import Record
from align_jax.types import AlignError


class Manifest:
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
        rows = list(_jsonl(file) if file.suffix == ".jsonl" else _csv(file))
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

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return (text for record in self._records for text in record.texts)


def _jsonl(file: Path) -> Iterator[dict]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["texts"] = [row["text"]] if "text" in row else list(row["texts"])
            row["image"] = str(row["image"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise AlignError(
                f'{file}:{number}: expected {{"image": path, "texts": [text, ..]}}, found {line[:80]!r}'
            ) from error
        yield row


def _csv(file: Path) -> Iterator[dict]:
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if not {"image", "text"} <= set(reader.fieldnames or ()):
            raise AlignError(f"{file}: expected columns image and text, found {reader.fieldnames}")
        rows: dict[str, dict] = {}
        for row in reader:
            kept = rows.setdefault(row["image"], {k: v for k, v in row.items() if k != "text" and v} | {"texts": []})
            kept["texts"].append(row["text"] or "")
    yield from rows.values()
