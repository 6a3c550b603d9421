"""What a person looks at after retrieval: what was found for some queries, and how the scores lie."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from align_jax.data.source import Source
from align_jax.evals.blockwise import Blockwise
from align_jax.evals.panels import Curves, Grid, Hit, Item, Map, Similarity, picture
from align_jax.evals.ranking import Asked, recall_curve

QUERIES, TOP = 8, 6  # rows of a grid, and what each shows
BATCH = 12  # pairs of a similarity matrix
MAPPED = 600  # images and texts of a map, at most


class Shown(NamedTuple):
    """What a run found of one pool of images and texts."""

    images: np.ndarray  # int64 [n]: records
    texts: np.ndarray  # int64 [m]: rows of the distinct texts
    image_rows: np.ndarray  # f32 [n, D]
    text_rows: np.ndarray  # f32 [m, D]
    right: np.ndarray  # int64 [P, 2]: (image, text), by their places
    ranks: tuple[np.ndarray, np.ndarray]  # int64 [n] and [m]; -1 where nothing is right


class Panels:
    """Draws, by a seed, what is shown: a fair sample, not the best."""

    def __init__(self, shown: Shown, source: Source, texts: Sequence[str], *, name: str, of: str, seed: int):
        """`texts`: the distinct ones. `of`: what a note says of the pool."""
        self._shown, self._source, self._texts = shown, source, texts
        self._name, self._of, self._seed = name, of, seed
        self._pairs = self._draw(MAPPED // 2)

    def texts_to_images(self, mesh: jax.sharding.Mesh) -> Grid:
        """Some texts, and the images that each finds."""
        return self._grid(mesh, "texts to images", 1, 0)

    def images_to_texts(self, mesh: jax.sharding.Mesh) -> Grid:
        """Some images, and the texts that each finds."""
        return self._grid(mesh, "images to texts", 0, 1)

    def _grid(self, mesh: jax.sharding.Mesh, title: str, asking: int, asked: int) -> Grid:
        """Of sides 0, the images, and 1, the texts."""
        shown = self._shown
        rows, items = (shown.image_rows, shown.text_rows), (self._image, self._text)
        drawn = np.random.default_rng(self._seed).permutation(np.flatnonzero(shown.ranks[asking] >= 0))[:QUERIES]
        scores, found = Blockwise(mesh, rows[asking][drawn], rows[asked]).nearest(TOP)
        lines = []
        for query, *hits in zip(drawn.tolist(), scores.tolist(), found.tolist(), strict=True):
            right = set(shown.right[shown.right[:, asking] == query, asked].tolist())
            hits = [Hit(items[asked](place), score, place in right) for score, place in zip(*hits, strict=True)]
            lines.append((items[asking](query), hits))
        first = int((shown.ranks[asking][drawn] == 0).sum())
        note = (
            f"{len(drawn)} queries drawn at random{self._of}, each with its nearest of {len(rows[asked]):,}; "
            f"{first} of them find a right one first"
        )
        return Grid(f"{self._name}: {title}", note, lines)

    def recall(self, ways: Sequence[Asked]) -> Curves:
        """Recall against K, both ways."""
        lines = {}
        for name, asked, count in zip(
            ("image to text", "text to image"), ways, (len(self._shown.texts), len(self._shown.images)), strict=True
        ):
            lines[name] = recall_curve(asked, count)
        return Curves(f"{self._name}: recall against K", "K among all candidates", "K", "recall@K", lines)

    def similarity(self) -> Similarity:
        """The scores of some images with each other's texts."""
        images, texts = self._pairs[:BATCH].T
        scores = self._shown.image_rows[images] @ self._shown.text_rows[texts].T
        first = int((scores.argmax(axis=1) == np.arange(len(scores))).sum())
        return Similarity(
            f"{self._name}: scores of a batch",
            f"{len(scores)} images (rows) and their texts (columns) drawn at random{self._of}; {first} images score "
            "highest with their own text",
            [self._image(image) for image in images.tolist()], [self._text(text) for text in texts.tolist()], scores,
        )  # fmt: skip

    def map(self) -> Map:
        """Images and their texts."""
        images, texts = self._pairs.T
        classes = self._source.classes
        labels = [self._source.about(int(self._shown.images[i])).label for i in images]
        kinds = [classes[label] if label >= 0 else "no class" for label in labels] * 2
        if not classes:
            kinds = ["image"] * len(images) + ["text"] * len(texts)
        return Map(
            f"{self._name}: images and texts", f"{len(images)} images and a text of each, drawn at random{self._of}",
            np.concatenate([self._shown.image_rows[images], self._shown.text_rows[texts]]),
            [self._image(image) for image in images.tolist()] + [self._text(text) for text in texts.tolist()], kinds,
        )  # fmt: skip

    def _draw(self, count: int) -> np.ndarray:
        """int64 [at most count, 2]: images and the first text of each, in which no text stands twice."""
        _, first = np.unique(self._shown.right[:, 0], return_index=True)
        pairs = self._shown.right[np.random.default_rng(self._seed).permutation(first)]
        _, once = np.unique(pairs[:, 1], return_index=True)
        return pairs[np.sort(once)[:count]]

    def _image(self, place: int) -> Item:
        return picture(self._source, int(self._shown.images[place]))

    def _text(self, place: int) -> Item:
        return Item(text=self._texts[int(self._shown.texts[place])])
