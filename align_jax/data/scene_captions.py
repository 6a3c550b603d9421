"""What captions say of a composed scene: its things in the order of `scene_layout.told`."""

import re
from collections.abc import Callable, Sequence

from align_jax.data.emoji_concepts import CLASSES, plain
from align_jax.data.scene_layout import Thing, relation

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# What ends the part of a name that says one or many: "heart with ribbons", "person lifting weights".
_REST = re.compile(r"(?<=\S) ((with|without|of|in|on|at|to|from|but|behind|over|up|down)\b|\w+ing\b).*")
_VOWEL = re.compile(r"(?!one\b|eu|ewe)[aeio]|u(?!ku|ni|se)")  # by sound


def article(name: str) -> str:
    """The name with "a" or "an", or as it is if it means many: "an owl", "a unicorn", "grapes".

    By spelling, so that a few are not what a person would write: "a bacon".
    """
    head = _REST.sub("", name)
    if re.search(r"([^aisu]s|ies|[^aeo]oes|people|dice|children)$", head):
        return name
    return f"{'an' if _VOWEL.match(name) else 'a'} {name}"


def places(things: Sequence[Thing]) -> tuple[str, ...]:
    """All things, each by how the first stands to it: "a red apple to the left of a dog and above a cat"."""
    first, *rest = things
    related = [f"{relation(first, other)} {article(other.concept.name)}" for other in rest]
    return (" ".join([article(first.concept.name), _listed(related)]).strip(),)


def names(things: Sequence[Thing]) -> tuple[str, ...]:
    """All things: "a red apple, a dog and a cat"."""
    return (_listed([article(thing.concept.name) for thing in things]),)


def converse(things: Sequence[Thing]) -> tuple[str, ...]:
    """For each thing but the first, how it stands to the first: "a dog to the right of a red apple"."""
    first, *rest = things
    return tuple(
        f"{article(other.concept.name)} {relation(other, first)} {article(first.concept.name)}" for other in rest
    )


def count(things: Sequence[Thing]) -> tuple[str, ...]:
    """How many, and which: "two pictures: a red apple and a dog"."""
    return (f"{NUMBERS[len(things)]} picture{'s' * (len(things) > 1)}: {names(things)[0]}",)


def category(things: Sequence[Thing]) -> tuple[str, ...]:
    """The categories, each once: "a picture of food and drink, animals and nature"."""
    found = dict.fromkeys(plain(CLASSES[thing.concept.label]) for thing in things)
    return (f"a picture of {', '.join(found)}",)


# Kind -> the captions of a scene. The places always come first, also when `captions` leaves them out.
CAPTIONS: dict[str, Callable[[Sequence[Thing]], tuple[str, ...]]] = {
    "places": places,
    "names": names,
    "converse": converse,
    "count": count,
    "category": category,
}


def captions_of(things: Sequence[Thing], kinds: Sequence[str]) -> tuple[str, ...]:
    """The captions of these kinds, `places` ahead of all others."""
    listed = list(kinds)
    if "places" in listed:
        listed.remove("places")  # it comes first
    return (*places(things), *(text for kind in listed for text in CAPTIONS[kind](things)))


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
