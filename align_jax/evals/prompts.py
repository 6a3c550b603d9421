"""Class names and prompt templates: given as they are, from clip-benchmark's lists, or from a file of one's own."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from align_jax.config import nearest
from align_jax.types import AlignError

LANGUAGES = ("en", "it", "jp", "cn", "ar")  # of clip-benchmark's lists
LISTS = {"classes": "classnames", "templates": "zeroshot_classification_templates"}
WRITTEN = 10  # texts of an option that a protocol writes out
WORDNET = re.compile(r"n\d{8}")

Kind = Literal["classes", "templates"]


class Prompts(NamedTuple):
    """What is asked of the text tower: each template filled with each name."""

    names: tuple[str, ...]  # of the classes, in their order; two classes may share one
    templates: tuple[str, ...]  # texts with {} in place of the name

    def filled(self) -> list[str]:
        """len(names) * len(templates) texts; those of one name stand together."""
        return [template.replace("{}", name) for name in self.names for template in self.templates]

    def digest(self) -> str:
        """Of names and templates, in order."""
        return hashlib.blake2b(json.dumps([self.names, self.templates]).encode(), digest_size=8).hexdigest()


def load(kind: Kind, given: str | Sequence[str], *, language: str, where: str) -> tuple[str, ...]:
    """The texts of an option: those that are given; or those of a data set that clip-benchmark knows ("imagenet1k"), or
    of a file {"classes": [..], "templates": [..]} whose path ends in .json, and may have clip-benchmark's {c} for {}.

    AlignError, which begins with `where`, for a list that is not there, a template without {} and a name without text.
    """
    if isinstance(given, str):
        found = _of_file(kind, given, where) if given.endswith(".json") else _of_package(kind, given, language, where)
    else:
        found = given
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise AlignError(f"{where}: expected texts, found {_short(found)}")
    found = tuple(found)
    if kind == "templates":
        found = tuple(template.replace("{c}", "{}") for template in found)
        for template in found:
            if "{}" not in template:
                raise AlignError(f"{where}: expected {{}} in place of the class in each template, found {template!r}")
            if re.search("[{}]", template.replace("{}", "")):
                raise AlignError(f"{where}: expected no braces but those of {{}} in a template, found {template!r}")
    return found


def describe(given: str | Sequence[str], *, language: str) -> str:
    """Where the texts of an option come from, as a protocol names it: 'of imagenet1k (en)', or the texts where few."""
    if isinstance(given, str):
        return f"of {given}" if given.endswith(".json") else f"of {given} ({language})"
    return str(list(given)) if len(given) <= WRITTEN else "given"


def own_names(classes: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The names that a source has for its classes, as words: 'apple pie' of 'apple_pie', 'abbey' of '/a/abbey'.

    AlignError where they are numbers or WordNet ids, which say nothing to a text tower.
    """
    codes = [name for name in classes if name.isdecimal() or WORDNET.fullmatch(name)]
    if codes:
        raise AlignError(
            f"{where}: expected names of the classes, since the source calls them {_short(codes)}; give them, or the "
            "data set whose names clip-benchmark has, as 'imagenet1k'"
        )
    return tuple(re.sub(r"[_/]+", " ", re.sub(r"^/\w/", "", name)).strip() for name in classes)


def match(names: tuple[str, ...], classes: Sequence[str], *, alike: bool, where: str) -> tuple[str, ...]:
    """A name for each class of a source.

    A class that is a number is the name at that place, from 0; WordNet ids have the places of ImageNet's 1000 in
    rising order, which is that of CLIP's names. Other classes must be as many as the names, in the same order.
    AlignError where they are not, as far as can be seen: a class stands elsewhere among the names or, where they ought
    to be `alike`, no class shares a word with its name.
    """
    places = _places(names, classes, where)
    if places is not None:
        return tuple(names[place] for place in places)
    if len(names) != len(classes):
        raise AlignError(
            f"{where}: expected a name for each of {len(classes)} classes {_short(classes)}, found {len(names)} "
            f"names {_short(names)}"
        )
    standing = {_bare(name): place for place, name in enumerate(names)}
    for place, (found, name) in enumerate(zip(classes, names, strict=True)):
        other = standing.get(_bare(found), place)
        if _bare(found) != _bare(name) and other != place:
            raise AlignError(
                f"{where}: expected names in the order of the source's classes, whose number {place} is {found!r}, "
                f"found {name!r} there and {names[other]!r} at {other}"
            )
    if alike and not any(_words(found) & _words(name) for found, name in zip(classes, names, strict=True)):
        raise AlignError(
            f"{where}: expected names of the source's classes {_short(classes)}, found {_short(names)}, of which none "
            "shares a word with its class; if they do belong together, give the names themselves"
        )
    return names


def _places(names: Sequence[str], classes: Sequence[str], where: str) -> list[int] | None:
    if all(name.isdecimal() for name in classes):
        places = [int(name) for name in classes]
        if max(places) >= len(names):
            raise AlignError(
                f"{where}: expected a name for each class, whose numbers go from {min(places)} to {max(places)}, found "
                f"{len(names)} names; the first name is that of class 0"
            )
        return places
    ids = imagenet_ids() if len(names) == 1000 and all(map(WORDNET.fullmatch, classes)) else None
    if ids is None:
        return None
    place_of = {name: place for place, name in enumerate(ids)}
    unknown = [name for name in classes if name not in place_of]
    if unknown:
        raise AlignError(f"{where}: expected WordNet ids of ImageNet's 1000 classes, found {_short(unknown)}")
    return [place_of[name] for name in classes]


def imagenet_ids() -> list[str]:
    """WordNet ids of the 1000 classes of ImageNet (ILSVRC 2012), rising."""
    import tensorflow_datasets as tfds  # which takes seconds, and has the list

    return tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()


def _of_file(kind: Kind, path: str, where: str) -> Any:
    found = _read(Path(path), where)
    texts = found.get(kind) if isinstance(found, Mapping) else None
    if not isinstance(texts, list):
        raise AlignError(f'{where}: expected {{"{kind}": [text, ..]}} in {path}, found {_short(found)}')
    return texts


def _of_package(kind: Kind, name: str, language: str, where: str) -> Any:
    if language not in LANGUAGES:
        raise AlignError(f"{where}: expected language to be one of {LANGUAGES}, found {language!r}")
    spec = importlib.util.find_spec("clip_benchmark")  # not imported: it wants PyTorch
    if spec is None or not spec.submodule_search_locations:
        raise AlignError(
            f"{where}: expected the package clip-benchmark, which has the {kind} of {name!r}, found none; run: pip "
            f'install --no-deps clip-benchmark, or give them, or a file {{"{kind}": [text, ..]}} whose name ends in '
            ".json"
        )
    path = Path(spec.submodule_search_locations[0]) / "datasets" / f"{language}_{LISTS[kind]}.json"
    lists = _read(path, where)
    if name not in lists:
        raise AlignError(
            f"{where}: clip-benchmark has no {kind} of {name!r} in {language!r}; {nearest(name, list(lists))}"
        )
    return lists[name]


def _read(path: Path, where: str) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlignError(f"{where}: expected a JSON file at {path}, found {error}") from error


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}  # also those of 'AnnualCrop'


def _short(found: Any) -> str:
    text = repr([*found[:3], "..."] if isinstance(found, list | tuple) and len(found) > 3 else found)
    return text if len(text) <= 120 else f"{text[:117]}..."
