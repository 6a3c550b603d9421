"""How numbers, times and strangers' texts are shown."""

import datetime
import re
from typing import Any

from markupsafe import Markup

LONGEST = 2000  # characters of one value

# Characters that are not seen, that turn the text around them, or that no page may hold: controls, marks of direction,
# zero-width characters (but for the joiner and the selectors that emoji need), halves of pairs, non-characters.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufdd0-\ufdef\ufeff\ufff9-\uffff\U0001fffe\U0001ffff\U000e0000-\U0010ffff]"
)


def visible(value: Any) -> Any:
    """What a template prints: text cut to `LONGEST` characters, each hidden one as '\\u202e'. Markup stays as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value):,} characters)"
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def number(value: float) -> str:
    """'12,345', '0.01234', '2.5e-05'."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def short(value: int) -> str:
    """'15,360'; from a billion on '1.638 T'."""
    for unit, name in ((10**12, "T"), (10**9, "G")):
        if value >= unit:
            return f"{number(value / unit)} {name}"
    return number(value)


def duration(seconds: float) -> str:
    """'3 d 4 h', '2 h 5 min', '3 min 20 s', '12.3 s'."""
    seconds = round(seconds, 1)
    if seconds < 60:
        return f"{seconds:.1f} s"
    for long, short, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if seconds >= size:
            return f"{int(seconds // size):,} {long} {int(seconds % size // part)} {short}"
    raise AssertionError(seconds)


def utc(seconds: float) -> str:
    """'2026-11-21 17:09:50 UTC' of unix seconds."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(count: float) -> str:
    """'1.2 GB' of bytes."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"
