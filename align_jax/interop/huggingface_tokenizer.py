"""The tokenizer's files of a folder of transformers, in and out; AutoTokenizer loads what is written."""

import itertools
import json
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from align_jax import towers
from align_jax.data import tokenizer_folder, tokenizer_json
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.data.tokenizer_folder import SETTINGS
from align_jax.data.tokenizer_json import TokenizerJson
from align_jax.interop.pretrained import Pretrained
from align_jax.types import AlignError

Files = Mapping[str, Callable[[Path], Any]]

# Pieces that have the same names in most vocabularies.
USUAL = {"<unk>": "unk_token", "[UNK]": "unk_token", "<mask>": "mask_token", "[MASK]": "mask_token"}
SPARE = 500  # published tables are at most by a 500th larger than their vocabulary, which makes their sizes round


def read(folder: Path, *, rows: int) -> tuple[dict[str, Any], Files]:
    """(keys of config.data.vocab, what writes the vocabulary) of a folder whose embedding table has `rows`.

    AlignError where the table has no row for a piece, or many rows without one.
    """
    tokenizer = tokenizer_folder.open_tokenizer(folder)
    pieces = tokenizer.vocab_size
    if not rows - rows // SPARE <= pieces <= rows:
        raise AlignError(
            f"{folder}: expected a vocabulary for an embedding table of {rows} rows, found one of {pieces} pieces; "
            "give the folder the tokenizer that the model was trained with"
        )
    rules = {"lowercase": tokenizer.lowercase} if isinstance(tokenizer, WordPiece) else {}
    return {"size": rows, **rules}, tokenizer.files()


def write(model: Pretrained) -> Files:
    """Name -> what writes it: tokenizer.json, tokenizer_config.json, and vocab.txt of word pieces.

    There is a piece for each row of the embedding table: as in BERT's own vocabulary, [unused0] and so on where there
    is no other. AlignError where positions begin after another id than that of the tokenizer's padding.
    """
    tower = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    tokenizer = _tokenizer_of(model)
    if tokenizer.vocab_size > tower.vocab_size:
        raise AlignError(
            f"{model.where}: expected a vocabulary for an embedding table of {tower.vocab_size} rows, found one of "
            f"{tokenizer.vocab_size} pieces"
        )
    padding = 0 if isinstance(tokenizer, WordPiece) else tokenizer.padding
    if tower.position_offset not in (0, padding + 1):
        raise AlignError(
            f"{model.where}: expected a tokenizer that pads with {tower.position_offset - 1}, since positions begin at "
            f"{tower.position_offset}, found one that pads with {padding}"
        )
    if isinstance(tokenizer, WordPiece):
        files, settings = _word_piece(tokenizer, tower.vocab_size)
    else:
        files, settings = _filled(tokenizer, tower.vocab_size).files(), _special(tokenizer)
    content = json.dumps({**settings, "model_max_length": tower.max_length}, indent=2) + "\n"
    return {**files, SETTINGS: lambda path: path.write_text(content, encoding="utf-8")}


def _tokenizer_of(model: Pretrained) -> WordPiece | TokenizerJson:
    """From what the model's files write."""
    names = [name for name in model.files if name in tokenizer_folder.FILES]
    if len(names) != 1:
        raise AlignError(f"{model.where}: expected one of {', '.join(tokenizer_folder.FILES)}, found {names or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / names[0]
        model.files[names[0]](path)
        return tokenizer_folder.load(path, model.data["vocab"].get("lowercase", True))


def _word_piece(tokenizer: WordPiece, rows: int) -> tuple[Files, dict[str, Any]]:
    """(files, settings) of BertTokenizer."""
    unused = _unused(rows - tokenizer.vocab_size, set(tokenizer.pieces))
    whole = WordPiece([*tokenizer.pieces, *unused], tokenizer.lowercase)
    theirs = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(whole.pieces)}, unk_token="[UNK]"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=tokenizer.lowercase)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    theirs.decoder = decoders.WordPiece()
    ends = [(piece, whole.pieces.index(piece)) for piece in ("[CLS]", "[SEP]")]
    theirs.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    theirs.add_special_tokens(list(SPECIAL))
    settings = {
        "tokenizer_class": "BertTokenizer", "do_lower_case": tokenizer.lowercase, "strip_accents": None,
        "tokenize_chinese_chars": True, **{f"{piece.strip('[]').lower()}_token": piece for piece in SPECIAL},
    }  # fmt: skip
    return {**whole.files(), tokenizer_json.FILE: lambda path: theirs.save(str(path))}, settings


def _filled(tokenizer: TokenizerJson, rows: int) -> TokenizerJson:
    """With as many pieces as there are rows."""
    if tokenizer.vocab_size == rows:
        return tokenizer
    theirs = Tokenizer.from_str(tokenizer.text)
    theirs.add_special_tokens(_unused(rows - tokenizer.vocab_size, theirs.get_vocab()))
    return TokenizerJson(theirs.to_str())


def _unused(count: int, known: Container[str]) -> list[str]:
    """Names for rows that no text reaches."""
    names = (piece for piece in map("[unused{}]".format, itertools.count()) if piece not in known)
    return list(itertools.islice(names, count))


def _special(tokenizer: TokenizerJson) -> dict[str, Any]:
    """The settings of a tokenizer that is its tokenizer.json."""
    pieces = Tokenizer.from_str(tokenizer.text).get_vocab()
    names = {index: piece for piece, index in pieces.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "cls_token": names[tokenizer.first[0]],
        "sep_token": names[tokenizer.last[-1]], "pad_token": names[tokenizer.padding],
        **{name: piece for piece, name in USUAL.items() if piece in pieces},
    }  # fmt: skip
