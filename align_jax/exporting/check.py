"""The check of an export: what was written, opened as its users open it, against the live model."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from align_jax.data import source as sources
from align_jax.data.examples import Examples
from align_jax.data.source import BadExample, Source
from align_jax.exporting.subject import Rows, Subject
from align_jax.run import Run
from align_jax.types import AlignError

COUNT = 4  # pictures and texts
LOOKED_AT = 64  # records of which some may be unreadable
# What the sums of the deepest tower, taken in another order, can move an entry of a unit row or a logit, and how far
# they can turn a row. In f32 that is some 1e-5; a kernel in the wrong layout, or a picture scaled otherwise, moves it
# by a tenth and more. In bf16 each layer rounds to 8 bits.
LARGEST_ERROR = {"float32": 1e-4, "bfloat16": 5e-2}
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999}
WORDS = ("a red apple on a table", "two dogs", "the sea at night", "an old map of the city")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of rows with those of the live model: the largest error, in units of the larger of 1 and the largest entry; the
    least cosine.
    """

    error: float
    cosine: float

    def __str__(self) -> str:
        return f"max abs error {self.error:.1e}, least cosine {self.cosine:.7f}"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Rows to compare on. `of` tells what they are of."""

    visual: Mapping[str, np.ndarray]  # what the model is shown of images
    texts: Mapping[str, np.ndarray]  # text_ids, text_mask; empty for a model that reads none
    of: str

    def given(self, subject: Subject, name: str) -> dict[str, np.ndarray]:
        """What a function takes of them."""
        known = {**self.visual, **self.texts}
        if "tokens" in subject.inputs(name):
            exact = subject.rows(subject.exact.params, subject.exact.model_state)
            known["tokens"] = exact["image_tokens"](self.visual)
        return {key: known[key] for key in subject.inputs(name)}


def inputs(parts: Run) -> Inputs:
    """The first examples of the run's source that can be used; drawn ones where it cannot be opened."""
    of = "the training source"
    try:
        rows, texts = _examples(parts.pairs, sources.make(**parts.config.data.source))
    except (AlignError, OSError, TypeError):
        rows, texts = [], []
    reads = "vocab" in parts.config.data
    own = parts.pairs.texts([*texts, *WORDS][:COUNT]) if reads else {}
    blank = parts.pairs.blank()
    if rows:
        return Inputs({name: np.stack([row[name] for row in rows]) for name in blank}, own, of)
    if "image" not in blank:
        drawn = parts.task.dummy_batch(COUNT)
        return Inputs({name: np.asarray(drawn[name]) for name in blank}, own, "drawn regions and made-up texts")
    squares = [parts.pairs.image(picture) for picture in _drawn()]
    return Inputs({"image": np.stack(squares)}, own, "drawn pictures and made-up texts")


def _examples(pairs: Examples, source: Source) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """(what the model is shown, texts) of the first records."""
    rows: list[dict[str, np.ndarray]] = []
    texts: list[str] = []
    for index in range(min(LOOKED_AT, len(source))):
        try:
            record = source[index]
            rows.append(pairs.visual(record))
        except BadExample:
            continue
        texts += [text for text in record.texts if _words(pairs, text)][:1]
        if len(rows) == COUNT:
            break
    return rows, texts


def _words(pairs: Examples, text: str) -> bool:
    try:
        return bool(text.strip()) and bool(pairs.texts([text]))
    except (AlignError, ValueError):  # a classifier reads none; a text may have no word
        return False


def _drawn() -> list[Image.Image]:
    """Smooth patches of colour."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (COUNT, 5, 5, 3), np.uint8)
    return [Image.fromarray(patches).resize((256, 192), Image.Resampling.BICUBIC) for patches in small]


def compare(rows: np.ndarray, expected: np.ndarray) -> Agreement:
    """Both [B, D], or [B], of one number a row."""
    rows, expected = (x.reshape(len(x), -1) for x in (rows, expected))
    if rows.shape != expected.shape:
        raise AlignError(f"the check: expected rows of shape {expected.shape}, found {rows.shape}")
    a, b = rows.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.where(lengths > 0, lengths, 1)
    return Agreement(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())), float(cosines.min()))


def run(subject: Subject, opened: Mapping[str, Rows], given: Inputs) -> Iterator[tuple[str, Agreement]]:
    """(function, agreement) of each; AlignError for one that does not agree. The number of rows must not matter."""
    live = subject.rows(subject.restored.params, subject.restored.model_state)
    for name, rows in opened.items():
        batch = given.given(subject, name)
        expected = live[name](batch)
        found = rows(batch)
        first = rows({key: array[:1] for key, array in batch.items()})
        agreement = compare(np.concatenate([found, first]), np.concatenate([expected, expected[:1]]))
        largest, least = LARGEST_ERROR[subject.dtype], LEAST_COSINE[subject.dtype]
        if not (agreement.error <= largest and agreement.cosine >= least):  # nan is neither
            raise AlignError(
                f"the check of {name}: expected at most {largest:g} from the live model and a cosine of at least "
                f"{least}, found {agreement}; nothing is written"
            )
        yield name, agreement


def turned(subject: Subject, given: Inputs) -> dict[str, Agreement]:
    """What storing the weights as they are stored did to each function's rows."""
    exact = subject.rows(subject.exact.params, subject.exact.model_state)
    stored = subject.rows(subject.restored.params, subject.restored.model_state)
    batches = {name: given.given(subject, name) for name in subject.functions}
    return {name: compare(stored[name](batch), exact[name](batch)) for name, batch in batches.items()}
