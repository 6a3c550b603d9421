"""What img2dataset leaves in its --output_folder, in three of its formats.

  webdataset   00000.tar   with KEY.jpg, KEY.txt (the caption), KEY.json (url, caption, key, status, ..)
  files        00000/      with the same files
  parquet      00000.parquet with columns key, url, caption, status, and the image in jpg, png or webp

Beside a tar or a folder stands 00000.parquet, with a row for every URL, also for those whose download failed; tars
without it (as copies of data sets are passed on) are read, but nothing tells then what they lack.
"""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from align_jax.types import AlignError

IMAGES = ("jpg", "png", "webp")  # what --encode_format may be
END_OF_TAR = bytes(1024)
AGAIN = "run img2dataset again with the same --output_folder, which makes what is not finished"


class Slice(NamedTuple):
    """Bytes of a file that are read when they are written."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Pair(NamedTuple):
    """A downloaded image and its caption; made by `pair`."""

    id: str
    url: str
    caption: str
    filename: str
    image: Path | Slice | bytes


def pair(id: str, url: str, caption: str, filename: str, image: Path | Slice | bytes) -> Pair | str:
    """The pair, or the reason why it is none. Bytes that were no UTF-8 are surrogates in the caption."""
    if not caption.strip():
        return "caption empty"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        return "caption not UTF-8"
    return Pair(id, url, caption, filename, image) if _size(image) else "image empty"


def shards(folder: Path) -> list[Iterator[Pair | str]]:
    """For each of img2dataset's shards, its pairs, and a reason for each that is missing; [] if it was not here."""
    names = sorted(os.listdir(folder))
    tables = {name.removesuffix(".parquet"): folder / name for name in names if name.endswith(".parquet")}
    tars = {name.removesuffix(".tar"): folder / name for name in names if name.endswith(".tar")}
    folders = {name: folder / name for name in names if name in tables and (folder / name).is_dir()}
    if any(name.endswith(".tfrecord") for name in names):
        raise AlignError(f"{folder}: expected webdataset, files or parquet of img2dataset, found tfrecord; convert it")
    for path in tables.values():
        _check_table(path, with_image=not tars and not folders)
    if not tars and not folders:
        return [_of_table(path) for path in tables.values()]
    if lacking := sorted(set(tables) - set(tars or folders)):
        raise AlignError(f"{folder}: expected a shard for each .parquet, found none for {lacking[0]}; {AGAIN}")
    for path in tars.values():
        _check_tar(path)
    samples = {name: _in_tar(path) for name, path in tars.items()} or {
        name: _in_folder(path) for name, path in folders.items()
    }
    return [_of_samples(found, tables.get(name)) for name, found in samples.items()]


def _check_table(path: Path, *, with_image: bool) -> None:
    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise AlignError(f"{path}: expected parquet, found {str(error).splitlines()[0]}; {AGAIN}") from error
    if not {"key", "url", "status", "caption"} <= names or (with_image and not names & set(IMAGES)):
        image = f" and one of {IMAGES}" if with_image else ""
        raise AlignError(
            f"{path}: expected the columns key, url, status, caption{image} of img2dataset --caption_col, "
            f"found {sorted(names)}"
        )


def _check_tar(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END_OF_TAR)))
        if file.read() != END_OF_TAR:
            raise AlignError(f"{path}: expected a tar, found no end of it: it is truncated; {AGAIN}")


def _of_table(path: Path) -> Iterator[Pair | str]:
    table = pq.ParquetFile(path)
    (encoded,) = set(IMAGES) & set(table.schema_arrow.names)
    for batch in table.iter_batches(batch_size=256, columns=["key", "url", "status", "caption", encoded]):
        for row in batch.to_pylist():
            if row["status"] != "success" or row[encoded] is None:
                yield _reason(row["status"])
            else:
                yield pair(row["key"], row["url"], row["caption"] or "", f"{row['key']}.{encoded}", row[encoded])


def _of_samples(samples: Iterator[tuple[str, dict[str, Path | Slice]]], table: Path | None) -> Iterator[Pair | str]:
    statuses: Counter[str | None] = Counter()
    if table:
        statuses.update(pq.read_table(table, columns=["status"])["status"].to_pylist())
    successes = statuses.pop("success", 0)
    for key, files in samples:
        successes -= 1
        yield _sample(key, files)
    for status, count in (statuses + Counter(success=successes)).items():
        yield from [_reason(status)] * count


def _sample(key: str, files: dict[str, Path | Slice]) -> Pair | str:
    try:
        meta = json.loads(_text(files["json"])) if "json" in files else {}
    except ValueError:
        return "metadata unreadable"
    suffix = next((suffix for suffix in IMAGES if suffix in files), None)
    if suffix is None:
        return "image missing"
    caption = _text(files["txt"]) if "txt" in files else meta.get("caption") or ""
    return pair(key, meta.get("url") or "", caption, f"{key}.{suffix}", files[suffix])


def _reason(status: str | None) -> str:
    """img2dataset's own word for a failure; a success that is not there has been removed since."""
    return "image missing" if status in (None, "success") else status


def _in_tar(path: Path) -> Iterator[tuple[str, dict[str, Path | Slice]]]:
    key, files = "", {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                if stem != key and files:
                    yield key, files
                    files = {}
                key = stem
                if member.isfile():
                    files[suffix] = Slice(path, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise AlignError(f"{path}: expected a tar, found {error}; {AGAIN}") from error
    if files:
        yield key, files


def _in_folder(folder: Path) -> Iterator[tuple[str, dict[str, Path | Slice]]]:
    samples: dict[str, dict[str, Path | Slice]] = {}
    for name in sorted(os.listdir(folder)):
        key, _, suffix = name.partition(".")
        samples.setdefault(key, {})[suffix] = folder / name
    yield from samples.items()


def _size(image: Path | Slice | bytes) -> int:
    if isinstance(image, Path):
        return image.stat().st_size
    return image.size if isinstance(image, Slice) else len(image)


def _text(file: Path | Slice) -> str:
    return (file.read_bytes() if isinstance(file, Path) else file.read()).decode("utf-8", "surrogateescape")
