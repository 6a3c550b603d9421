"""A folder of .npz files, one for each image, which is known by the file's path in the folder without its ending.

UNITER (Chen et al. 2020): norm_bb [n, 6] (left, top, right, bottom, width, height, as shares), features [n, F],
conf [n], soft_labels [n, 1 + C], the background first.

Bottom-up attention as OpenVQA and bottom-up-attention.pytorch write it: x ([n, F], or OpenVQA's [F, n]), bbox [n, 4] in
pixels, num_bbox, image_w, image_h; some have cls_prob [n, 1 + C], the background first. Pickled objects in it (`info`)
are not read, since a pickle may run any program.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from align_jax.data import storage
from align_jax.data.source import BadExample
from align_jax.region_files.fields import KNOWN, Fields
from align_jax.region_files.reading import digest_of, files_of


class Npz:
    """The files."""

    def __init__(self, path: Sequence[str]):
        self._files = files_of(path, ending=".npz")
        self.digest = digest_of(self._files)
        paths = [file.path for file in self._files]
        self._folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index].path[len(self._folder) :].lstrip("/").removesuffix(".npz")

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        return self.name(index), arrays_of(storage.read(self._files[index].path))


def arrays_of(data: bytes) -> Fields:
    """The arrays of an .npz that are of use. BadExample where it cannot be read."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files if name in KNOWN}
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadExample("file unreadable") from error
