"""Tokenizers of the `tokenizers` library, from a tokenizer.json: byte-level BPE, Unigram and whatever else it holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from align_jax.types import AlignError

FILE = "tokenizer.json"
PADDING, MASK = ("<pad>", "[PAD]"), ("<mask>", "[MASK]")
STARTS = ("Ġ", "▁")  # of the first piece of a word, in byte-level BPE and in Unigram
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # its special pieces


class TokenizerJson:
    """A tokenizer as its file says, for one text a row. Picklable, safe to share between threads.

    Equals the library, but for texts that spell a special piece, such as "</s>" or "<mask>": none reaches the model.
    Such a text is spelt in ordinary pieces where the model can (byte-level BPE); where the model's own vocabulary gives
    the special piece back (Unigram), that piece is left out.

    Attributes: text (the file's), vocab_size (rows of an embedding table that holds all ids), first and last (ids of
    the special pieces around each text, as the file's post-processor puts them), padding, unknown (None where
    everything can be spelt) and mask (None without such a piece): ids; special and continues: as `vocab.Tokenizer`.
    """

    def __init__(self, text: str, where: str = FILE):
        """`text`: the content of a tokenizer.json; `where` names it in messages."""
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise AlignError(f"{where}: expected a tokenizer of the library tokenizers, found none: {error}") from error
        self.text = text
        pieces = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(pieces.values(), default=-1)
        self._tokenizer.no_truncation()  # cut here: truncation is a state that threads would share
        self.padding = _padding(self._tokenizer, where)
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as ordinary text
        around = self._tokenizer.encode("a")
        inner = [position for position, special in enumerate(around.special_tokens_mask) if not special]
        self.first = tuple(around.ids[: inner[0]] if inner else ())
        self.last = tuple(around.ids[inner[-1] + 1 :] if inner else ())
        if not self.first or not self.last:
            raise AlignError(
                f"{where}: expected a post-processor that puts special pieces before and after a text, as BERT's, "
                f"found {around.tokens} for 'a'"
            )
        special = {index for index, piece in self._tokenizer.get_added_tokens_decoder().items() if piece.special}
        content = json.loads(text)
        self.unknown = _unknown(content, pieces)
        self.mask = next((pieces[piece] for piece in MASK if piece in pieces), None)
        hidden = set() if self.mask is None else {self.mask}
        self._special = (special | {*self.first, *self.last, self.padding}) - {self.unknown}
        self.special = np.zeros(self.vocab_size, bool)
        self.special[sorted(self._special | hidden)] = True
        self.continues = np.zeros(self.vocab_size, bool)
        for piece, index in pieces.items():
            self.continues[index] = _continues(piece, content["model"])

    def __reduce__(self):
        return TokenizerJson, (self.text,)

    @classmethod
    def load(cls, path: str | Path) -> TokenizerJson:
        """Reads a tokenizer.json."""
        return cls(Path(path).read_text(encoding="utf-8"), str(path))

    @classmethod
    def byte_level_bpe(cls, vocab: Path, merges: Path, *, add_prefix_space: bool = False) -> TokenizerJson:
        """RoBERTa's, from the vocab.json and merges.txt that older folders have in place of a tokenizer.json."""
        try:
            tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        except Exception as error:  # the library raises nothing narrower
            raise AlignError(f"{vocab}: expected a vocabulary of byte-level BPE, found none ({error})") from error
        pieces = tokenizer.get_vocab()
        if missing := [piece for piece in ROBERTA if piece not in pieces]:
            raise AlignError(f"{vocab}: expected RoBERTa's special pieces, found no {', '.join(missing)}")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
        tokenizer.decoder = decoders.ByteLevel()
        first, last = ("<s>", pieces["<s>"]), ("</s>", pieces["</s>"])
        tokenizer.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=add_prefix_space)
        tokenizer.add_special_tokens([AddedToken(piece, lstrip=piece == "<mask>", special=True) for piece in ROBERTA])
        return cls(tokenizer.to_str(), str(vocab))

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer.json that was read."""
        Path(path).write_text(self.text, encoding="utf-8")

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """What a run keeps of it."""
        return {FILE: self.save}

    def preprocessing(self) -> dict[str, Any]:
        """`encode` for other programs; the rest is what the file says."""
        return {
            "tokenizer": "tokenizers", "tokenizer_file": FILE, "first_ids": list(self.first),
            "last_ids": list(self.last), "padding_id": self.padding, "padding_side": "right",
            "truncation_side": "right",
        }  # fmt: skip

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [B, L], mask bool [B, L]) with L = `length`: `first`, pieces, `last`, cut to fit, padded."""
        room = length - len(self.first) - len(self.last)
        if room < 1:
            raise ValueError(f"text length: expected room for a piece between the special ones, found {length}")
        ids = np.full((len(texts), length), self.padding, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, found in enumerate(self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            inner = [index for index in found.ids if index not in self._special]
            if not inner:
                raise ValueError(f"text {row}: expected at least one word, found {texts[row]!r}")
            pieces = [*self.first, *inner[:room], *self.last]
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = True
        return ids, mask


def _padding(tokenizer: Tokenizer, where: str) -> int:
    """The id of padding: as the file says, else of a piece of a usual name."""
    if tokenizer.padding is not None:
        return tokenizer.padding["pad_id"]
    for piece in PADDING:
        index = tokenizer.token_to_id(piece)
        if index is not None:
            return index
    raise AlignError(f"{where}: expected a padding section or one of the pieces {', '.join(PADDING)}, found neither")


def _continues(piece: str, model: Mapping[str, Any]) -> bool:
    """Whether a piece goes on with a word: WordPiece marks those, the others mark the first one."""
    if model.get("type") == "WordPiece":
        return piece.startswith(model["continuing_subword_prefix"])
    return not piece.startswith(STARTS)


def _unknown(content: Mapping[str, Any], pieces: Mapping[str, int]) -> int | None:
    """The id of what cannot be spelt, which a text may well hold."""
    model = content["model"]
    return pieces.get(model.get("unk_token")) if model.get("unk_id") is None else model["unk_id"]
