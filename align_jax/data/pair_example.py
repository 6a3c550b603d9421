"""An image-text pair as a tf.train.Example: what TFRecord and ArrayRecord files of pairs hold."""

import dataclasses
from typing import Any

from align_jax.data import example
from align_jax.data.rows import Rows
from align_jax.data.source import BadExample


@dataclasses.dataclass(frozen=True)
class PairExample:
    """The names of its features. By default those of img2dataset, and of `align_jax.curate`."""

    image: str = "jpg"  # encoded bytes
    texts: tuple[str, ...] = ("txt",)  # features with one text or several
    key: str | None = "key"  # tells it from others of its shard; None for its number
    group: str | None = "group"  # where it is there
    label: str | None = "label"  # a class by its name or number, where it is there

    def picture(self, serialized: bytes) -> bytes:
        """The image. BadExample where there is none."""
        return _picture(example.decode(serialized), self.image)

    def add(self, rows: Rows, number: int, serialized: bytes, **place: int) -> None:
        """Adds record `number` of a shard to its rows, or counts why it is none."""
        key = str(number)
        try:
            features = example.decode(serialized)
            if self.key:
                values = features.get(self.key) or [None]
                if values[0] is None:
                    raise BadExample("key missing")
                key = _text(values[0])
            _picture(features, self.image)
        except BadExample as bad:
            rows.problem(str(bad), key)
            return
        texts = [text for name in self.texts for text in features.get(name, ()) if isinstance(text, bytes)]
        rows.add(key, texts, group=_first(features, self.group), label=_first(features, self.label), **place)


def _picture(features: dict[str, Any], name: str) -> bytes:
    values = features.get(name)
    if not values or not isinstance(values[0], bytes):
        raise BadExample("image missing")
    if not values[0]:
        raise BadExample("image empty")
    return values[0]


def _first(features: dict[str, Any], name: str | None) -> str | None:
    values = features.get(name) if name else None
    return _text(values[0]) if values else None


def _text(value: bytes | int | float) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
