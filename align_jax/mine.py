"""Mines hard negatives with a dual encoder: of each record, the texts and the images that it is likeliest to confuse.

python -m align_jax.mine --model=runs/align --data=pairs.jsonl --out=negatives.parquet

For fine-tuning a cross-encoder on the same data: --config.data.negatives.path=negatives.parquet. The table has texts,
not their pieces, so each model reads them with a tokenizer of its own.

--data: pairs.jsonl or pairs.csv (align_jax/data/manifest.py), a folder of pictures, or any source of the project as
name=value,name=value or JSON (align_jax/data/source.py).
--skip: the nearest of all often do belong together, and nobody said so; so many are left out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from align_jax import files, provenance
from align_jax.cli import main_of
from align_jax.data import hard_negatives
from align_jax.data import source as sources
from align_jax.data.examples import Examples
from align_jax.data.negatives import plain
from align_jax.data.options import source_options
from align_jax.data.source import Source
from align_jax.evals.mining import Belonging, Nearest, nearest
from align_jax.evals.ranking import numbered
from align_jax.loading import load
from align_jax.model import Model
from align_jax.types import AlignError
from align_jax.weights import digest

NEEDS = ("embed_images", "embed_texts")
ROWS = 10_000  # of the table, that are written together


class Read(NamedTuple):
    """A source but for its images."""

    ids: list[str]  # of n records
    groups: np.ndarray  # int64 [n]
    texts: list[str]  # M, no two equal but for case and blanks
    pairs: np.ndarray  # int64 [P, 2]: (record, text), rising
    wordless: int  # texts without a word


def mine(model: Model, source: Source, out: Path, *, top: int = 50, skip: int = 0) -> str:
    """Writes the table, whole or not at all; says what is in it.

    Args:
      model: that embeds images and texts.
      top: negatives of each kind of a record. skip: how many nearer ones are left out.

    A record whose image cannot be read is in no row, and no negative; it is counted.
    """
    if missing := [name for name in NEEDS if name not in model.functions]:
        raise AlignError(f"--model: expected one with {missing[0]}, found one with {', '.join(model.functions)}")
    files.check_writable(out.absolute().parent, flag="--out")
    read = _read(source, model.embedder.pairs)
    if not len(read.pairs):
        raise AlignError(f"--data: expected records with texts, found none among {len(read.ids):,}")
    with jax.set_mesh(model.mesh):
        images, bad = model.embedder.images(model.params, model.model_state, source)
        texts = model.embedder.texts(model.params, model.model_state, read.texts)
    readable = np.ones(len(images), bool)
    readable[list(bad)] = False
    mined = _mined(model, read, readable, images, texts, top + skip)
    near = [Nearest(*(values[readable, skip:] for values in kind)) for kind in mined]
    counts = [(kind.candidates >= 0).sum(1) for kind in near]
    if not sum(map(np.sum, counts)):
        raise AlignError(
            f"--data: expected records of several groups, found no negative among {readable.sum():,} of "
            f"{len(np.unique(read.groups[readable])):,}; lower --skip or give more data"
        )
    facts = {
        "model": digest(model.params, model.model_state), "data": provenance.digest(source),
        "records": len(source), "top": top, "skip": skip,
    }  # fmt: skip
    ids = [name for name, kept in zip(read.ids, readable, strict=True) if kept]
    rows = _rows(ids, near[0], read.texts, near[1], read.ids)
    files.write(out, lambda partial: hard_negatives.write(partial, rows, facts))
    left_out = Counter(bad.values()) + Counter({"text without a word": read.wordless})
    told = f"{out}: {len(ids):,} of {len(source):,} records, on average with {counts[0].mean():.1f} texts and "
    told += f"{counts[1].mean():.1f} images"
    return told + "".join(f"; left out: {count:,} {reason}" for reason, count in left_out.items())


def _read(source: Source, examples: Examples) -> Read:
    groups: dict[str, int] = {}
    numbers: dict[str, int] = {}  # plain text -> its number; -1 without a word
    ids, own, texts = [], [], []
    pairs: list[tuple[int, int]] = []
    wordless = 0
    for index in range(len(source)):
        record = source.about(index)
        ids.append(record.id)
        own.append(groups.setdefault(record.group, len(groups)))
        for text in record.texts:
            key = plain(text)
            if key not in numbers:
                numbers[key] = len(texts) if _has_word(text, examples) else -1
                texts += [text] * (numbers[key] >= 0)
            wordless += numbers[key] < 0
            pairs.append((index, numbers[key]))
    rows = np.unique([pair for pair in pairs if pair[1] >= 0] or np.zeros((0, 2), np.int64), axis=0)
    return Read(list(numbered(ids, where="--data")), np.array(own), texts, rows, wordless)


def _has_word(text: str, examples: Examples) -> bool:
    try:
        examples.texts([text])
    except ValueError:  # blanks, or only characters that are no word
        return False
    return True


def _mined(
    model: Model, read: Read, readable: np.ndarray, images: np.ndarray, texts: np.ndarray, most: int
) -> tuple[Nearest, Nearest]:
    """Texts near the image of each record, and records whose images are near its texts; none of an unreadable one."""
    belonging = Belonging(read.groups, read.pairs, len(texts))
    pairs = read.pairs[readable[read.pairs[:, 0]]]
    own = np.repeat(np.flatnonzero(readable)[:, None], 2, axis=1)

    def refused(records: np.ndarray, others: np.ndarray) -> np.ndarray:
        return belonging.images(records, others) | ~readable[others]

    given: dict[str, Any] = {"records": len(images), "most": most}
    near_images = nearest(model.mesh, images, texts, own, belonging.texts, title="texts near images", **given)
    near_texts = nearest(model.mesh, texts, images, pairs, refused, title="images near texts", **given)
    return near_images, near_texts


def _rows(
    ids: Sequence[str], texts: Nearest, text_names: Sequence[str], images: Nearest, image_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Of the table, part by part: the rows of `ids`, whose candidates have names."""
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        found: dict[str, Any] = {"id": ids[part]}
        for kind, near, names in (("text", texts, text_names), ("image", images, image_names)):
            rows = [row[row >= 0] for row in near.candidates[part]]
            found[f"{kind}s"] = [[names[number] for number in row] for row in rows]
            found[f"{kind}_scores"] = [
                scores[: len(row)] for row, scores in zip(rows, near.scores[part], strict=True)
            ]  # fmt: skip
        yield found


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    source = sources.make(**source_options(values.data))
    print(mine(load(values.model), source, Path(values.out), top=values.top, skip=values.skip))


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", None, "a dual encoder: a work directory, one of its checkpoints, or an export", required=True
    )
    flags.DEFINE_string("data", None, "a manifest, a folder, or a source's options", required=True)
    flags.DEFINE_string("out", None, "the parquet file to write, in place of one that stands there", required=True)
    flags.DEFINE_integer("top", 50, "negatives of each kind for a record", lower_bound=1)
    flags.DEFINE_integer("skip", 0, "nearest ones that are left out", lower_bound=0)
    main_of(main)
