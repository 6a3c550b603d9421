"""From a stored text to a caption: what every reader does to the texts of the web."""

import re
from collections.abc import Iterable

from align_jax.data.source import BadExample

# Control characters other than white space, and halves of surrogate pairs, which JSON can hold and UTF-8 cannot.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_SPACES = re.compile(r"\s{2,}")


def clean(text: bytes | str) -> str:
    """Valid UTF-8 without control characters: they become spaces, runs of white space one space; ends are stripped.

    Nothing is cut, however long. BadExample("text not UTF-8") for other bytes: a wrong guess at their encoding would
    teach the model the wrong words.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadExample("text not UTF-8") from error
    return _SPACES.sub(" ", _CONTROL.sub(" ", text)).strip()


def usable(texts: Iterable[bytes | str]) -> tuple[str, ...]:
    """The clean texts in which something is left, in order.

    BadExample where there is none, with the reason of the last: "text missing", "text empty" or "text not UTF-8".
    """
    found, reason = [], "text missing"
    for text in texts:
        try:
            cleaned = clean(text)
        except BadExample as bad:
            reason = str(bad)
            continue
        if cleaned:
            found.append(cleaned)
        else:
            reason = "text empty"
    if not found:
        raise BadExample(reason)
    return tuple(found)
