"""The ratings of Crisscrossed Captions over the images and captions of a source, and the right answers they give."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from align_jax.data.source import Source
from align_jax.evals.ranking import same_group
from align_jax.types import AlignError

BLOCK = 64  # bootstrap draws at a time


class Task(NamedTuple):
    """What people rated."""

    sides: tuple[str, str]  # of a pair: "caption" or "image"
    right: float  # a pair with this score or more is a right answer
    counts: dict[str, int]  # split -> ratings of the published version


TASKS = {
    "sts": Task(("caption", "caption"), 3.0, {"val": 44_009, "test": 44_045}),
    "sis": Task(("image", "image"), 2.5, {"val": 42_767, "test": 46_719}),
    "sits": Task(("caption", "image"), 3.0, {"val": 44_722, "test": 44_833}),
}


class Ratings(NamedTuple):
    """Of one task: pairs int64 [n, 2] of the numbers of its sides, scores f64 [n] from 0 to 5."""

    pairs: np.ndarray
    scores: np.ndarray


class Rated(NamedTuple):
    """The images and captions that the ratings name, numbered in the order of the source."""

    images: dict[str, int]  # file name -> record
    captions: dict[str, str]  # sentence id -> text
    owners: np.ndarray  # int64 [m]: the image of each caption
    ratings: dict[str, Ratings]  # by task
    unnamed: int  # captions of the source that no rating names


def read(source: Source, folder: Path, split: str, *, where: str) -> Rated:
    """AlignError for files of another version, and for names that the source does not have."""
    from align_jax.datasets.crisscrossed_captions import ratings  # which needs tensorflow-datasets

    rows = {task: ratings(folder, task, split) for task in TASKS}
    for task, found in rows.items():
        if len(found) != TASKS[task].counts[split]:
            raise AlignError(
                f"{folder / f'{task}_{split}.csv'}: expected the {TASKS[task].counts[split]:,} ratings of the "
                f"published version, found {len(found):,}; download it again"
            )
    named: dict[str, set[str]] = {"caption": set(), "image": set()}
    columns: dict[str, list[list[str]]] = {}
    for task, found in rows.items():
        columns[task] = [[str(row[column]) for row in found] for column in list(found[0])[:2]]
        for side, names in zip(TASKS[task].sides, columns[task], strict=True):
            named[side].update(names)
    images, captions, owners, unnamed = _of_source(source, named["image"], named["caption"], where)
    for what, names, found in (("image", named["image"], images), ("caption", named["caption"], captions)):
        if missing := sorted(names.difference(found)):
            raise AlignError(
                f"{where}: expected a source with all that the ratings name, found {len(missing):,} of {len(names):,} "
                f"{what}s missing, as {missing[0]}; give Karpathy's split {split} of COCO, coco_karpathy with id "
                "'image/filename' and text_ids 'sentence_ids'"
            )
    numbers = {
        "image": {name: i for i, name in enumerate(images)},
        "caption": {name: i for i, name in enumerate(captions)},
    }
    rated = {}
    for task, pairs in columns.items():
        sides = zip(TASKS[task].sides, pairs, strict=True)
        places = np.array([[numbers[side][name] for name in names] for side, names in sides]).T
        rated[task] = Ratings(places, np.array([row["score"] for row in rows[task]]))
    return Rated(images, captions, owners, rated, unnamed)


def _of_source(
    source: Source, image_names: set[str], caption_ids: set[str], where: str
) -> tuple[dict[str, int], dict[str, str], np.ndarray, int]:
    """(file name -> record, sentence id -> text, owners, captions that are not asked for)."""
    images: dict[str, int] = {}
    captions: dict[str, str] = {}
    owners, unnamed = [], 0
    for index in range(len(source)):
        record = source.about(index)
        texts = dict(zip(record.text_ids, record.texts, strict=False))  # without ids, all are missing
        named = {name: text for name, text in texts.items() if name in caption_ids and record.id in image_names}
        if record.id in images or named.keys() & captions.keys():
            raise AlignError(f"{where}: expected ids that are unique, found those of {record.id!r} again")
        if record.id in image_names:
            owners += [len(images)] * len(named)
            images[record.id] = index
            captions |= named
        unnamed += len(texts) - len(named)
    return images, captions, np.array(owners), unnamed


def right_answers(rated: Rated) -> dict[str, np.ndarray]:
    """Task -> int64 [P, 2]: COCO's own pairs and those rated well, each once; two of a kind stand both ways round."""
    found = {task: ratings.pairs[ratings.scores >= TASKS[task].right] for task, ratings in rated.ratings.items()}
    own = {
        "sts": same_group(rated.owners, rated.owners),
        "sis": np.zeros((0, 2), np.int64),
        "sits": np.stack([np.arange(len(rated.owners)), rated.owners], axis=1),
    }
    right = {}
    for task, pairs in found.items():
        pairs = np.concatenate([own[task], pairs])
        if len(set(TASKS[task].sides)) == 1:
            pairs = np.concatenate([pairs, pairs[:, ::-1]])
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        right[task] = np.unique(pairs, axis=0)
    return right


def queries(task: str, ratings: Ratings) -> tuple[np.ndarray, np.ndarray]:
    """(queries int64 [q], ratings int64 [q]): which rating belongs to which query; in a pair of one kind, to both."""
    number = np.arange(len(ratings.pairs))
    if TASKS[task].sides == ("caption", "image"):
        return ratings.pairs[:, 1], number
    return ratings.pairs.T.ravel(), np.tile(number, 2)


def bootstrap(queries: np.ndarray, ratings: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """int64 [block, half of the distinct queries], `draws` rows in all: for queries drawn without replacement, one of
    the ratings of each. queries, ratings [q]: which rating belongs to which query."""
    rng = np.random.default_rng(seed)
    order = np.argsort(queries, kind="stable")
    _, starts, counts = np.unique(queries[order], return_index=True, return_counts=True)
    half = len(starts) // 2
    for first in range(0, draws, BLOCK):
        every = np.tile(np.arange(len(starts)), (min(BLOCK, draws - first), 1))
        drawn = rng.permuted(every, axis=1)[:, :half]
        which = starts[drawn] + (rng.random(drawn.shape) * counts[drawn]).astype(np.int64)
        yield ratings[order[which]]
