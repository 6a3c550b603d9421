"""Small pictures for the page, made here from what a source holds: nothing else of a file is ever shown."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from align_jax.data import images
from align_jax.data.lru import Lru
from align_jax.data.source import BadExample, Source
from align_jax.types import AlignError

SIDE = 288  # pixels of the longer side, at most
KEPT = 64 << 20  # bytes of thumbnails that are kept in memory
THREADS = 4


class Thumbnails:
    """JPEGs of records as data: addresses. Safe among threads."""

    def __init__(self, source: Source):
        self._source = source
        self._kept: Lru[str] = Lru(KEPT, len)
        self._pool = ThreadPoolExecutor(THREADS)

    def __call__(self, rows: Sequence[int]) -> list[str]:
        """data:image/jpeg;base64,... of each row of the source; "" where its picture cannot be read now."""
        return list(self._pool.map(self._one, rows))

    def _one(self, row: int) -> str:
        try:
            return self._kept.get(row, lambda: _address(self._source[row].image))
        except (BadExample, AlignError):  # it could be read when it was embedded; the rest of the page is as good
            return ""


def _address(picture: images.Picture) -> str:
    small = images.decode(picture, at_least=SIDE)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
