"""Random search: hyper-parameters of each trial, drawn from ranges that a config names."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align_jax.types import AlignError

Entry = Mapping[str, Any]


def draw(search: Sequence[Entry], *, seed: int, name: str, number: int) -> dict[str, Any]:
    """Dotted key -> value of trial `number` of the search `name`: the same whenever and wherever it is drawn.

    An entry sets its "keys": to one of its "values" (each has a value for every key where there are several keys), or
    its only key to a number from "low" to "high", uniform in the logarithm, of three digits.
    """
    rng = np.random.default_rng((seed, zlib.crc32(name.encode()), number))
    found: dict[str, Any] = {}
    for entry in search:
        keys: Sequence[str] = entry["keys"]
        if "values" in entry:
            value = entry["values"][int(rng.integers(len(entry["values"])))]
            found |= zip(keys, value, strict=True) if len(keys) > 1 else {keys[0]: value}
        else:
            low, high = math.log(entry["low"]), math.log(entry["high"])
            found[keys[0]] = float(f"{math.exp(rng.uniform(low, high)):.3g}")
    return found


def check(search: Sequence[Entry], *, where: str) -> None:
    """Refuses what `draw` cannot draw from."""
    for number, entry in enumerate(search):
        keys = entry.get("keys", ())
        if set(entry) == {"keys", "values"} and keys and entry["values"]:
            good = len(keys) == 1 or all(len(value) == len(keys) for value in entry["values"])
        else:
            good = set(entry) == {"keys", "low", "high"} and len(keys) == 1 and 0 < entry["low"] <= entry["high"]
        if not good:
            raise AlignError(
                f"{where}[{number}]: expected keys and values (one for each key), or one key with low and high above "
                f"0, found {dict(entry)}"
            )
