"""A model in use: what `align_jax.load` gives."""

import functools
import math
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from align_jax import inputs, sharding, zero_shot
from align_jax import run as runs
from align_jax.data.source import BadExample
from align_jax.evals.embedding import READERS, begun, stacked
from align_jax.evals.pair_scores import IMAGES, NEEDS, Scorer
from align_jax.inputs import Picture, Pictures, Texts
from align_jax.types import AlignError, Batch
from align_jax.weights import Weights
from align_jax.zero_shot import TEMPLATE, ZeroShotClassifier

AHEAD = 16  # pictures, of which twice as many are held whole; of the others only the square that the model sees


class Model:
    """A trained model, to embed pictures and texts with and to compare them. `align_jax.load` makes one.

    Pictures are paths (also gs:// and s3://), the bytes of an encoded picture, PIL images, arrays uint8 [H, W, 3] of
    any size, or records of a source, one or many, in a list or one by one from a generator. Texts are one str or many.
    What is given is embedded in batches, with a progress bar where that takes more than five seconds; rows come in the
    order of what was given. Whatever stands beside a picture or a text, its row is the same; in a batch of another
    number of rows, for which XLA compiles another program, it is the same but for rounding (1e-7 in float32 with the
    models of the tests).

    A mistake of the caller is an AlignError of one line, a picture that cannot be read a BadExample that names it.

    Methods may be called from several threads at once, as those of a web server do. They share the devices, batch by
    batch; the first call with a new number of rows compiles, and others wait for it.

    Attributes:
      config: the resolved config that the model was made with (`config.task`, `config.data`, ...).
      functions: the names of what its task offers, as "embed_images"; a classifier embeds no texts.
      params, model_state: its weights, nested dicts of arrays on `mesh`.
      embedder: what runs the functions over batches, as evaluators do.
    """

    def __init__(self, parts: runs.Run, weights: Weights):
        self.config, self.mesh, self.embedder = parts.config, parts.mesh, parts.embedder
        self.functions = tuple(parts.task.functions())
        where = sharding.replicated(parts.mesh)
        self.params, self.model_state = jax.device_put((weights.params, weights.model_state), where)
        self._task, self._origin = parts.task, f"{weights}, {weights.path}"

    def embed_images(self, images: Pictures, *, progress: bool = True) -> np.ndarray:
        """Embeddings f32 [n, D] of n pictures, rows of length 1; of one picture alone [1, D].

        Args:
          images: see the class. A picture of another size than the model's is resized as in its evaluation.
          progress: whether a bar may appear.

        Raises:
          AlignError: for no pictures at all, and for what is none by its type.
          BadExample: for a picture that cannot be read; of the first one, with the reason.
        """
        return self._of_images("embed_images", images, progress)

    def embed_texts(self, texts: Texts, *, progress: bool = True) -> np.ndarray:
        """Embeddings f32 [n, D] of n texts, rows of length 1; of one str [1, D].

        A text of more than `text_length` word pieces is cut.

        Raises:
          AlignError: for no texts at all, a text without a word, and of a model that reads no texts.
        """
        function, size = "embed_texts", self.embedder.batch_size
        given = inputs.texts(texts)
        checked = (inputs.text(index, text) for index, text in enumerate(given))
        batches = (self._pieces(number * size, part) for number, part in enumerate(inputs.chunks(checked, size)))
        return self._in_batches(function, batches, _length(given), progress)

    def similarity(self, images: Pictures, texts: Texts) -> np.ndarray:
        """Cosines f32 [n, m] of n pictures and m texts, in [-1, 1].

        The logits of training are these divided by `temperature`. To compare many times, embed once and keep the rows:
        the cosines are `embed_images(images) @ embed_texts(texts).T`.
        """
        self._expect("similarity", "embed_texts")
        return self.embed_images(images) @ self.embed_texts(texts).T

    def score(self, images: Pictures, texts: Texts, *, progress: bool = True) -> np.ndarray:
        """Matching logits f32 [n, m] of n pictures and m texts, by a cross-encoder: one pass of it for each pair.

        Above 0 it takes a text for one of the picture. A few hundred pairs a second on a processor: to search many
        pictures, let a dual encoder propose some (`python -m align_jax.rerank`).

        Args:
          images, texts: as `embed_images` and `embed_texts` take them; a model that is shown stored regions needs the
            records (`align_jax.data.source.Record`) to which they belong.
          progress: whether a bar may appear.

        Raises:
          AlignError: as `embed_texts`, and of a model that scores no pairs.
          BadExample: as `embed_images`.
        """
        self._expect("score", NEEDS[1])
        read = self._pieces(0, [inputs.text(index, text) for index, text in enumerate(inputs.texts(texts))])
        count = len(next(iter(read.values())))
        scorer = Scorer(self.embedder, self.params, self.model_state, read, most=IMAGES * count)
        found = []
        with jax.set_mesh(self.mesh):
            for part in inputs.chunks(inputs.pictures(images), IMAGES):
                tokens = self._of_images(NEEDS[0], part, progress)
                pairs = np.stack(np.divmod(np.arange(len(tokens) * count), count), axis=1)
                found.append(scorer(scorer.place(tokens), pairs).reshape(len(tokens), count))
        if not found:
            raise AlignError("score: expected at least one picture, found none")
        return np.concatenate(found)

    def zero_shot(
        self, classes: str | Iterable[str], templates: str | Iterable[str] = (TEMPLATE,), *, language: str = "en"
    ) -> ZeroShotClassifier:
        """A classifier of pictures for classes that are given by name: `classifier(images)` -> f32 [n, C].

        Args:
          classes: C names; or a data set whose names clip-benchmark has, as "imagenet1k"; or a file {"classes": [..]}
            whose name ends in .json.
          templates: texts with {} in place of the name, of which a class is the mean; one such text; or a data set or
            file as above ({"templates": [..]}). The 80 of "imagenet1k" are those of CLIP and of ALIGN's evaluation.
          language: of clip-benchmark's lists: en, it, jp, cn or ar.

        Raises:
          AlignError: for a list that is not there, a template without {} and a name without a word.
        """
        return zero_shot.classifier(self, classes, templates, language=language)

    def classify_images(self, images: Pictures, *, progress: bool = True) -> np.ndarray:
        """Logits f32 [n, C] of a fine-tuned classifier, in the order of the classes.txt beside its weights.

        Takes and refuses what `embed_images` does.
        """
        return self._of_images("classify_images", images, progress)

    def run(self, function: str, rows: Batch, *, progress: bool = True) -> np.ndarray:
        """What one of `functions` gives for prepared rows, f32 [n, ..]: for who reads pictures or texts in another way.

        Args:
          function: as "image_features".
          rows: {"image": uint8 [n, S, S, 3]} with S = `image_size`, or {"text_ids": int32 [n, L], "text_mask": bool
            [n, L]} with L = `text_length`.
          progress: whether a bar may appear.

        Raises:
          AlignError: for no rows, and a function that the model lacks.
        """
        size, count = self.embedder.batch_size, len(next(iter(rows.values())))
        starts = range(0, count, size)
        batches = ({name: values[start : start + size] for name, values in rows.items()} for start in starts)
        return self._in_batches(function, batches, count, progress)

    @functools.cached_property
    def embedding_size(self) -> int:
        """D, the numbers of an embedding. AlignError if the model makes none."""
        self._expect("embedding_size", "embed_images")
        side = self.image_size
        image = {"image": jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)}
        with jax.set_mesh(self.mesh):
            found = jax.eval_shape(self._task.functions()["embed_images"], self.params, self.model_state, image)
        return found.shape[-1]

    @property
    def image_size(self) -> int:
        """Pixels of each side of the square that the model sees of a picture."""
        return self.embedder.pairs.view.side

    @property
    def text_length(self) -> int:
        """Word pieces that the model sees of a text, those at both ends among them. AlignError if it reads none."""
        if not self._reads_texts:
            raise AlignError(f"text_length: the model reads no texts, it has {', '.join(self.functions)}")
        return self.config.data.text_length

    @property
    def _reads_texts(self) -> bool:
        return bool({"embed_texts", NEEDS[1]} & set(self.functions))

    @property
    def temperature(self) -> float:
        """What divides cosines to make the logits of training, above 0. AlignError of a model without."""
        if "log_temperature" not in self.params:
            raise AlignError(
                f"temperature: the model has none, only {', '.join(self.params)}; its logits are no cosines"
            )
        return math.exp(float(self.params["log_temperature"]))

    def __repr__(self) -> str:
        """What it is, in a few lines."""
        reads = f"images ({self.embedder.pairs.protocol})"
        if self._reads_texts:
            reads = f"{reads} and texts of {self.text_length} word pieces"
        makes = f"{self.embedding_size} numbers" if "embed_images" in self.functions else "a score of each pair"
        return (
            f"Model of task {self.config.task.name}: {self._origin}\n  {runs.describe(self.params)}\n"
            f"  {reads} -> {makes}; functions: {', '.join(self.functions)}"
        )

    def _expect(self, what: str, function: str) -> None:
        """Refuses what a model of another kind is asked for."""
        if function not in self.functions:
            raise AlignError(f"{what}: expected a model with {function}, found one with {', '.join(self.functions)}")

    def _of_images(self, function: str, images: Pictures, progress: bool) -> np.ndarray:
        given = inputs.pictures(images)
        with ThreadPoolExecutor(READERS) as pool:
            reading = (pool.map(self._visual, part) for part in inputs.chunks(enumerate(given), AHEAD))
            rows = (row for part in begun(reading, 1) for row in part)
            batches = map(stacked, inputs.chunks(rows, self.embedder.batch_size))
            return self._in_batches(function, batches, _length(given), progress)

    def _in_batches(self, function: str, batches: Iterator[Batch], count: int | None, progress: bool) -> np.ndarray:
        with jax.set_mesh(self.mesh):
            return self.embedder.run(
                function, self.params, self.model_state, batches, count=count, progress=progress
            )  # fmt: skip

    def _visual(self, numbered: tuple[int, Picture]) -> Batch:
        """What the model is shown of a picture, or of a record: one row."""
        index, given = numbered
        try:
            return self.embedder.pairs.visual(inputs.picture(index, given))
        except BadExample as error:
            raise BadExample(f"image {index} ({inputs.described(given)}): {error}") from error

    def _pieces(self, start: int, texts: list[str]) -> Batch:
        """What the model reads of texts, the first of which is number `start`."""
        try:
            return self.embedder.pairs.texts(texts)
        except ValueError as error:  # only characters that are no word: a zero-width space
            for index, text in enumerate(texts, start):
                try:
                    self.embedder.pairs.texts([text])
                except ValueError:
                    raise AlignError(f"text {index}: expected at least one word, found {text!r}") from error
            raise


def _length(given: Iterable[Any]) -> int | None:
    """None of what comes one by one."""
    return len(given) if isinstance(given, Sized) else None
