"""The pictures of a page, each once, however often it is shown."""

import base64
import io
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from align_jax.evals.panels import Item


class Shown(NamedTuple):
    """An item of a panel, its picture by number."""

    text: str
    thumbnail: int | None


class Thumbnails:
    """Numbers pictures from 0, in the order in which they are first shown."""

    def __init__(self):
        self._numbers: dict[bytes, int] = {}

    def shown(self, item: Item) -> Shown:
        """The item, with a number for its picture."""
        if not item.picture:
            return Shown(item.text, None)
        return Shown(item.text, self._numbers.setdefault(item.picture, len(self._numbers)))

    def addresses(self) -> Iterator[tuple[int, str]]:
        """(number, data: URI) of each, the bytes as they were given."""
        for picture, number in self._numbers.items():
            kind = Image.open(io.BytesIO(picture)).get_format_mimetype()
            yield number, f"data:{kind};base64,{base64.b64encode(picture).decode()}"
