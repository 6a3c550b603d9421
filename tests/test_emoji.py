"""The emoji pairs: what is in them, that pictures are the right ones, and that the held-out families leak nothing."""

import subprocess
import sys

import numpy as np
import pytest

from align_jax.data import emoji_concepts
from align_jax.data.emoji import CAPTIONS, EmojiPairs
from align_jax.data.emoji_concepts import CLASSES, concepts, is_held_out
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def everything() -> EmojiPairs:
    return EmojiPairs(split="all", size=48)


@pytest.fixture(scope="module")
def held_out() -> EmojiPairs:
    return EmojiPairs(split="held_out", size=48)


def pictures(source: EmojiPairs, name: str) -> list[np.ndarray]:
    """The pictures [size, size, 3] of a concept, one per style, as int."""
    rows = (source[i] for i in range(len(source)))
    return [np.asarray(row.image).astype(int) for row in rows if row.texts[0] == name]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a - b).mean())


def test_counts_and_names():
    found = concepts()
    assert len(found) == len({c.name for c in found}) == len({c.key for c in found}) == 1898
    assert sum(CLASSES[c.label] == "Flags" for c in found) == 269
    assert {c.label for c in found} == set(range(9))
    assert len({c.family for c in found}) == 1503
    assert all(c.family and c.name == c.name.lower().strip() and "_" not in c.name for c in found)


def test_an_alias_names_one_concept():
    found = concepts()
    aliases = [alias for c in found for alias in c.aliases]
    assert len(aliases) == len(set(aliases)) > 1000
    assert not set(aliases) & {c.name for c in found}


def test_every_concept_is_drawn_in_both_styles(everything: EmojiPairs):
    assert len(everything) == 2 * 1898 and not everything.skipped
    ids = [everything[i].id for i in range(len(everything))]
    assert len(set(ids)) == len(ids) and {"twemoji/1f600", "openmoji/23-20e3"} <= set(ids)
    first, second = everything[0], everything[1]
    assert first.group == second.group and first.texts == second.texts and first.id != second.id
    for i in range(len(everything)):
        image = np.asarray(everything[i].image)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8
        assert image.std() > 1, f"{everything[i].id} is blank"


@pytest.mark.parametrize(
    ("joined", "base"),
    [
        ("woman astronaut", "woman"),
        ("woman astronaut", "rocket"),
        ("heart on fire", "red heart"),
        ("polar bear", "bear"),
        ("rainbow flag", "white flag"),
        ("pirate flag", "black flag"),
        ("flag of scotland", "black flag"),
        ("keycap 1", "keycap 2"),
        ("person walking facing right", "person walking"),
    ],
)
def test_a_joined_emoji_is_not_its_base(everything: EmojiPairs, joined: str, base: str):
    for one, other in zip(pictures(everything, joined), pictures(everything, base), strict=True):
        assert difference(one, other) > 5


def test_colours_are_the_right_ones(everything: EmojiPairs):
    """Flags of plain stripes, read off at thirds of the height, and squares: a swapped file or channel shows."""
    for flag in pictures(everything, "flag of germany"):
        black, red, gold = flag[15, 24], flag[24, 24], flag[32, 24]
        assert black.max() < 80
        assert red[0] > 150 and red[1:].max() < 90
        assert gold[0] > 180 and gold[1] > 130 and gold[2] < 100
    for name, channel in (("red square", 0), ("green square", 1), ("blue square", 2)):
        assert all(square[24, 24].argmax() == channel for square in pictures(everything, name))


def test_both_styles_fill_the_canvas_alike(everything: EmojiPairs):
    for name in ("flag of france", "keycap 1", "grinning face"):
        wide = [int((p.min(axis=(0, 2)) < 240).sum()) for p in pictures(everything, name)]
        assert min(wide) > 33 and max(wide) <= 48, (name, wide)


@pytest.mark.parametrize(
    "siblings",
    [
        ("man astronaut", "woman astronaut", "astronaut"),
        ("kiss man man", "kiss", "couple with heart", "family man woman boy", "family"),
        ("man walking", "woman walking facing right", "person walking"),
        ("mermaid", "merman", "merperson"),
        ("santa claus", "mrs. claus", "mx claus"),
        ("keycap 3", "keycap #"),
        ("twelve o'clock", "one-thirty"),
        ("waxing crescent moon", "full moon"),
        ("red heart", "light blue heart"),
        ("black medium-small square", "orange square"),
        ("thumbs up", "thumbs down"),
        ("man", "woman", "boy", "man beard", "person red hair"),
        ("flag of norway", "flag of svalbard and jan mayen"),
        ("flag of australia", "flag of heard island and mcdonald islands"),
    ],
)
def test_siblings_share_a_family(siblings: tuple[str, ...]):
    families = {c.name: c.family for c in concepts()}
    assert len({families[name] for name in siblings}) == 1


