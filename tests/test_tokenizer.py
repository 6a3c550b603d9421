"""The vocabulary of a source's texts: counted one by one, in bounded memory, the same every time."""

import collections
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from align_jax.data.text import WordCounts, WordPiece

ROOT = Path(__file__).parent.parent
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    source = {{"name": "manifest", "path": {path!r}}}
    return ConfigDict({{"data": {{"source": source, "vocab": {{"size": 100_000, "path": "data/vocab.txt"}}}}}})
"""


def corpus(seed, count=400):
    """Made-up texts; some words are frequent, most are rare."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bcdfghkl" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [" ".join(rng.choices(words, weights, k=8)) for _ in range(count)]


def counted(texts, **options):
    words = WordCounts(**options)
    for text in texts:
        words.add(text)
    return words


def manifest(path, texts):
    rows = [{"image": f"{number}.png", "texts": [text]} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path.parent / "config.py").write_text(CONFIG.format(path=str(path)))


def process(folder, *arguments):
    """The verb on the config in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "align_jax.tokenizer", f"--config={folder / 'config.py'}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"JAX_PLATFORMS": ""},
    )  # fmt: skip


def test_the_verb_writes_what_a_run_would_learn_in_any_order(tmp_path):
    texts = [*corpus(0), "Caf\u00e9 CAFE caf\u00e9!", "x" * 101]
    manifest(tmp_path / "pairs.jsonl", texts)
    done = process(tmp_path, f"--out={tmp_path / 'out' / 'vocab.txt'}", "--config.data.vocab.size=300")
    assert done.returncode == 0, done.stderr
    expected = WordPiece.train(texts[::-1], 300)  # in another process, whose hash maps are seeded anew
    assert (tmp_path / "out" / "vocab.txt").read_text().splitlines() == list(expected.pieces)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vocab.txt"]
    total = 400 * 8 + 4 + 1
    assert f"300 pieces from 402 texts of {total:,} words, " in done.stdout
    # All but the long one are spelt, with the whole alphabet known.
    assert f"; {(total - 1) / total:.3%} of the words need no [UNK]" in done.stdout and "1 were too long" in done.stdout
    assert done.stderr == ""  # a bar is for a terminal


@pytest.mark.parametrize(
    ("texts", "override", "message"),
    [
        (["\u200b", ""], "vocab.size=100", "error: data.source: expected texts with words, found none in 2 texts"),
        (["a b"], "vocab.size=4", "error: config.data.vocab.size: expected at least 7 pieces, found 4"),
        (["a b"], "vocab.sise=4", "sise"),
    ],
)
def test_mistakes_are_one_line(tmp_path, texts, override, message):
    manifest(tmp_path / "pairs.jsonl", texts)
    done = process(tmp_path, f"--out={tmp_path / 'vocab.txt'}", f"--config.data.{override}")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "vocab.txt").exists()


words_of = st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(words_of, max_size=30), most=st.integers(1, 8))
@example(texts=["a a b b c d e"], most=1)
def test_counts_are_exact_up_to_the_bound_and_never_too_high(texts, most):
    exact = collections.Counter(word for text in texts for word in text.split())
    found = counted(texts, most=most)
    assert found.texts == len(texts) and found.words == exact.total()
    assert found.counts.total() + found.forgotten == found.words
    assert len(found.counts) <= most and found.counts <= exact
    if len(exact) <= most:
        assert found.counts == exact and found.forgotten == 0
    assert found.counts == counted(texts, most=most).counts


def test_frequent_words_outlive_the_bound():
    texts = corpus(2, 3000)
    exact, bounded = counted(texts), counted(texts, most=150)
    assert len(exact.counts) > 250 and len(bounded.counts) <= 150
    for word, count in exact.counts.most_common(30):
        assert bounded.counts[word] > 0.95 * count


def test_a_frequent_word_is_not_written_out_at_once():
    """2,000 million of them would be a string of 8 GB. The trainer is given 25,000 in parts, and counts them all."""
    words = counted(["the cat"])
    words.counts["the"] = 25_000
    vocabulary = WordPiece.learn(words, 40)
    assert "the" in vocabulary.pieces and "cat" not in vocabulary.pieces  # which was met once
    assert vocabulary.coverage(counted(["the the \u732b"])) == (2 / 3, 1.0)
