"""What users bring: columns of a parquet beside the source, and functions of their own named "module:function"."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from align_jax.data.source import Source
from align_jax.types import AlignError


class Columns:
    """Columns of `path`, a parquet with the `Record.id` of every record as column `id`, in any order."""

    def __init__(self, path: str, names: Sequence[str], source: Source):
        """Reads `names` of it, aligned with the records of the source. AlignError where one lacks its row."""
        self._rows = pa.table({})
        if not names:
            return
        if not Path(path).is_file():
            raise AlignError(f"config.columns: expected a parquet with columns id, {', '.join(names)}, found {path!r}")
        known = pq.read_schema(path).names
        for name in ("id", *names):
            if name not in known:
                raise AlignError(f"config.columns: expected a column {name!r} in {path}, found only {known}")
        table = pq.read_table(path, columns=["id", *dict.fromkeys(names)])
        ids = table["id"].cast(pa.string())
        if (distinct := len(ids.unique())) != len(ids):
            raise AlignError(
                f"config.columns: expected each id once in {path}, found {len(ids)} rows with {distinct} ids"
            )
        wanted = source.ids()
        places = pc.call_function("index_in", [wanted], pc.SetLookupOptions(ids.combine_chunks()))
        if missing := places.null_count:
            example = wanted.filter(places.is_null())[0].as_py()
            raise AlignError(f"config.columns: {missing} records have no row in {path}, such as {example!r}; add them")
        self._rows = table.drop_columns(["id"]).take(places)

    def rows(self, name: str, rows: range) -> list[Any]:
        """The values of some records."""
        return self._rows[name].slice(rows.start, len(rows)).to_pylist()

    def numbers(self, name: str, rows: range) -> list[float]:
        """The same as numbers. AlignError where one is none."""
        values = self.rows(name, rows)
        for row, value in zip(rows, values, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise AlignError(f"config.columns: expected a number as {name} of record {row}, found {value!r}")
        return values

    def words(self, name: str, rows: range) -> list[list[str]]:
        """Texts of some records: a column of strings, or of lists of them; null is none."""
        found = []
        for row, value in zip(rows, self.rows(name, rows), strict=True):
            texts = [] if value is None else [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise AlignError(f"config.columns: expected texts as {name} of record {row}, found {str(value)[:80]!r}")
            found.append(texts)
        return found


def function(path: str, where: str) -> Callable[[Any], Any]:
    """The function that 'module:function' names, from what Python can import."""
    module, colon, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError) as error:
        raise AlignError(f"{where}: expected module:function, found {path!r} ({error})") from error
    if not callable(found):
        raise AlignError(f"{where}: expected module:function, found {path!r}")
    return found


def scores(classify: Callable[[Any], Any], images: np.ndarray, where: str) -> list[float]:
    """`classify(images)` for uint8 [B, size, size, 3]: a number for each."""
    found = np.asarray(classify(images), np.float64)
    if found.shape != (len(images),):
        raise AlignError(f"{where}: expected a score for each of {len(images)} images, found shape {found.shape}")
    return found.tolist()


def languages(identify: Callable[[Any], Any], texts: list[str], where: str) -> list[str]:
    """`identify(texts)`: a language code for each."""
    found = [str(code) for code in identify(texts)]
    if len(found) != len(texts):
        raise AlignError(f"{where}: expected a language for each of {len(texts)} texts, found {len(found)}")
    return found
