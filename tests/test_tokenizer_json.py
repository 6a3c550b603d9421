"""Tokenizers of others: equal to transformers, proof against texts that spell special pieces, kept beside a run."""

import json
import pickle
import shutil
import threading

import numpy as np
import pytest
import tiny_run
import tokenizer_files
from tokenizer_files import VARIED
from transformers import BertTokenizer

from align_jax import files
from align_jax import run as runs
from align_jax.data import source as sources
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.data.tokenizer_folder import open_tokenizer
from align_jax.data.tokenizer_json import TokenizerJson
from align_jax.loading import parts_of
from align_jax.types import AlignError

KINDS = {"roberta": tokenizer_files.roberta, "xlm_roberta": tokenizer_files.xlm_roberta}
FORGED = "a</s> photo<mask><s> <pad>"


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    KINDS[kind]().save_pretrained(tmp_path)
    return tmp_path


def check_equal(ours, theirs, texts=VARIED) -> None:
    for length in (5, 40):
        expected = theirs(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        ids, mask = ours.encode(texts, length)
        assert ids.dtype == np.int32 and mask.dtype == bool
        np.testing.assert_array_equal(ids, expected["input_ids"])
        np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_equals_transformers(folder, kind):
    ours, theirs = open_tokenizer(folder), KINDS[kind]()
    check_equal(ours, theirs)
    check_equal(pickle.loads(pickle.dumps(ours)), theirs)
    assert ours.vocab_size == len(theirs) and ours.padding == theirs.pad_token_id
    ours.save(folder / "copy.json")
    assert (folder / "copy.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_text_cannot_forge_a_special_piece(folder, kind):
    """Pieces of bytes spell it; a model that has the special piece in its own vocabulary leaves it out."""
    for ours in (open_tokenizer(folder), pickle.loads(pickle.dumps(open_tokenizer(folder)))):
        ids, mask = ours.encode([FORGED, "a photo"], 40)
        inner = ids[0][mask[0]][1:-1]
        assert not set(inner) & {0, 1, 2, ours.vocab_size - 1 if kind == "xlm_roberta" else 4}
        spelt = KINDS[kind]().decode(inner)
        assert spelt == (FORGED if kind == "roberta" else "a photo")


def test_threads_share_it(folder, kind):
    ours, lengths = open_tokenizer(folder), (5, 9, 40)
    alone = {length: ours.encode(VARIED * 20, length) for length in lengths}
    wrong = []

    def encode(length):
        for _ in range(5):
            if not all(map(np.array_equal, ours.encode(VARIED * 20, length), alone[length])):
                wrong.append(length)

    threads = [threading.Thread(target=encode, args=(length,)) for length in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("prefixed", [False, True])
def test_the_older_files_of_roberta(tmp_path, prefixed):
    theirs = tokenizer_files.roberta()
    model = tokenizer_files.model_of(theirs.backend_tokenizer)
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": prefixed}))
    theirs = type(theirs)(vocab=model["vocab"], merges=model["merges"], add_prefix_space=prefixed)
    check_equal(open_tokenizer(tmp_path), theirs)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(AlignError, match=r"vocab.json: expected a vocabulary of byte-level BPE, found none"):
        open_tokenizer(tmp_path)


def changed(folder, **sections) -> str:
    """The text of the folder's tokenizer.json with other sections."""
    return json.dumps(json.loads((folder / "tokenizer.json").read_text()) | sections)


def test_refuses_what_a_text_tower_cannot_use(folder):
    text = (folder / "tokenizer.json").read_text()
    with pytest.raises(AlignError, match=r"^x.json: expected a tokenizer of the library tokenizers, found none: "):
        TokenizerJson(text[:-40], "x.json")
    with pytest.raises(AlignError, match=r"expected a post-processor that puts special pieces .*, found \['.*'\]"):
        TokenizerJson(changed(folder, post_processor=None))
    with pytest.raises(AlignError, match=r"expected a padding section or one of the pieces <pad>, \[PAD\], found"):
        TokenizerJson(text.replace("<pad>", "<nothing>"))
    assert TokenizerJson(text.replace("<pad>", "[PAD]")).padding == 1
    ours = TokenizerJson(text)
    for blank in ("", "\n"):
        with pytest.raises(ValueError, match=r"text 1: expected at least one word"):
            ours.encode(["fine", blank.strip()], 8)
    with pytest.raises(ValueError, match="found 2"):
        ours.encode(["a"], 2)


def test_a_folder_says_whether_its_word_pieces_are_cased(tmp_path):
    theirs = tokenizer_files.bert(lowercase=False)
    theirs.save_pretrained(tmp_path)
    WordPiece(theirs.convert_ids_to_tokens(range(len(theirs)))).save(tmp_path / "vocab.txt")
    for path in (tmp_path, tmp_path / "vocab.txt"):
        ours = open_tokenizer(path)
        assert isinstance(ours, WordPiece) and not ours.lowercase
        check_equal(ours, theirs)
        with pytest.raises(AlignError, match=r"lowercase: expected False, as .*tokenizer_config.json says, found True"):
            open_tokenizer(path, True)
    settings = tmp_path / "tokenizer_config.json"
    settings.unlink()
    assert open_tokenizer(tmp_path).lowercase and not open_tokenizer(tmp_path, False).lowercase


@pytest.mark.parametrize(
    "setting",
    [
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"never_split": ["dog"]},
        {"sep_token": {"content": "</s>"}},
        {"tokenizer_class": "BertJapaneseTokenizer"},
        {"added_tokens_decoder": {"200": {"content": "<new>"}}},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_other_rules_for_word_pieces_are_those_of_the_tokenizer_json_or_refused(tmp_path, setting):
    pieces = tokenizer_files.bert().convert_ids_to_tokens(range(len(tokenizer_files.bert())))
    WordPiece(pieces).save(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(setting))
    name, told = next(iter(setting)), {"added_tokens_decoder": "added tokens: expected none but"}
    with pytest.raises(AlignError, match=rf"tokenizer_config.json: {told.get(name, name)}.* found .*AutoTokenizer"):
        open_tokenizer(tmp_path)
    if name in ("strip_accents", "tokenize_chinese_chars"):
        theirs = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, **setting)
        theirs.save_pretrained(tmp_path)
        ours = open_tokenizer(tmp_path)
        assert isinstance(ours, TokenizerJson)
        check_equal(ours, theirs)
        assert not np.array_equal(ours.encode(VARIED, 40)[0], WordPiece(pieces).encode(VARIED, 40)[0])


def test_a_folder_without_a_vocabulary(tmp_path):
    with pytest.raises(AlignError, match=r"expected a vocabulary \(vocab.txt, tokenizer.json, or .*\), found none"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(AlignError, match=r"tokenizer_config.json: expected JSON, found none"):
        open_tokenizer(tmp_path)


def test_a_run_keeps_its_tokenizer_under_its_own_name(tmp_path):
    given = tmp_path / "given"
    tokenizer_files.roberta().save_pretrained(given)
    config = tiny_run.config(tiny_run.manifest(tmp_path / "data"))
    config.data.vocab = {"size": 330, "path": str(given)}
    source, workdir = sources.make(**config.data.source), tmp_path / "run"
    rows = runs.prepare(config, workdir, source).pairs.texts(VARIED)
    assert (workdir / "tokenizer.json").read_bytes() == (given / "tokenizer.json").read_bytes()
    assert not (workdir / "vocab.txt").exists()
    files.write_json(workdir / "config.json", config.to_dict())
    shutil.rmtree(given)
    for parts in (runs.prepare(config, workdir, source), parts_of(workdir)):  # resumed; loaded, evaluated, exported
        np.testing.assert_equal(parts.pairs.texts(VARIED), rows)
        assert list(parts.pairs.files()) == ["tokenizer.json"]
    with config.unlocked():
        config.data.vocab.path = str(workdir)  # as the second stage of a run has it
    np.testing.assert_equal(runs.prepare(config, tmp_path / "second", source).pairs.texts(VARIED), rows)

    WordPiece([*SPECIAL, "a"]).save(workdir / "vocab.txt")
    with pytest.raises(AlignError, match=r"expected one of vocab.txt and tokenizer.json, found both; remove"):
        parts_of(workdir)


def test_mistakes_in_a_config_are_named(tmp_path):
    tokenizer_files.roberta().save_pretrained(tmp_path)
    config = tiny_run.config(tiny_run.manifest(tmp_path / "data"))
    source = sources.make(**config.data.source)

    def refused(match, **vocab):
        config.data.vocab = vocab
        with pytest.raises(AlignError, match=match):
            runs.prepare(config, tmp_path / "run", source)

    path = str(tmp_path / "tokenizer.json")
    refused(r"vocab.size: expected at least the 330 pieces of the vocabulary, found 329$", size=329, path=path)
    refused(r"lowercase: expected True, its default, beside .*tokenizer", size=330, path=path, lowercase=False)
    refused(r"vocab.path: expected a vocab.txt, a tokenizer.json or .*, found no nowhere$", size=9, path="nowhere")
