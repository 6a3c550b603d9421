"""From what a page says about a picture to candidate texts (ImageBERT, section 3, step 3)."""

import dataclasses
import re
from collections.abc import Iterable

from align_jax.types import AlignError

_END = re.compile("(?<=[.!?])\\s+|(?<=[\u3002\uff01\uff1f])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Which texts of a record are looked at, and how they are cleaned. The order stays; nothing is merged."""

    columns: tuple[str, ...] = ()  # of `config.columns`: further texts (title, og_description, surrounding text)
    sentences: bool = False  # each sentence of a text is a candidate of its own
    strip: tuple[str, ...] = ()  # regular expressions of what is cut out of a text

    def __post_init__(self):
        for pattern in self.strip:
            try:
                re.compile(pattern)
            except re.error as error:
                raise AlignError(f"config.texts.strip: {pattern!r} is no regular expression ({error})") from error

    def of(self, texts: Iterable[str]) -> list[str]:
        """The candidates, with whitespace as single spaces. An empty text stays one, so that it is counted."""
        found = []
        for text in texts:
            for pattern in self.strip:
                text = re.sub(pattern, " ", text)
            parts = _END.split(text) if self.sentences else [text]
            cleaned = [" ".join(part.split()) for part in parts]
            found += [part for part in cleaned if part] or [""]
        return found
