"""What composed scenes show: drawn by name and number alone, so that any process draws the same."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from align_jax.data.emoji_concepts import Concept
from align_jax.data.scene_captions import captions_of
from align_jax.data.scene_layout import Thing, places, told
from align_jax.types import AlignError

NUMBERS = 10_000  # draws for one scene before there are no more
GROUND = range(190, 236)  # levels of each channel of a ground: white art shows on it


class Scene(NamedTuple):
    """What a scene shows."""

    things: tuple[Thing, ...]  # as `told`
    ground: tuple[int, int, int]  # its colour


@dataclasses.dataclass(frozen=True)
class Plan:
    """How scenes are drawn."""

    name: str  # with the names of scenes, the seed of their random numbers
    concepts: Sequence[tuple[int, Concept]]  # with their labels
    styles: Sequence[str]
    most: int  # things in a scene, no more than concepts
    canvas: int  # pixels of its side
    sides: Sequence[int]  # pixels of sides that things may have
    allowed: Callable[[Sequence[Concept]], bool]  # whether these may be together in a scene

    def scene(self, name: str, number: int) -> Scene | None:
        """A draw of the scene of that name; None where its concepts may not be together."""
        draw = random_numbers(self.name, name, number)

        def below(limit: int) -> int:
            return int(draw() * limit)

        count = 1 + below(self.most)
        found: dict[int, Concept] = {}
        while len(found) < count:
            found.update([self.concepts[below(len(self.concepts))]])
        if not self.allowed(list(found.values())):
            return None
        styles = [self.styles[below(len(self.styles))] for _ in found]
        sides = [self.sides[below(len(self.sides))] for _ in found]
        corners = places(sides, self.canvas, draw)
        red, green, blue = (GROUND[below(len(GROUND))] for _ in range(3))
        things = [
            Thing(concept, label, style, left, top, side)
            for (label, concept), style, side, (left, top) in zip(found.items(), styles, sides, corners, strict=True)
        ]
        return Scene(told(things), (red, green, blue))

    def known(self, name: str, number: int) -> Scene:
        """A draw that `first_new` has found."""
        scene = self.scene(name, number)
        assert scene is not None
        return scene

    def first_new(self, name: str, taken: set[str]) -> int:
        """The number of the first draw of a scene whose canonical text is not yet taken; from then on it is."""
        for number in range(NUMBERS):
            scene = self.scene(name, number)
            if scene is None:
                continue
            text = captions_of(scene.things, ())[0]
            if text not in taken:
                taken.add(text)
                return number
        raise AlignError(
            f"emoji_scenes: expected more scenes, found {len(taken)} with texts of their own among "
            f"{len(self.concepts)} concepts; ask for fewer scenes, or raise concepts, most or held_out_share"
        )


def random_numbers(*names: object) -> Callable[[], float]:
    """Numbers in [0, 1) for these names. Of Python's generator, `random` is the one method that never changes."""
    return random.Random("/".join(map(str, names))).random
