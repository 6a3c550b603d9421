"""LMDB as UNITER stores regions (scripts/convert_imgdir.py): `<name>.npz` -> the arrays of that file.

A value is MessagePack with the arrays as msgpack-numpy writes them, {nd, type, kind, shape, data}, or an .npz. Arrays
are those of `npz`; UNITER makes float16 of float32. An image is known by its name without .npz. Keys that begin with __
hold no image.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align_jax.data import listing
from align_jax.data.source import BadExample
from align_jax.region_files.fields import KNOWN, Fields
from align_jax.region_files.npz import arrays_of
from align_jax.region_files.reading import FLAG, digest_of, refuse
from align_jax.types import AlignError

ZIP = b"PK"


class Lmdb:
    """The values of one database: a folder with data.mdb, or such a file."""

    def __init__(self, path: Sequence[str]):
        if len(path) != 1:
            raise AlignError(f"{FLAG}: expected one LMDB, found {len(path)}; convert each to a folder of its own")
        single = path[0].endswith(".mdb")
        lmdb, self._msgpack = _package("lmdb"), _package("msgpack")
        try:
            self._database = lmdb.open(path[0], subdir=not single, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise refuse(path[0], "an LMDB", error) from error
        self.digest = digest_of(listing.expand(path[0] if single else f"{path[0]}/data.mdb", where=FLAG))
        with self._database.begin() as transaction, transaction.cursor() as cursor:
            self._keys = [key for key in cursor.iternext(values=False) if not key.startswith(b"__")]

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return self._keys[index].decode("utf-8", "replace").removesuffix(".npz")

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        with self._database.begin() as transaction:
            value = transaction.get(self._keys[index])
        return self.name(index), arrays_of(value) if value.startswith(ZIP) else self._unpacked(value)

    def _unpacked(self, value: bytes) -> Fields:
        try:
            found = self._msgpack.unpackb(value, object_hook=_array, raw=False, strict_map_key=False)
        except (ValueError, TypeError, self._msgpack.UnpackException) as error:
            raise BadExample("value unreadable") from error
        if not isinstance(found, dict):
            raise BadExample("value unreadable")
        fields = {name.decode() if isinstance(name, bytes) else name: array for name, array in found.items()}
        return {name: array for name, array in fields.items() if name in KNOWN}


def _array(found: Mapping[Any, Any]) -> Any:
    """An array or a number where msgpack-numpy wrote one; its names are bytes or, in old files, texts."""
    parts = {name.decode() if isinstance(name, bytes) else name: value for name, value in found.items()}
    if "nd" not in parts:
        return found
    kind = np.dtype(parts["type"].decode() if isinstance(parts["type"], bytes) else parts["type"])
    if kind.kind not in "fiu":
        raise ValueError(f"no numbers but {kind}")
    values = np.frombuffer(parts["data"], kind)
    return values.reshape(parts["shape"]) if parts["nd"] else values[0]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AlignError(f'--read=lmdb: expected the package {name}; run: pip install "align-jax[regions]"') from error
