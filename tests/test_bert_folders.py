"""Folders of BERT and RoBERTa: read to the last attribute, written so that transformers loads them."""

import json
import warnings

import jax
import numpy as np
import pytest
import tokenizer_files
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizer_files import VARIED

from align_jax import towers
from align_jax.data.text import WordPiece
from align_jax.data.tokenizer_folder import open_tokenizer
from align_jax.interop import huggingface_bert
from align_jax.interop.accounts import Attributes
from align_jax.interop.positions import resize_positions
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign
from align_jax.types import AlignError

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
ROBERTA = {"max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
# What saves a folder -> the class of its model, its tokenizer, and more of its config.
SAVED = {
    "bert": (transformers.BertModel, tokenizer_files.bert, {"max_position_embeddings": 40}),
    "pretraining": (transformers.BertForPreTraining, tokenizer_files.bert, {"max_position_embeddings": 40}),
    "roberta": (transformers.RobertaForMaskedLM, tokenizer_files.roberta, ROBERTA),
    "xlm-roberta": (transformers.XLMRobertaForSequenceClassification, tokenizer_files.xlm_roberta, ROBERTA),
}


def save(folder, kind):
    """(model, tokenizer) of transformers, saved by its own writers."""
    made, tokenizer_of, more = SAVED[kind]
    tokenizer = tokenizer_of()
    torch.manual_seed(0)
    model = made(made.config_class(**SIZE, **more, vocab_size=len(tokenizer))).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def hidden(model, tokenizer, texts=VARIED) -> np.ndarray:
    """Their last hidden vectors, padding zeroed."""
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        found = model.base_model(**inputs).last_hidden_state
    return (found * inputs["attention_mask"][..., None]).numpy()


def edit(folder, **attributes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | attributes))


@pytest.mark.parametrize("kind", SAVED)
def test_there_and_back(tmp_path, kind):
    theirs, tokenizer = save(tmp_path / "theirs", kind)
    model = open_pretrained(tmp_path / "theirs")
    roberta = kind.endswith("roberta")
    assert model.task["text"]["position_offset"] == (2 if roberta else 0)
    assert model.task["text"]["max_length"] == 40 and model.data["vocab"]["size"] == len(tokenizer)
    assert ("text_architecture" in model.facts) == roberta
    heads = [name for name in model.ignored if name.split(".")[0] in ("cls", "lm_head", "classifier")]
    assert bool(heads) == (kind != "bert") and all(model.ignored[name].startswith("a head") for name in heads)

    tower = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    (tmp_path / "ours").mkdir()
    for name, write in model.files.items():
        write(tmp_path / "ours" / name)
    ids, mask = open_tokenizer(tmp_path / "ours").encode(VARIED, 16)
    found = np.asarray(tower.apply({"params": model.params["text_tower"]}, ids, mask)) * mask[..., None]
    np.testing.assert_allclose(found, hidden(theirs, tokenizer), atol=2e-6)

    save_foreign(huggingface_of(model), tmp_path / "back")
    with warnings.catch_warnings(action="error"):
        again, info = transformers.AutoModel.from_pretrained(
            tmp_path / "back", add_pooling_layer=not roberta, output_loading_info=True
        )
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert not any(info.values()), info
    np.testing.assert_array_equal(hidden(again, loaded), hidden(theirs, tokenizer))
    card = (tmp_path / "back" / "README.md").read_text()
    assert ('from_pretrained("FOLDER", add_pooling_layer=False)' in card) == roberta
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    prefix = theirs.base_model_prefix + "."
    for name, tensor in after.items():
        source = name if kind == "bert" else prefix + name
        assert tensor.tobytes() == before.pop(source).tobytes(), name
    assert all(not name.startswith(prefix) for name in before), "all of the tower came back"
    second = open_pretrained(tmp_path / "back")
    assert (second.task, second.data) == (model.task, model.data)
    jax.tree.map(np.testing.assert_array_equal, second.params, model.params)


@pytest.mark.parametrize(
    "made",
    [transformers.BertConfig, transformers.RobertaConfig, transformers.XLMRobertaConfig, transformers.AlignTextConfig],
)
def test_a_config_is_read_to_its_last_attribute_and_back(made):
    config = made(**SIZE, vocab_size=99, layer_norm_eps=1e-6, hidden_dropout_prob=0.2, bos_token_id=0)
    for saved in (config.to_dict(), config.to_diff_dict(), {**config.to_dict(), "pruned_heads": {}, "top_k": 50}):
        attributes = Attributes(saved, "config.json")
        rows = attributes.take("vocab_size")
        section = huggingface_bert.section(attributes)
        attributes.close()
        written = huggingface_bert.attributes_of(towers.text_tower(section, vocab_size=rows))
        written["model_type"] = saved["model_type"]
        assert made(**written).to_dict() == made(**{**config.to_dict(), "bos_token_id": None}).to_dict() | {
            "bos_token_id": made().bos_token_id
        }


