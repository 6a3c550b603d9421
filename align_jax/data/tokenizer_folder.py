"""The tokenizer of a folder: a run's own, or one that transformers wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_jax.data import text, tokenizer_json
from align_jax.data.json_file import json_of
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
    of_library = path.suffix == ".json"
    if of_library and not lowercase:
        raise AlignError(
            f"config.data.vocab.lowercase: expected True, its default, beside {path}, which has rules of its own; "
            "found False"
        )
    try:
        return TokenizerJson.load(path) if of_library else WordPiece.load(path, lowercase)
    except UnicodeDecodeError as error:
        raise AlignError(f"{path}: expected a vocabulary in UTF-8, found {error}") from error


def open_tokenizer(path: Path, lowercase: bool | None = None) -> WordPiece | TokenizerJson:
    """The tokenizer of a vocab.txt, of a tokenizer.json, or of a folder that has one of them.

    Word pieces are lower-cased as the tokenizer_config.json beside them says, else as `lowercase` does (None: they
    are); AlignError where the two differ. A folder with both files is read from its vocab.txt if its rules are those of
    `WordPiece`, else from its tokenizer.json.
    """
    if not path.exists():
        names = ", a ".join(FILES)
        raise AlignError(f"config.data.vocab.path: expected a {names} or a folder with one of them, found no {path}")
    if not path.is_dir():
        return load(path, lowercase is not False) if path.suffix == ".json" else _word_pieces(path, lowercase)
    pieces, other, merges = path / text.FILE, path / tokenizer_json.FILE, path / "merges.txt"
    if pieces.is_file() and not _not_word_piece(path):
        return _word_pieces(pieces, lowercase)
    if other.is_file():
        return load(other, lowercase is not False)
    if merges.is_file():
        prefixed = _json(path / SETTINGS).get("add_prefix_space", False)
        return TokenizerJson.byte_level_bpe(path / "vocab.json", merges, add_prefix_space=prefixed)
    if pieces.is_file():
        return _word_pieces(pieces, lowercase)
    raise AlignError(
        f"{path}: expected a vocabulary ({', '.join(FILES)}, or vocab.json and merges.txt), found none; load the "
        f"tokenizer with transformers' AutoTokenizer and save it there, which writes a {tokenizer_json.FILE}"
    )


def _word_pieces(path: Path, lowercase: bool | None) -> WordPiece | TokenizerJson:
    """Of a vocab.txt, by the settings beside it; a file of another name has none."""
    own = path.name == text.FILE
    if own and (other := _not_word_piece(path.parent)):
        raise AlignError(
            f"{path.parent / SETTINGS}: {other}: nothing here reads word pieces in this way; load the tokenizer with "
            f"transformers' AutoTokenizer and save it, which writes a {tokenizer_json.FILE}"
        )
    said = _json(path.parent / SETTINGS).get("do_lower_case") if own else None
    if None not in (said, lowercase) and said != lowercase:
        raise AlignError(
            f"config.data.vocab.lowercase: expected {said}, as {path.parent / SETTINGS} says, found {lowercase}"
        )
    return load(path, lowercase is not False if said is None else said)


def _not_word_piece(folder: Path) -> str:
    """The first setting of the folder that `WordPiece` does not have, with what was expected; '' where it has all."""
    settings = _json(folder / SETTINGS)
    for name, known in WORD_PIECE.items():
        value = settings.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value  # a piece may be written with options
        if value not in known:
            return f"{name}: expected {known[-1]!r}, found {value!r}"
    written = settings.get("added_tokens_decoder", {}).values()
    added = [*_json(folder / "added_tokens.json"), *(piece["content"] for piece in written)]
    if more := [piece for piece in added if piece not in SPECIAL]:
        return f"added tokens: expected none but {', '.join(SPECIAL)}, found {more[0]!r}"
    return ""


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    return json_of(path) if path.is_file() else {}
