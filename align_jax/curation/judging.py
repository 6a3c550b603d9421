"""From facts to verdicts: joins what one shard knows with what is known of the whole. numpy alone, no Beam."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from align_jax.curation import ngrams
from align_jax.curation.embeddings import NearEmbeddings
from align_jax.curation.ngrams import Counts
from align_jax.curation.perceptual import BITS, NearHashes
from align_jax.curation.rules import Image, Rules, Text, Verdict

KEEP = pa.schema([
    ("id", pa.string()),
    ("rule", pa.string()),  # that dropped the record, or ""
    ("texts", pa.list_(pa.string())),  # those that are kept
    ("text_rules", pa.list_(pa.string())),  # for each candidate text, the rule that dropped it, or ""
])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class World:
    """What is known of all records together."""

    frequent: np.ndarray  # uint64 [n], rising: hashes of the frequent unigrams and bigrams
    texts_of: Counts  # image hash -> its distinct texts, where they are many
    images_of: Counts  # text hash -> its distinct pictures, where they are many
    evaluation: NearHashes | None  # perceptual hashes of the evaluation pictures
    embeddings: NearEmbeddings | None  # their embeddings


def pairs(records: pa.Table) -> np.ndarray:
    """uint64 [n, 2]: (text hash, image hash) of each text with a word and its readable picture."""
    found = [
        (text, image)
        for image, reason, texts in zip(
            records["image_hash"].to_pylist(), records["reason"].to_pylist(), records["text_hashes"].to_pylist(),
            strict=True,
        )
        if not reason
        for text in texts
        if text
    ]  # fmt: skip
    return np.array(found, np.uint64).reshape(-1, 2)


def kept_pairs(records: pa.Table, verdicts: Sequence[Verdict]) -> np.ndarray:
    """The same of the pairs that the verdicts keep."""
    found = [
        (text, image)
        for image, texts, verdict in zip(
            records["image_hash"].to_pylist(), records["text_hashes"].to_pylist(), verdicts, strict=True
        )
        for text, rule in zip(texts, verdict.texts, strict=True)
        if not rule
    ]
    return np.array(found, np.uint64).reshape(-1, 2)


def judge(
    records: pa.Table,
    rules: Rules,
    world: World,
    embeddings: np.ndarray | None,
    scores: Sequence[Sequence[float]] | None,
) -> list[Verdict]:
    """Verdicts of a shard by all rules but `shared_description`.

    `records` as in facts.RECORDS; where a checkpoint gave them, `embeddings` f32 [n, D], and `scores` with one
    for each text of each record.
    """
    image_hashes, hashes = (records[name].to_numpy().astype(np.uint64) for name in ("image_hash", "phash"))
    texts = world.texts_of.of(image_hashes, absent=1)
    bits = world.evaluation.distances(hashes) if world.evaluation else np.full(len(hashes), BITS)
    cosines = np.full(len(hashes), -1.0)
    if world.embeddings is not None and embeddings is not None:
        cosines = world.embeddings.cosines(embeddings)
    rows = records.to_pylist()
    words = [[tuple(ngrams.words(text)) for text in row["texts"]] for row in rows]
    rare, unknown = _rarity([unigrams for each in words for unigrams in each], world.frequent)
    images = world.images_of.of(np.array([key for row in rows for key in row["text_hashes"]], np.uint64), absent=1)
    place = 0
    verdicts = []
    for index, row in enumerate(rows):
        here = slice(place, place := place + len(row["texts"]))
        cosine = scores[index] if scores is not None else [-1.0] * len(row["texts"])
        each = zip(words[index], row["languages"], rare[here], unknown[here], images[here], cosine, strict=True)
        image = Image(row["reason"], row["width"], row["height"], _scores(row), int(texts[index]), int(bits[index]),
                      float(cosines[index]))  # fmt: skip
        verdicts.append(rules.judge(image, [Text(*facts) for facts in each]))
    return verdicts


def describe(records: pa.Table, rules: Rules, verdicts: Sequence[Verdict], described: Counts) -> list[Verdict]:
    """The last rule, `shared_description`: `described` counts the pictures of each text that would be kept."""
    return [
        rules.judge_description(verdict, described.of(np.array(keys, np.uint64), absent=1).tolist())
        for verdict, keys in zip(verdicts, records["text_hashes"].to_pylist(), strict=True)
    ]


def keep_list(records: pa.Table, verdicts: Sequence[Verdict]) -> pa.Table:
    """The rows of KEEP."""
    return pa.Table.from_pylist(
        [
            {
                "id": name, "rule": verdict.rule, "text_rules": verdict.texts,
                "texts": [text for text, rule in zip(texts, verdict.texts, strict=True) if not rule],
            }
            for name, texts, verdict in zip(
                records["id"].to_pylist(), records["texts"].to_pylist(), verdicts, strict=True
            )
        ],
        KEEP,
    )  # fmt: skip


def _rarity(texts: Sequence[Sequence[str]], frequent: np.ndarray) -> tuple[list[int], list[float]]:
    """Of each text: n-grams outside `frequent`, and the share of unigrams outside; 0 where nothing was counted."""
    if not len(frequent):
        return [0] * len(texts), [0.0] * len(texts)
    lists = [ngrams.ngrams(unigrams) for unigrams in texts]
    keys = ngrams.hashed(ngram for each in lists for ngram in each)
    known = frequent[np.minimum(np.searchsorted(frequent, keys), len(frequent) - 1)] == keys
    rare, unknown, start = [], [], 0
    for unigrams, each in zip(texts, lists, strict=True):
        outside = ~known[start : start + len(each)]
        rare.append(int(outside.sum()))
        unknown.append(float(outside[: len(unigrams)].mean()) if unigrams else 0.0)
        start += len(each)
    return rare, unknown


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The measures of a record; NaN where there is none, of an unreadable picture."""
    found = {name.removeprefix("score:"): value for name, value in row.items() if name.startswith("score:")}
    return {name: float("nan") if value is None else value for name, value in found.items()}
