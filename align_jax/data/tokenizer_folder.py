"""The tokenizer of a folder: a run's own, or one that transformers wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_jax.data import text, tokenizer_json
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.data.tokenizer_json import TokenizerJson
from align_jax.types import AlignError

FILES = (text.FILE, tokenizer_json.FILE)  # a run keeps one of these
SETTINGS = "tokenizer_config.json"

# Of `SETTINGS`, what changes the pieces that transformers' BertTokenizer finds -> the values that `WordPiece` has.
WORD_PIECE = {
    "tokenizer_class": (None, "BertTokenizer", "BertTokenizerFast"),
    "strip_accents": (None,),
    "tokenize_chinese_chars": (None, True),
    "do_basic_tokenize": (None, True),
    "never_split": (None, []),
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
    **{f"{piece.strip('[]').lower()}_token": (None, piece) for piece in SPECIAL},
}


def kept(folder: Path) -> Path | None:
    """The vocabulary that a run keeps in its folder; None where there is none yet."""
    found = [folder / name for name in FILES if (folder / name).exists()]
    if len(found) > 1:
        raise AlignError(
            f"{folder}: expected one of {' and '.join(FILES)}, found both; remove the one of an earlier start"
        )
    return found[0] if found else None


def load(path: Path, lowercase: bool = True) -> WordPiece | TokenizerJson:
    """The tokenizer of a file: of .json as the `tokenizers` library has it, of any other one word piece a line."""
    if path.suffix != ".json":
        return WordPiece.load(path, lowercase)
    if not lowercase:
        raise AlignError(
            f"config.data.vocab.lowercase: expected True, its default, beside {path}, which has rules of its own; "
            "found False"
        )
    return TokenizerJson.load(path)


def open_tokenizer(path: Path, lowercase: bool | None = None) -> WordPiece | TokenizerJson:
    """The tokenizer of a vocab.txt, of a tokenizer.json, or of a folder that has one of them.

    Word pieces are lower-cased as the tokenizer_config.json beside them says, else as `lowercase` does (None: they
    are); AlignError where the two differ. A folder with both files is read from its vocab.txt if its rules are those of
    `WordPiece`, which no text can deceive; else from its tokenizer.json.
    """
    folder = path if path.is_dir() else path.parent
    word_pieces = folder / text.FILE if path.is_dir() else path
    if word_pieces.suffix == ".json":
        return load(path, lowercase is not False)
    settings = _json(folder / SETTINGS) if word_pieces.name == text.FILE else {}
    other = _not_word_piece(settings, _json(folder / "added_tokens.json"))
    if word_pieces.is_file() and not other:
        said = settings.get("do_lower_case")
        if None not in (said, lowercase) and said != lowercase:
            raise AlignError(
                f"config.data.vocab.lowercase: expected {said}, as {folder / SETTINGS} says, found {lowercase}"
            )
        return WordPiece.load(word_pieces, lowercase is not False if said is None else said)
    if path.is_dir():
        if (folder / tokenizer_json.FILE).is_file():
            return load(folder / tokenizer_json.FILE, lowercase is not False)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            prefixed = settings.get("add_prefix_space", False)
            return TokenizerJson.byte_level_bpe(folder / "vocab.json", folder / "merges.txt", add_prefix_space=prefixed)
    if word_pieces.is_file():
        raise AlignError(
            f"{folder / SETTINGS}: {other}: nothing here reads word pieces in this way; load the tokenizer with "
            f"transformers' AutoTokenizer and save it, which writes a {tokenizer_json.FILE}"
        )
    raise AlignError(
        f"{folder}: expected a vocabulary ({', '.join(FILES)}, or vocab.json and merges.txt), found none; load the "
        f"tokenizer with transformers' AutoTokenizer and save it there, which writes a {tokenizer_json.FILE}"
    )


def _not_word_piece(settings: Mapping[str, Any], added: Mapping[str, Any]) -> str:
    """The first setting that `WordPiece` does not have, with what was expected; '' where it has all."""
    for name, known in WORD_PIECE.items():
        value = settings.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value  # a piece may be written with options
        if value not in known:
            return f"{name}: expected {known[-1]!r}, found {value!r}"
    further = [*added, *(piece["content"] for piece in settings.get("added_tokens_decoder", {}).values())]
    if more := [piece for piece in further if piece not in SPECIAL]:
        return f"added tokens: expected none but {', '.join(SPECIAL)}, found {more[0]!r}"
    return ""


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise AlignError(f"{path}: expected JSON, found none ({error})") from error
    if not isinstance(found, dict):
        raise AlignError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
