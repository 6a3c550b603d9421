"""Which axis of an array is split over the devices that share a copy of the state: by rule, or by size.

A rule is data: (pattern of parameter paths, axis). It holds for the parameter and for what the optimizer keeps of it.
Arrays that no rule names go by size: the largest axis that divides, and small ones stay whole, since splitting them
saves nothing and each would cost a collective of its own.
"""

import math
from collections.abc import Mapping, Sequence

from align_jax import paths
from align_jax.types import AlignError, SplitRule

WHOLE = -1  # no axis of an array is split
SMALL = 2**14  # elements below which it is not worth it


def split_axis(shape: tuple[int, ...], ways: int, *, path: str = "", rules: Sequence[SplitRule] = ()) -> int:
    """The axis of the array at `path` that is split over `ways` devices, or WHOLE."""
    for pattern, axis in rules:
        if _names(pattern, path):
            # What the optimizer keeps of a matrix may be a vector (Adafactor), without that axis.
            return axis if ways > 1 and 0 <= axis < len(shape) and shape[axis] % ways == 0 else WHOLE
    fitting = [axis for axis, side in enumerate(shape) if side % ways == 0]
    if ways == 1 or math.prod(shape) < SMALL or not fitting:
        return WHOLE
    return max(fitting, key=lambda axis: shape[axis])


def check(rules: Sequence[SplitRule], shapes: Mapping[str, tuple[int, ...]], ways: int) -> None:
    """Refuses a rule that names no parameter, two that collide on one, an axis that one lacks or that does not divide.

    Args:
      shapes: of the parameters, by path.

    Raises:
      AlignError: one line on the first of these.
    """
    paths.check_patterns([pattern for pattern, _ in rules], shapes, where="config.task.split")
    for path, shape in shapes.items():
        named = [(pattern, axis) for pattern, axis in rules if _names(pattern, path)]
        if len({axis for _, axis in named}) > 1:
            raise AlignError(f"config.task.split: expected one axis for {path} {shape}, found {named}; keep one")
        for pattern, axis in named:
            if axis != WHOLE and not (0 <= axis < len(shape) and shape[axis] % ways == 0):
                raise AlignError(
                    f"config.task.split: expected an axis of {path} {shape} that mesh.fsdp={ways} divides, or {WHOLE} "
                    f"to keep it whole, found {axis} by {pattern!r}"
                )


def _names(pattern: str, path: str) -> bool:
    """Whether the pattern names the parameter that the path ends in."""
    return paths.matches("/" + path, (f"*/{pattern}",))