def test_strangers_do_not():
    families = {c.name: c.family for c in concepts()}
    strangers = "grinning face", "grinning face with big eyes", "dog", "dog face", "flag of france", "flag of italy"
    assert len({families[name] for name in strangers}) == len(strangers)


def test_identical_pictures_share_a_family(everything: EmojiPairs):
    """Nothing held out has been seen under another name. Both styles, to the last pixel."""
    seen: dict[bytes, str] = {}
    for i, family in enumerate(everything.families):
        image = np.asarray(everything[i].image).tobytes()
        assert seen.setdefault(image, family) == family


def test_no_family_on_both_sides(everything: EmojiPairs, held_out: EmojiPairs):
    train = EmojiPairs(split="train", size=48)
    assert not set(train.families) & set(held_out.families)
    assert len(train) + len(held_out) == len(everything)
    assert 0.07 < len(set(held_out.families)) / len(set(everything.families)) < 0.13
    without_flags = EmojiPairs(split="held_out", size=48, flags=False)
    rows = [held_out[i] for i in range(len(held_out))]
    assert [without_flags[i].id for i in range(len(without_flags))] == [r.id for r in rows if r.label != 8]


def test_the_split_is_the_same_everywhere_and_moves_with_its_seed():
    """Written down, since Python's own hash differs from process to process."""
    names = ("astronaut", "keycap", "dog", "cat", "flag of norway", "clock face", "moon", "heart", "person", "pizza")
    chosen = {seed: [name for name in names if is_held_out(name, 0.3, seed)] for seed in (0, 1)}
    assert chosen == {0: ["astronaut", "keycap", "heart"], 1: ["astronaut", "dog", "cat", "person"]}
    assert not any(is_held_out(name, 0.0, 0) for name in names)


def test_captions():
    def texts(**options: object) -> tuple[str, ...]:
        return EmojiPairs(split="all", size=16, flags=False, styles=("twemoji",), **options)[0].texts

    assert texts(captions="name") == ("grinning face",)
    assert texts(captions=("aliases",)) == ("grinning face", "grinning")
    assert texts(captions=("name", "subcategory", "category", "category")) == (
        "grinning face",
        "grinning face, smiling face",
        "grinning face, smileys and emotion",
        "grinning face, smileys and emotion",
    )
    assert texts(captions="bare_category")[-1] == "a picture of smileys and emotion"
    assert texts(captions="name", languages=("en", "fr")) == ("grinning face", "visage rieur")
    assert texts(languages=("de",)) == ("grinsendes gesicht",)


def test_skin_tones_are_further_images_of_their_concept(held_out: EmojiPairs):
    toned = EmojiPairs(split="held_out", size=48, skin_tones=True)
    assert len(toned) > len(held_out)
    assert {toned[i].group for i in range(len(toned))} == {held_out[i].group for i in range(len(held_out))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split knows train, held_out, all, found 'test'"),
        ({"captions": ("name", "poem")}, f"captions knows {', '.join(CAPTIONS)}, found 'poem'"),
        ({"styles": "noto"}, "styles knows twemoji, openmoji, found 'noto'"),
        ({"languages": ("en", "xx")}, "languages knows en, ar, de"),
        ({"held_out_share": 1.0}, r"held_out_share must lie in \[0, 1\), found 1.0"),
        ({"split": "held_out", "held_out_share": 0.0}, "no emoji left"),
    ],
)
def test_unknown_options(options: dict, message: str):
    with pytest.raises(AlignError, match=message):
        EmojiPairs(**options)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emoji_concepts, "find_spec", lambda name: None)
    with pytest.raises(AlignError, match=r'pip install "align-jax\[demo\]"'):
        EmojiPairs()


def test_no_jax():
    """Data workers import this module: jax would cost each of them seconds and memory."""
    code = "import sys, align_jax.data.emoji; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
