"""Stored regions of other programs, as `writing.write` takes them: read in many threads, one rule for all images."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from align_jax.data.region_store import check_rule, key_of
from align_jax.data.regions import Regions
from align_jax.data.source import BadExample
from align_jax.evals.embedding import READERS
from align_jax.region_files import fields, hdf5, npz, parquet, tsv, uniter_lmdb
from align_jax.region_files.cleaning import Rules, clean
from align_jax.region_files.reading import Reader
from align_jax.region_files.writing import Entry
from align_jax.types import AlignError

AHEAD = 64  # images that are read together: a few hundred kilobytes each
FORMATS = {"tsv": tsv.Tsv, "npz": npz.Npz, "lmdb": uniter_lmdb.Lmdb, "hdf5": hdf5.Hdf5, "parquet": parquet.Parquet}
"""Name -> what reads paths of it."""


def open_reader(form: str, path: Sequence[str], *, ids: str = "") -> Reader:
    """The reader of files of a format of `FORMATS`; `ids` names the images of an HDF5 file without ids."""
    if ids and form != "hdf5":
        raise AlignError(f"--ids: expected --read=hdf5, whose files may have no ids, found --read={form}")
    reader = FORMATS[form](path, **({"ids": ids} if ids else {}))
    if not len(reader):
        raise AlignError(f"--path: expected at least one image, found none in {', '.join(path)}")
    return reader


class Converted:
    """The images of a reader."""

    def __init__(
        self,
        reader: Reader,
        *,
        classes: tuple[str, ...] | int | None = None,
        width: int | None = None,
        most: int = 100,
        dtype: str = "float16",
        probabilities: bool = False,
        units: str = "auto",
        key: str = "id",
        origin: Mapping[str, Any],
    ):
        """The width, and without `classes` their number, are those of the first image that can be read.

        Args:
          reader: of `open_reader`.
          classes: names, or how many; None: as many as the probabilities have, or none where nothing has a label.
          width: F; None: that of the first image.
          most: regions of an image. dtype: on disk. probabilities: whether they are kept.
          units: of the boxes, as `fields.regions_of` takes it. key: rule of `region_store.key_of`.
          origin: where the reader's files come from.

        Raises:
          AlignError: where no image can be read, and where labels are found without `classes`.
        """
        check_rule(key, where="--key")
        self._reader, self._units, self._key = reader, units, key
        width, found = self._first(width)
        if classes is None and found.probabilities is None and (found.labels >= 0).any():
            raise AlignError(
                "--classes: expected a file with a name in each line, or how many there are (1600 of bottom-up "
                f"attention), since images have labels up to {found.labels.max()}; found none"
            )
        known = 0 if found.probabilities is None else found.probabilities.shape[1]
        if probabilities and found.probabilities is None:
            raise AlignError("--probabilities: expected files with the probabilities of classes, found none in them")
        self.classes = known if classes is None else classes
        self.rules = Rules(
            width=width, classes=self.classes if isinstance(self.classes, int) else len(self.classes), most=most,
            dtype=dtype, probabilities=probabilities,
        )  # fmt: skip
        self.origin = {**origin, "box_units": units, "key": key}

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, rows: range) -> Iterator[Entry]:
        """Some images, in order."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(rows), AHEAD):
                yield from pool.map(self._read, rows[start : start + AHEAD])

    def _read(self, index: int) -> Entry:
        name = None
        try:
            name, stored = self._reader[index]
            regions, changed = clean(fields.regions_of(stored, units=self._units), self.rules)
            return Entry(key_of(name, self._key), regions, "", changed)
        except BadExample as error:
            return Entry(self._reader.name(index) if name is None else name, None, str(error))

    def _first(self, width: int | None) -> tuple[int, Regions]:
        """(width, regions) of the first image that can be read, and has that width where it is given."""
        reason = ""
        for index in range(len(self._reader)):
            try:
                found = fields.regions_of(self._reader[index][1], units=self._units)
            except BadExample as error:
                reason = reason or str(error)
                continue
            if len(found) and width in (None, found.features.shape[1]):
                return found.features.shape[1], found
        wanted = f" with features of width {width}" if width else ""
        raise AlignError(
            f"--path: expected images{wanted}, found none among {len(self._reader):,} ({reason or 'no such width'})"
        )
