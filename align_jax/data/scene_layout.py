"""Where the pictures of a composed scene stand, and which of them is left of or above which."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from align_jax.data.emoji_concepts import Concept

TRIES = 20  # places tried for a picture before all are placed anew
ROUNDS = 1000  # of placing all anew; pictures that cover half of the canvas need one to twenty
MOST = 9  # things in a scene
COVER = 0.5  # share of the canvas that the pictures of a scene may cover


class Thing(NamedTuple):
    """A picture in a scene. Its square, in pixels of the canvas, overlaps no other; the picture is centred in it."""

    concept: Concept
    label: int  # index into the source's `object_classes`
    style: str  # of `emoji.STYLES`
    left: int
    top: int
    side: int

    @property
    def centre(self) -> tuple[int, int]:
        """(x, y) in half pixels."""
        return 2 * self.left + self.side, 2 * self.top + self.side


def places(sides: Sequence[int], canvas: int, draw: Callable[[], float]) -> list[tuple[int, int]]:
    """(left, top) of squares of these sides that do not overlap, in pixels; `draw` gives numbers in [0, 1).

    RuntimeError where none are found, which squares that cover at most `COVER` of the canvas do not come to.
    """
    for _ in range(ROUNDS):
        found: list[tuple[int, int, int]] = []
        for side in sides:
            for _ in range(TRIES):
                left, top = (int(draw() * (canvas - side + 1)) for _ in range(2))
                if all(_apart(left, x, side, s) or _apart(top, y, side, s) for x, y, s in found):
                    found.append((left, top, side))
                    break
            else:
                break
        if len(found) == len(sides):
            return [(left, top) for left, top, _ in found]
    raise RuntimeError(f"no room for squares of {list(sides)} pixels on a canvas of {canvas}")


def _apart(low: int, other: int, side: int, other_side: int) -> bool:
    """Whether two stretches do not overlap."""
    return low + side <= other or other + other_side <= low


def told(things: Sequence[Thing]) -> tuple[Thing, ...]:
    """The things in the one order in which captions name them: arrangements that mean the same read the same.

    First the one nearest to the upper left (the least x + y), of which each other is to the right or below; then the
    others by their labels.
    """
    first = min(things, key=lambda thing: (sum(thing.centre), thing.centre))
    return first, *sorted((thing for thing in things if thing is not first), key=lambda thing: thing.label)


def relation(one: Thing, other: Thing) -> str:
    """How `one` stands to `other`, along the axis on which their centres are farther apart.

    Squares that do not overlap are apart on that axis, so the words hold for the whole of both.
    """
    (x, y), (other_x, other_y) = one.centre, other.centre
    if abs(x - other_x) >= abs(y - other_y):
        return "to the left of" if x < other_x else "to the right of"
    return "above" if y < other_y else "below"
