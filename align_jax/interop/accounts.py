"""Strict accounting of what comes from elsewhere: all is used, or ignored for a reason that is written, or refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from align_jax.types import AlignError

NAMED = 5  # names that a message lists


class Tensors:
    """Tensors by name, of which each must be taken or ignored before `close`.

    Attributes: where (the file or folder, for messages), ignored (name -> reason), dtypes (name of a dtype -> how many
    of those that were taken have it).
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], where: str):
        """`tensors` may read an array when it is asked for."""
        self.where = where
        self.ignored: dict[str, str] = {}
        self.dtypes: Counter[str] = Counter()
        self._tensors = tensors
        self._left = dict.fromkeys(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self):
        """All names, taken ones too."""
        return iter(self._tensors)

    def take(self, name: str, shape: Sequence[int] | None = None) -> np.ndarray:
        """The tensor, to be used. AlignError where it is missing, of another shape than `shape`, or no float."""
        if name not in self._tensors:
            raise AlignError(f"{self.where}: expected the tensor {name}, found none of that name")
        found = np.asarray(self._tensors[name])
        if shape is not None and found.shape != tuple(shape):
            raise AlignError(f"{self.where}: tensor {name}: expected shape {tuple(shape)}, found {found.shape}")
        if found.dtype.kind not in "fV":  # bfloat16 and its like are of kind V
            raise AlignError(f"{self.where}: tensor {name}: expected floating-point numbers, found {found.dtype}")
        if name in self._left:
            self.dtypes[found.dtype.name] += 1
            del self._left[name]
        return found

    def ignore(self, patterns: Mapping[str, str]) -> None:
        """Shell pattern of names -> why what it names is not used."""
        self.ignored |= _taken_out(self._left, patterns)

    def kept(self) -> dict[str, np.ndarray]:
        """What was ignored, by name, as it is."""
        return {name: np.asarray(self._tensors[name]) for name in self.ignored}

    def close(self) -> None:
        """AlignError that names what was neither taken nor ignored."""
        if self._left:
            raise AlignError(f"{self.where}: expected no other tensors, found {_some(list(self._left))}")


class Attributes:
    """The attributes of a config.json, of which each must be taken, expected or ignored before `close`.

    Attributes: where (the file, for messages), ignored (name -> reason).
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self.ignored: dict[str, str] = {}
        self._values = dict(values)
        self._left = dict.fromkeys(values)

    def take(self, name: str, *default: Any) -> Any:
        """The value, to be used; AlignError where it is missing and no default is given."""
        self._left.pop(name, None)
        if name not in self._values and not default:
            raise AlignError(f"{self.where}: expected the attribute {name}, found none of that name")
        return self._values.get(name, *default)

    def expect(self, values: Mapping[str, Any]) -> None:
        """Name -> the one value, or the tuple of values, that the models here can express; what is absent is fine."""
        for name, value in values.items():
            allowed = value if isinstance(value, tuple) else (value,)
            if self.take(name, allowed[0]) not in allowed:
                known = " or ".join(map(repr, allowed))
                raise AlignError(f"{self.where}: {name}: expected {known}, found {self._values[name]!r}")

    def ignore(self, patterns: Mapping[str, str]) -> None:
        """Shell pattern of names -> why what it names makes no difference."""
        self.ignored |= _taken_out(self._left, patterns)

    def close(self) -> None:
        """AlignError that names what was neither taken, expected nor ignored."""
        if self._left:
            named = _some([f"{name}={self._values[name]!r}" for name in self._left])
            raise AlignError(f"{self.where}: expected no other attributes, found {named}; nothing here reads them")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _taken_out(left: dict[str, None], patterns: Mapping[str, str]) -> dict[str, str]:
    """Name -> the reason of the first pattern that names it; those leave `left`."""
    found: dict[str, str] = {}
    for name in left:
        reason = next((reason for pattern, reason in patterns.items() if fnmatchcase(name, pattern)), None)
        if reason is not None:
            found[name] = reason
    for name in found:
        del left[name]
    return found
