"""JSON files as others write them: settings, indices, configs."""

import json
from pathlib import Path
from typing import Any

from align_jax.types import AlignError


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; AlignError where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AlignError(f"expected a JSON file, found {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AlignError(f"{path}: expected JSON, found none ({error})") from error
    if not isinstance(found, dict):
        raise AlignError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
