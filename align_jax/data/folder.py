"""A folder of pictures, without captions."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from align_jax.data.source import BadExample, File, Record, Source
from align_jax.types import AlignError

# How the names of files end that are taken for pictures, of the formats that `data/images.py` reads.
ENDINGS = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Folder(Source):
    """The pictures of a folder and of the folders in it, sorted by path; a record's id is its path in the folder.

    What is hidden is left out. Files of other kinds and links that lead out of the folder are counted in `problems`; a
    file that becomes such a link later is a BadExample.
    """

    def __init__(self, *, path: str):
        if not os.path.isdir(path):
            raise AlignError(f"data.source.path: expected a folder, found no {path}")
        self._folder = os.path.realpath(path)
        problems: Counter[str] = Counter()
        digest = hashlib.blake2b(digest_size=8)
        self._names: list[str] = []
        size = 0
        for name in sorted(self._files()):
            if not name.lower().endswith(ENDINGS):
                problems["not a picture by its name"] += 1
            elif not self._is_inside(name):
                problems["link out of the folder"] += 1
            else:
                status = os.stat(os.path.join(self._folder, name))
                digest.update(f"{_spelt(name)} {status.st_size} {status.st_mtime_ns}\n".encode())
                size += status.st_size
                self._names.append(name)
        self.problems = dict(problems)
        self._file = File(path, len(self._names), size, digest.hexdigest())

    def _files(self) -> Iterator[str]:
        """Paths in the folder."""
        for folder, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = os.path.relpath(folder, self._folder)
            for name in names:
                if not name.startswith("."):
                    yield os.path.normpath(os.path.join(inside, name))

    def _is_inside(self, name: str) -> bool:
        path = os.path.realpath(os.path.join(self._folder, name))
        return os.path.isfile(path) and os.path.commonpath([path, self._folder]) == self._folder

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        if not self._is_inside(name):
            raise BadExample("image file missing")
        return self.about(index)

    def about(self, index: int) -> Record:
        """All of a record: its image is a path."""
        name = self._names[index]
        shown = _spelt(name)
        return Record(shown, os.path.join(self._folder, name), (), shown)

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return pa.chunked_array([[_spelt(name) for name in self._names]], pa.string())

    def texts(self) -> Iterator[str]:
        """None."""
        return iter(())

    def files(self) -> list[File]:
        """The folder; its digest is of the names, sizes and times of the pictures."""
        return [self._file]


def _spelt(name: str) -> str:
    """A file's name in UTF-8, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
