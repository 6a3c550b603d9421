"""The table of hard negatives that `align_jax.mine` writes: for each record, what is near it and is not its own.

A parquet file of SCHEMA: `texts` are near the record's image, `images` are ids of records whose images are near one of
its texts; both nearest first, with their cosines. Its metadata have the facts: which model mined which data, and how.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from align_jax.data.source import Source
from align_jax.types import AlignError

NAME, NAMES, SCORES = pa.large_string(), pa.large_list(pa.large_string()), pa.large_list(pa.float32())
SCHEMA = pa.schema([
    ("id", NAME), ("texts", NAMES), ("text_scores", SCORES), ("images", NAMES), ("image_scores", SCORES),
])  # fmt: skip
FACTS = "align_jax.mine"  # key of the metadata
COLUMNS = ("id", "texts", "images")  # those that training reads


class HardNegatives:
    """A table, by record.

    Attributes: digest (of the file).
    """

    def __init__(self, path: str, source: Source):
        """AlignError where `path` is none, or one of another source: each of its records must be one of the source."""
        table = _read(path)
        with Path(path).open("rb") as file:
            self.digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        ids = source.ids().cast(NAME).combine_chunks()
        self._rows = {name.as_py(): row for row, name in enumerate(table["id"])}
        self._texts, images = (table[name].combine_chunks() for name in ("texts", "images"))
        named = pa.concat_arrays([table["id"].combine_chunks(), images.flatten()])
        places = pc.call_function("index_in", [named], pc.SetLookupOptions(value_set=ids))
        strange = named.filter(places.is_null()).unique()
        if len(strange):
            raise AlignError(
                "config.data.negatives.path: expected negatives of the records of config.data.source, found "
                f"{len(strange):,} records that are not in it, such as {strange[0].as_py()!r}, in {path}; mine them "
                "from this source"
            )
        self._images = pa.LargeListArray.from_arrays(images.offsets, places.slice(len(table)))

    def texts(self, name: str) -> list[str]:
        """Those near the image of record `name`; none where it is not in the table."""
        row = self._rows.get(name)
        return [] if row is None else self._texts[row].as_py()

    def images(self, name: str) -> list[int]:
        """Places in the source of the records whose images are near the texts of record `name`."""
        row = self._rows.get(name)
        return [] if row is None else self._images[row].as_py()


def write(path: Path, parts: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """The table of the rows of all parts, each {column of SCHEMA: values}."""
    schema = SCHEMA.with_metadata({FACTS: json.dumps(dict(facts))})
    with pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(pa.table(dict(part), schema=schema))


def read_facts(path: Path) -> dict[str, Any]:
    """What was given to `write`."""
    return json.loads(pq.read_schema(path).metadata[FACTS.encode()])


def _read(path: str) -> pa.Table:
    if not Path(path).is_file():
        raise AlignError(f"config.data.negatives.path: expected a file of align_jax.mine, found no {path}")
    try:
        return pq.read_table(path, columns=list(COLUMNS)).cast(pa.schema([SCHEMA.field(name) for name in COLUMNS]))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise AlignError(
            f"config.data.negatives.path: expected a parquet file with columns {', '.join(COLUMNS)}, found none in "
            f"{path} ({' '.join(str(error).split())}); make it by align_jax.mine"
        ) from error
