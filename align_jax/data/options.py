"""What a flag says of a source or an index: `name=value,name=value`, or JSON."""

import json
import os
from typing import Any

from align_jax.config import nearest
from align_jax.data.source import SOURCES
from align_jax.types import AlignError


def parse(text: str, *, flag: str) -> dict[str, Any]:
    """{"a": 1, "b": "c"} of 'a=1,b=c' or of a JSON object; AlignError for anything else.

    A value is what JSON makes of it, a plain text where it makes nothing of it. Values with commas need JSON.
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise AlignError(f"{flag}: expected JSON, found {text[:80]!r} ({error})") from error
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise AlignError(f"{flag}: expected name=value,name=value or a JSON object, found {part!r}")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def source_options(data: str) -> dict[str, Any]:
    """The options of a source (`data/source.py`) that --data names: a manifest, a folder, or the options themselves."""
    if os.path.isdir(data):
        return {"name": "folder", "path": data}
    if data.lstrip().startswith("{") or "=" in data:
        return parse(data, flag="--data")
    if data.endswith((".jsonl", ".csv")):
        return {"name": "manifest", "path": data}
    if data in SOURCES:
        return {"name": data}
    raise AlignError(
        f"--data: expected a .jsonl or .csv file, a folder of pictures, or a source as name=emoji,split=all, found "
        f"{data!r}; {nearest(data, list(SOURCES))}"
    )