@pytest.mark.parametrize(
    ("attribute", "match"),
    [
        ({"hidden_act": "gelu_new"}, r"hidden_act: expected 'gelu' or 'gelu_python', found 'gelu_new'$"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: expected 'absolute', found"),
        ({"is_decoder": True}, "is_decoder: expected False, found True"),
        ({"add_cross_attention": True}, "add_cross_attention: expected False, found True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads: expected {} or None, found {'0': "),
        ({"num_attention_heads": 3}, "hidden_size: expected a multiple of num_attention_heads=3, found 16"),
        ({"num_hidden_layers": "1"}, "num_hidden_layers: expected a whole number of at least 1, found '1'"),
        ({"layer_norm_eps": None}, "layer_norm_eps: expected a number of at least 0, found None"),
        ({"embedding_size": 8}, "expected no other attributes, found embedding_size=8; nothing here reads them"),
        ({"intermediate_size": 25}, r"intermediate.dense.weight: expected shape \(25, 16\), found \(24, 16\)"),
        ({"num_hidden_layers": 2}, "expected the tensor encoder.layer.1.* found none of that name"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a whole number of at least 1, found 0"),
        ({"model_type": "distilbert"}, "model_type: expected one of .*, found 'distilbert'"),
        ({"model_type": "roberta", "pad_token_id": None}, "pad_token_id: expected a whole number"),
    ],
)
def test_refuses_by_name_what_it_cannot_express(tmp_path, attribute, match):
    save(tmp_path, "bert")
    edit(tmp_path, **attribute)
    with pytest.raises(AlignError, match=match) as told:
        open_pretrained(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("difference", [-1, 1])
def test_refuses_a_vocabulary_of_another_size(tmp_path, difference):
    _, tokenizer = save(tmp_path, "bert")
    rows = len(tokenizer) + difference
    tensors = load_file(tmp_path / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = np.resize(tensors[name], (rows, 16))
    save_file(tensors, tmp_path / "model.safetensors")
    edit(tmp_path, vocab_size=rows)
    with pytest.raises(AlignError, match=f"embedding table of {rows} rows, found one of {len(tokenizer)} pieces; give"):
        open_pretrained(tmp_path)


def test_norms_may_be_named_as_tensorflow_names_them(tmp_path):
    """As in the published file of bert-base-uncased."""
    save(tmp_path, "bert")
    model = open_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for old, new in {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, open_pretrained(tmp_path).params, model.params)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_positions_are_resized_when_asked(tmp_path, kind):
    save(tmp_path, kind)
    model = open_pretrained(tmp_path)
    offset = model.task["text"]["position_offset"]
    table = model.params["text_tower"]["position_embedding"]["embedding"]
    assert resize_positions(model, 40) is model and "text_positions" not in model.facts

    def resized(length):
        found = resize_positions(model, length)
        tower = towers.text_tower(found.task["text"], vocab_size=found.data["vocab"]["size"])
        new = found.params["text_tower"]["position_embedding"]["embedding"]
        assert tower.max_length == length and new.shape == (length + offset, 16) and new.dtype == np.float32
        np.testing.assert_array_equal(new[:offset], table[:offset])
        return new[offset:], found.facts["text_positions"]

    shorter, told = resized(8)
    np.testing.assert_array_equal(shorter, table[offset : offset + 8])
    assert told == "the first 8 of 40"
    longer, told = resized(79)  # twice as many steps between the same ends: every second row is an old one
    np.testing.assert_array_equal(longer[::2], table[offset:])
    np.testing.assert_allclose(longer[1::2], (table[offset:-1] + table[offset + 1 :]) / 2, atol=1e-7)
    assert told == "79, interpolated linearly from 40"
    save_foreign(huggingface_of(resize_positions(model, 8)), tmp_path / "out")
    config = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=kind == "bert").config
    assert config.max_position_embeddings == 8 + offset
    with pytest.raises(AlignError, match=r"max_length: expected at least 3 pieces, .*, found 2"):
        resize_positions(model, 2)


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_a_table_larger_than_its_vocabulary_is_written_with_unused_pieces(tmp_path, file):
    """As a run has it whose texts gave fewer pieces than config.data.vocab.size."""
    theirs, tokenizer = save(tmp_path, "bert")
    if file == "vocab.txt":
        WordPiece(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))).save(tmp_path / file)
    model = open_pretrained(tmp_path)
    assert list(model.files) == [file]
    rows = len(tokenizer) + 50
    model.data["vocab"]["size"] = rows
    table = model.params["text_tower"]["word_embedding"]
    table["embedding"] = np.concatenate([table["embedding"], np.ones((50, 16), np.float32)])
    save_foreign(huggingface_of(model), tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(loaded) == rows and loaded.convert_ids_to_tokens(rows - 1) == "[unused49]"
    again = transformers.AutoModel.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(hidden(again, loaded), hidden(theirs, tokenizer))
    second = open_pretrained(tmp_path / "out")
    assert second.data == model.data and list(second.files) == [file]


def test_positions_of_roberta_need_its_padding(tmp_path):
    save(tmp_path, "roberta")
    model = open_pretrained(tmp_path)
    model.task["text"]["position_offset"] = 3
    with pytest.raises(AlignError, match=r"a tokenizer that pads with 2, since positions begin at 3, found .* 1$"):
        huggingface_of(model)
