"""Writes regions into a folder of `data.region_store`, shard by shard; a kill costs the shard that it met.

A shard is the images [i * size, (i + 1) * size) of what is given; where none of them can be used, it has no file. What
became of them stands in work/ until all is done. Of two images with one key the first counts.
"""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from align_jax.curation import array_records, layout
from align_jax.data.region_store import FACTS, INDEX, REFUSED, SHARDS, VERSION, Facts, encode, read_facts
from align_jax.data.regions import Regions
from align_jax.region_files.cleaning import Rules
from align_jax.types import AlignError

REQUEST = "request.json"  # what was asked for: by it a folder is known, from the first moment on
SHARD = 1000  # images
TWICE = "key seen before"
REFUSED_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string())])


class Entry(NamedTuple):
    """What became of one image."""

    key: str
    regions: Regions | None  # None: refused
    reason: str = ""
    changed: Mapping[str, int] = {}  # what was done -> regions


class Images(Protocol):
    """What is to be written."""

    @property
    def rules(self) -> Rules: ...

    @property
    def classes(self) -> tuple[str, ...] | int: ...

    @property
    def origin(self) -> Mapping[str, Any]:
        """As regions.json tells it: all on which the regions depend."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: range) -> Iterator[Entry]:
        """Some images, in order."""
        ...


def write(images: Images, out: Path, *, force: bool = False, shard_size: int = SHARD) -> Facts:
    """Writes what is not there yet, with progress and the time left.

    Args:
      out: a new folder, one that this has begun for the same images and rules, or, with `force`, any of regions.
      shard_size: images of a shard.

    Raises:
      AlignError: where the folder holds something else, and where no image can be used.
    """
    request = json.loads(json.dumps({
        "version": VERSION, "shard_size": shard_size, **dataclasses.asdict(images.rules), "class_names": images.classes,
        "images": len(images), "origin": images.origin,
    }))  # fmt: skip
    _claim(out, request, force=force)
    if (out / FACTS).exists():
        return read_facts(str(out))
    with layout.alone(out):
        shards = _Shards(out, len(images), shard_size)
        shards.write(images)
        facts = shards.finish(images)
    shutil.rmtree(out / "work")
    return facts


def summary(facts: Facts, out: Path) -> str:
    """What stands in the folder, and what does not, as a table."""
    names = "unknown names" if isinstance(facts.classes, int) else "known names"
    lines = [
        f"{out}: {facts.regions:,} regions of {facts.images:,} images, {facts.width} numbers each in {facts.dtype}, "
        f"{facts.class_count:,} classes of {names}"
    ]
    counts = [("images", "stored", facts.images)]
    counts += [("images", f"refused: {reason}", count) for reason, count in sorted(facts.refused.items())]
    counts += [("regions", "stored", facts.regions)]
    counts += [("regions", done, count) for done, count in sorted(facts.changed.items())]
    return "\n".join([*lines, *(f"  {what:8}{count:>14,}  {name}" for what, name, count in counts)])


def _claim(out: Path, request: Mapping[str, Any], *, force: bool) -> None:
    """Notes what the folder is for; it is emptied where `force` asks for it."""
    path = out / REQUEST
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        other = next((key for key in request if before.get(key) != request[key]), None)
        if not force and other:
            raise AlignError(
                f"{out}: expected regions with {_short(other, before.get(other), request[other])}; give another --out, "
                "or --force to replace them"
            )
        if force and (other or (out / FACTS).exists()):
            shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AlignError(f"--out: expected a new folder, or regions, found {out} with other files in it")
    if not path.is_file():
        layout.write_json(path, request)


def _short(key: str, before: Any, now: Any) -> str:
    """'most 36, found 100'; of a section, of the first key that differs."""
    while isinstance(before, dict) and isinstance(now, dict):
        part = next(part for part in {**before, **now} if before.get(part) != now.get(part))
        key, before, now = f"{key}.{part}", before.get(part), now.get(part)
    return f"{key} {json.dumps(now)[:80]}, found {json.dumps(before)[:80]}"


class _Shards:
    """The files of a folder."""

    def __init__(self, out: Path, images: int, size: int):
        self._out, self._ranges = out, layout.split(images, size)
        self._names = layout.pieces(images, size)

    def write(self, images: Images) -> None:
        """Those that are not there."""
        left = [number for number in range(len(self._names)) if not self._notes(number).exists()]
        done = len(images) - sum(len(self._ranges[number]) for number in left)
        with tqdm(total=len(images), initial=done, unit="image", desc=f"writing {self._out}", disable=None) as bar:
            for number in left:
                self._write(images, number, bar)

    def _write(self, images: Images, number: int, bar: tqdm) -> None:
        kept: list[tuple[str, int]] = []
        refused: list[tuple[str, str]] = []
        changed: Counter[str] = Counter()
        contents = hashlib.blake2b(digest_size=16)
        with layout.whole(self._shard(number)) as partial, array_records.writing(partial) as append:
            for entry in images.read(self._ranges[number]):
                changed.update(entry.changed)
                if entry.regions is None:
                    refused.append((entry.key, entry.reason))
                else:
                    record = encode(entry.key, entry.regions, dtype=images.rules.dtype)
                    append(record)
                    contents.update(len(record).to_bytes(8, "little") + record)
                    kept.append((entry.key, len(entry.regions)))
                bar.update()
        if not kept:
            self._shard(number).unlink()
        notes = {"kept": kept, "refused": refused, "changed": changed, "contents": contents.hexdigest()}
        layout.write_json(self._notes(number), notes)

    def finish(self, images: Images) -> Facts:
        """The index, what was refused, and the facts, from the notes of all shards."""
        keys: list[str] = []
        counts: list[int] = []
        places: list[tuple[int, int]] = []  # (shard, record)
        refused: list[tuple[str, str]] = []
        changed: Counter[str] = Counter()
        contents = hashlib.blake2b(digest_size=8)
        for number in range(len(self._names)):
            notes = json.loads(self._notes(number).read_text("utf-8"))
            refused += [(key, reason) for key, reason in notes["refused"]]
            changed.update(notes["changed"])
            contents.update(notes["contents"].encode())
            keys += [key for key, _ in notes["kept"]]
            counts += [count for _, count in notes["kept"]]
            places += [(number, record) for record in range(len(notes["kept"]))]
        shard, record = np.array(places, np.int32).reshape(-1, 2).T
        names = [self._shard(number).name for number in range(len(self._names))]
        index = pa.table({
            "key": pa.array(keys, pa.large_string()), "shard": pa.DictionaryArray.from_arrays(shard, names),
            "record": record, "count": pa.array(counts, pa.int32()), "place": np.arange(len(keys)),
        })  # fmt: skip
        index = index.sort_by([("key", "ascending"), ("place", "ascending")]).drop_columns("place").combine_chunks()
        sorted_keys = index["key"].to_pylist()
        first = [number == 0 or sorted_keys[number - 1] != key for number, key in enumerate(sorted_keys)]
        refused += [(key, TWICE) for key, is_first in zip(sorted_keys, first, strict=True) if not is_first]
        index = index.filter(pa.array(first, pa.bool_()))
        reasons = Counter(reason for _, reason in refused)
        if not len(index):
            found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "no image"
            raise AlignError(f"{self._out}: expected an image with regions, found none: {found}")
        rules, regions = images.rules, int(index["count"].to_numpy().sum())
        facts = Facts(
            width=rules.width, classes=images.classes, images=len(index), regions=regions, dtype=rules.dtype,
            probabilities=rules.probabilities, origin=images.origin, refused=dict(sorted(reasons.items())),
            changed=dict(sorted(changed.items())), contents=contents.hexdigest(),
        )  # fmt: skip
        columns = dict(zip(REFUSED_SCHEMA.names, zip(*refused, strict=True) if refused else ([], []), strict=True))
        for name, table in ((INDEX, index), (REFUSED, pa.table(columns, REFUSED_SCHEMA))):
            with layout.whole(self._out / name) as partial:
                pq.write_table(table, partial)
        layout.write_json(self._out / FACTS, dataclasses.asdict(facts))
        return facts

    def _shard(self, number: int) -> Path:
        return self._out / SHARDS / f"regions-{self._names[number]}.array_record"

    def _notes(self, number: int) -> Path:
        return self._out / "work" / f"{self._names[number]}.json"
