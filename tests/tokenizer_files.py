"""Tokenizers of transformers, learnt on a handful of texts: what a folder of BERT, RoBERTa or XLM-R has."""

import functools
import json
import random

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from align_jax.data.text import WordPiece

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
VARIED = [
    "a photo of a dog",
    "Crème BRÛLÉE, naïve café — déjà vu!",
    "don't; e-mail: someone@example.com (50% off)…",
    "東京タワー at night 夜景",
    "🐕 puppy 👩‍👩‍👧 family",
    "tabs\tand\nnew  lines\u00a0and\u3000wide spaces ",
    "one two three four five six seven eight nine ten eleven twelve",
]


def corpus() -> list[str]:
    """Texts of the same words."""
    rng = random.Random(0)
    words = " ".join(VARIED).split()
    return [" ".join(rng.choices(words, k=8)) for _ in range(200)]


@functools.cache
def bert(lowercase: bool = True) -> transformers.BertTokenizer:
    """Word pieces."""
    pieces = WordPiece.train(corpus(), 200, lowercase).pieces
    return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=lowercase)


@functools.cache
def roberta() -> transformers.RobertaTokenizer:
    """Byte-level BPE."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    learnt.train_from_iterator(corpus(), trainer)
    merges = [tuple(pair) for pair in model_of(learnt)["merges"]]
    return transformers.RobertaTokenizer(vocab=learnt.get_vocab(), merges=merges)


@functools.cache
def xlm_roberta() -> transformers.XLMRobertaTokenizer:
    """Unigram, whose model knows the special pieces too."""
    learnt = Tokenizer(models.Unigram())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL[:4], unk_token="<unk>", show_progress=False
    )
    learnt.train_from_iterator([*corpus(), "< > / s k p"], trainer)
    pieces = [tuple(piece) for piece in model_of(learnt)["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


def model_of(tokenizer: Tokenizer) -> dict:
    """The section of its tokenizer.json."""
    return json.loads(tokenizer.to_str())["model"]
