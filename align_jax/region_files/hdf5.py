"""HDF5 in the three layouts that are about.

A table: features [N, R, F] or [N, F, R] (or image_features), boxes likewise [N, R, 4] (or image_bb, spatial_features),
and where they are there num_boxes, image_w, image_h, labels (classes), scores, each with N rows. So Visual Dialog,
Pythia's grids, and bottom-up attention with a fixed number of regions for VQA.

Rows of all images in one (bottom-up attention for VQA, 10 to 100 regions): image_features [M, F], image_bb [M, 4],
spatial_features [M, 6], and pos_boxes [N, 2], the first row of each image and the row behind its last.

A group for each image, known by its name, with the arrays as data sets or attributes.

In the first two, images are known by image_ids, image_id, img_ids or ids [N]; or by a file (--ids): JSON or pickle of
{id: row}, as VQA's *_imgid2idx.pkl, or of a list; or an id a line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from align_jax.data import listing
from align_jax.data.source import BadExample
from align_jax.region_files import pickles
from align_jax.region_files.fields import BOXES, COUNT, FEATURES, HEIGHT, KNOWN, SHARES, WIDTH, Fields
from align_jax.region_files.reading import digest_of, files_of, local, refuse, text
from align_jax.types import AlignError

IDS = ("image_ids", "image_id", "img_ids", "ids")
SPANS = "pos_boxes"
OF_IMAGES = WIDTH + HEIGHT + COUNT  # one number for an image in every layout


class Hdf5:
    """The images of one file."""

    def __init__(self, path: Sequence[str], *, ids: str = ""):
        files = files_of(path, ending=".h5")
        if len(files) != 1:
            raise AlignError(f"--path: expected one HDF5 file, found {len(files)}; convert each to a folder of its own")
        named = listing.find(ids) if ids else None
        self._path, self.digest = files[0].path, digest_of([*files, named] if named else files)
        try:
            self._file: Any = h5py.File(local(files[0]), "r")  # whose members are of three kinds
        except OSError as error:
            raise refuse(self._path, "an HDF5 file", error) from error
        self._sets = {name: found for name in KNOWN if isinstance(found := self._file.get(name), h5py.Dataset)
                      and found.ndim}  # fmt: skip
        self._spans = self._file[SPANS][:] if SPANS in self._file else None
        if self._sets:
            self._names, self._rows = self._named(ids)
        else:
            self._names = [name for name, found in self._file.items() if isinstance(found, h5py.Group)]
            self._rows = None
            if not self._names or ids:
                found = f"{len(self._names):,} groups" + (" and --ids" if ids else "")
                raise refuse(self._path, "features and boxes, or a group for each image without --ids", found)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        name = self._names[index]
        try:
            if self._rows is None:
                group: Any = self._file[name]
                stored = {**group.attrs, **group}
                return name, {key: value[()] if isinstance(value, h5py.Dataset) else value
                              for key, value in stored.items() if key in KNOWN}  # fmt: skip
            row = self._rows[index]
            own = row if self._spans is None else slice(*self._spans[row].tolist())
            return name, {key: found[row if key in OF_IMAGES else own] for key, found in self._sets.items()}
        except (OSError, RuntimeError) as error:
            raise BadExample("data set unreadable") from error

    def _named(self, ids: str) -> tuple[list[str], list[int]]:
        """(id, row) of the images of tables."""
        features = next((self._sets[name] for name in FEATURES if name in self._sets), None)
        if features is None or not any(name in self._sets for name in SHARES + BOXES):
            raise refuse(self._path, "features and boxes", f"only {', '.join(self._sets)}")
        dimensions = 3 if self._spans is None else 2
        if features.ndim != dimensions:
            raise refuse(self._path, f"features of {dimensions} dimensions", list(features.shape))
        count = len(features) if self._spans is None else len(self._spans)
        stored = next((self._file[name] for name in IDS if name in self._file), None)
        if ids:
            names, rows = read_ids(ids)
        elif stored is not None:
            names, rows = [text(value) for value in np.asarray(stored).reshape(-1).tolist()], list(range(len(stored)))
        else:
            raise refuse(self._path, f"ids as {', '.join(IDS)} or by --ids", "none")
        if len(names) != count or sorted(rows) != list(range(count)):
            raise refuse(self._path, f"an id for each of {count:,} images", f"{len(names):,} ids")
        per_row = count if self._spans is None else len(features)
        for name, found in self._sets.items():
            if (wanted := count if name in OF_IMAGES else per_row) != len(found):
                raise refuse(self._path, f"{wanted:,} rows of {name}", f"{len(found):,}")
        return names, rows


def read_ids(path: str) -> tuple[list[str], list[int]]:
    """(id, row) of what --ids names, in the order of the rows."""
    try:
        if path.endswith(".pkl"):
            found = pickles.load(Path(path))
        elif path.endswith(".json"):
            found = json.loads(Path(path).read_text("utf-8"))
        else:
            found = Path(path).read_text("utf-8").split("\n")
            found = [line.strip() for line in found if line.strip()]
    except (OSError, ValueError) as error:
        raise AlignError(f"--ids: expected a .pkl, .json or .txt file, found {path}: {error}") from error
    if isinstance(found, Mapping) and all(isinstance(row, int | np.integer) for row in found.values()):
        ordered = sorted(found.items(), key=lambda item: item[1])
        return [text(name) for name, _ in ordered], [int(row) for _, row in ordered]
    if isinstance(found, list):
        return [text(name) for name in found], list(range(len(found)))
    raise AlignError(f"--ids: expected {{id: row}} or a list of ids, found {type(found).__name__} in {path}")
