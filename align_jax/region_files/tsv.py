"""Tab-separated values of bottom-up attention and of LXMERT: a line for each image, arrays in base64.

Bottom-up attention (Anderson et al. 2018, tools/generate_tsv.py), 6 columns: image_id, image_w, image_h, num_boxes,
boxes (f32 [n, 4], pixels), features (f32 [n, F]). It has neither labels nor scores.

LXMERT (Tan & Bansal 2019), 10 columns: img_id, img_h, img_w, objects_id (i64 [n], 0 to 1599), objects_conf (f32 [n]),
attrs_id (i64 [n]), attrs_conf (f32 [n]), num_boxes, boxes, features. Attributes are not read.

The files have no line of names; one that begins with the names of its columns is read by them. Each file is read once
from end to end to find its lines.
"""

import base64
import binascii
import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from align_jax.data import storage
from align_jax.data.source import BadExample
from align_jax.data.storage import Stored
from align_jax.region_files.fields import Fields
from align_jax.region_files.reading import digest_of, files_of, refuse

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
          "features")  # fmt: skip
ARRAYS = {"objects_id": np.int64, "objects_conf": np.float32, "boxes": np.float32, "features": np.float32}
NUMBERS = ("image_w", "image_h", "img_w", "img_h", "num_boxes")
NAMES = ("image_id", "img_id")
HEAD = 1 << 26  # bytes in which a first line ends


class Tsv:
    """The lines of .tsv files."""

    def __init__(self, path: Sequence[str]):
        files = files_of(path, ending=".tsv")
        self.digest = digest_of(files)
        self._files = [_File(file) for file in files]
        self._stops = list(accumulate(map(len, self._files)))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def name(self, index: int) -> str:
        file, line = self._place(index)
        return f"{file.path}, line {line + file.skipped + 1}"

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        file, line = self._place(index)
        return file.read(line)

    def _place(self, index: int) -> tuple["_File", int]:
        number = bisect.bisect_right(self._stops, index)
        return self._files[number], index - (self._stops[number - 1] if number else 0)


class _File:
    """One of them."""

    def __init__(self, file: Stored):
        self.path, self._file = file.path, file
        with storage.open_stream(file) as stream:
            starts = np.array([0, *accumulate(map(len, stream))])
            stream.seek(0)
            first = stream.readline(HEAD).decode("utf-8", "replace").rstrip("\r\n").split("\t")
        named = "features" in first and "boxes" in first
        self.skipped = int(named)
        self._starts = starts[self.skipped :]
        self._columns = tuple(first) if named else {len(names): names for names in (BOTTOM_UP, LXMERT)}.get(len(first))
        if not self._columns or not any(name in self._columns for name in NAMES):
            raise refuse(
                self.path, f"{len(BOTTOM_UP)} columns of bottom-up attention or {len(LXMERT)} of LXMERT", len(first)
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, line: int) -> tuple[str, Fields]:
        """(id, fields) of one line."""
        start, stop = self._starts[line : line + 2].tolist()
        values = storage.read_range(self._file, start, stop).rstrip(b"\r\n").split(b"\t")
        if not self._columns or len(values) != len(self._columns):
            raise BadExample("line with another number of columns")
        row = dict(zip(self._columns, values, strict=True))
        try:
            key = next(row[name] for name in NAMES if name in row).decode()
            fields: dict[str, Any] = {name: float(row[name]) for name in NUMBERS if name in row}
            count = int(fields["num_boxes"])
            arrays = {name: _decoded(row[name], kind) for name, kind in ARRAYS.items() if name in row}
            for name, width in {"boxes": 4, "features": len(arrays["features"]) // max(count, 1)}.items():
                arrays[name] = arrays[name].reshape(count, width)
        except (ValueError, KeyError, OverflowError) as error:
            raise BadExample("line unreadable") from error
        return key, fields | arrays


def _decoded(value: bytes, kind: type) -> np.ndarray:
    """The array; also of what Python 3 makes of bytes it is asked to write as text: b'..'."""
    if value.startswith(b"b'") and value.endswith(b"'"):
        value = value[2:-1]
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), kind)
    except binascii.Error as error:
        raise BadExample("line unreadable") from error
