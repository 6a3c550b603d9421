"""Pairs with known defects, made from the emoji's art: what a curation must drop, and by which rule."""

import io
import json
from collections import Counter
from itertools import pairwise, permutations, product
from pathlib import Path

import numpy as np
from PIL import Image

from align_jax.data.emoji import EmojiPairs

COLOURS = ("red", "green", "blue", "grey", "pink", "brown", "black", "white")
JOINS = ("next to the", "above the", "and then the", "beside the")


class Planted:
    """Writes `folder`/pairs.jsonl, test.jsonl and their pictures.

    `expected`: rule of configs/curate_align.py -> records that it must drop; `kept`; `top_ngrams`: how many unigrams
    and bigrams occur at least twice. `crowd`: the texts_per_image.at_most under which `expected` holds.
    """

    def __init__(self, folder: Path, count: int, *, seed: int = 0, crowd: int = 1000, concepts: int = 40):
        """About `count` pairs, 1 in 12 of them with a defect of each kind."""
        self.folder, self.crowd = folder, crowd
        self.expected: Counter[str] = Counter()
        self.rows: list[dict] = []
        self._rng = np.random.default_rng(seed)
        folder.mkdir(parents=True)
        arts = EmojiPairs(split="held_out", held_out_share=0.05, size=128, flags=False, captions=("name",))
        self._arts = [arts[i].image for i in range(len(arts))]
        names = ("apple", "bear", "chair", "door", "engine", "fish", "goat", "hat", "island", "jar", "kite", "lamp",
                 "mouse", "nest", "owl", "pen", "queen", "ring", "sun", "tree", "urn", "van", "whale", "yard", "zebra",
                 "arrow", "boat", "cup", "drum", "egg", "flag", "glove", "horn", "iron", "jewel", "king", "leaf",
                 "moon", "needle", "oven")[:concepts]  # fmt: skip
        self._texts = [f"a {colour} {one} {join} {two}" for (one, two), colour, join in
                       product(permutations(names, 2), COLOURS[: concepts // 5], JOINS)]  # fmt: skip
        self._rng.shuffle(self._texts)
        self._used = 0
        self._plant(count // 12)
        while len(self.rows) < count:
            self._add("", self._picture())
        order = self._rng.permutation(len(self.rows))
        self.rows = [self.rows[i] for i in order]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        grams = Counter(
            gram for row in self.rows for text in row["texts"] for words in [text.lower().split()]
            for gram in [*words, *pairwise(words)] if any(map(str.isalnum, text))
        )  # fmt: skip
        self.top_ngrams = sum(n > 1 for n in grams.values())
        self.kept = len(self.rows) - self.expected.total()

    def _plant(self, each: int) -> None:
        """`each` defects of every kind, and beside them what is just good enough."""
        for i in range(each):
            self._add_bytes("unreadable", (b"", b"GIF89a", self._jpeg(self._picture())[:900], None)[i % 4])
            self._add("shorter_side", self._picture((200, 260)))
            self._add("", self._picture((201, 260)))
            self._add("aspect", self._picture((663, 221)))
            self._add("", self._picture((662, 221)))
            two, twenty = self._text().split()[1:3], (self._text() + " " + self._text()).split()
            self._add("word_count", self._picture(), [" ".join(two)])
            self._add("", self._picture(), [" ".join(two), self._text()])
            self._add("word_count", self._picture(), [" ".join((twenty * 3)[:21])])
            self._add("rare_ngrams", self._picture(), [f"{self._text()} wug{i}x{len(self.rows)}"])
            self._add("empty_text", self._picture(), ["", "!!! ..."][i % 2 :])
        self._crowds(each)
        self._evaluation(each)

    def _crowds(self, each: int) -> None:
        picture = self._picture()
        for _ in range(self.crowd + 1):
            self._add("texts_per_image", picture)
        picture = self._picture()
        for _ in range(min(self.crowd, each)):  # an image with so many texts stays
            self._add("", picture)
        names = sorted({text.split()[2] for text in self._texts})
        for i in range(max(1, each // 11)):
            own = " ".join(names[i // len(names) ** digit % len(names)] for digit in range(3))
            for _ in range(11):
                self._add("shared_text", self._picture(), [f"a red apple next to the {own}"])
            for _ in range(10):
                self._add("", self._picture(), [f"A blue Apple above the {own}"])

    def _evaluation(self, each: int) -> None:
        """Evaluation pictures, and each of them encoded anew, smaller, and larger among the pairs."""
        rows = []
        for i in range(each):
            picture = self._picture()
            name = f"test/{i}.png"
            (self.folder / "test").mkdir(exist_ok=True)
            picture.save(self.folder / name)
            rows.append({"image": name, "texts": ["for evaluation"]})
            scale = (1.0, 0.75, 1.4)[i % 3]
            size = (round(picture.width * scale), round(picture.height * scale))
            self._add("evaluation_pictures", picture.resize(size, Image.Resampling.BICUBIC), quality=60)
        (self.folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _text(self) -> str:
        self._used += 1
        return self._texts[self._used % len(self._texts)]

    def _picture(self, size: tuple[int, int] | None = None) -> Image.Image:
        """Two drawings on a coloured slope, as no other."""
        width, height = size or tuple(self._rng.integers(280, 400, 2).tolist())
        colours = self._rng.integers(40, 256, (3, 3, 3), np.uint8)
        picture = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
        for _ in range(2):
            art = Image.fromarray(self._arts[self._rng.integers(len(self._arts))])
            side = int(self._rng.integers(min(width, height) // 3, min(width, height) // 2))
            corner = tuple(self._rng.integers(0, (width - side, height - side)).tolist())
            picture.paste(art.resize((side, side)), corner)
        return picture

    def _jpeg(self, picture: Image.Image, quality: int = 88) -> bytes:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def _add(self, rule: str, picture: Image.Image, texts: list[str] | None = None, quality: int = 88) -> None:
        self._add_bytes(rule, self._jpeg(picture, quality), texts)

    def _add_bytes(self, rule: str, contents: bytes | None, texts: list[str] | None = None) -> None:
        """One record that `rule` must drop, "" for one that stays. `contents` None: the file is missing."""
        name = f"{len(self.rows)}.jpg"
        if contents is not None:
            (self.folder / name).write_bytes(contents)
        self.rows.append({"image": name, "texts": texts or [self._text()]})
        if rule:
            self.expected[rule] += 1
