"""BERT and RoBERTa in transformers' names: BertModel, RobertaModel, XLMRobertaModel, and models that have one inside.

RoBERTa (Liu et al. 2019) is BERT with another vocabulary and other training; in transformers, its positions begin after
the id of its padding, which `Bert.position_offset` says.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from align_jax import towers
from align_jax.interop import huggingface_tokenizer, names
from align_jax.interop.accounts import Attributes, Tensors
from align_jax.interop.huggingface_attributes import plain
from align_jax.interop.names import DENSE, SAME, Entry
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.models.bert import Bert
from align_jax.types import AlignError

ROBERTA = ("roberta", "xlm-roberta")
TYPES = ("bert", *ROBERTA)  # of model_type
VOCAB_SIZE = 30522  # where config.json has none: as all defaults here, BertConfig's

# Field of `Bert` -> (attribute, what it is where config.json leaves it out).
FIELDS = {
    "layers": ("num_hidden_layers", 12),
    "width": ("hidden_size", 768),
    "heads": ("num_attention_heads", 12),
    "mlp_width": ("intermediate_size", 3072),
    "type_vocab": ("type_vocab_size", 2),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "epsilon": ("layer_norm_eps", 1e-12),
}

# Their module -> (our path, its kind): outside the layers, and inside one.
EMBEDDINGS = {
    "embeddings.word_embeddings": ("word_embedding", "table"),
    "embeddings.position_embeddings": ("position_embedding", "table"),
    "embeddings.token_type_embeddings": ("type_embedding", "table"),
    "embeddings.LayerNorm": ("embedding_norm", "norm"),
}
LAYER = {
    "attention.self.query": ("attention/query", "dense"),
    "attention.self.key": ("attention/key", "dense"),
    "attention.self.value": ("attention/value", "dense"),
    "attention.output.dense": ("attention/output", "dense"),
    "attention.output.LayerNorm": ("attention_norm", "norm"),
    "intermediate.dense": ("mlp_in", "dense"),
    "output.dense": ("mlp_out", "dense"),
    "output.LayerNorm": ("mlp_norm", "norm"),
}
# Kind -> (their leaf, ours, its layout).
LEAVES = {
    "table": (("weight", "embedding", SAME),),
    "norm": (("weight", "scale", SAME), ("bias", "bias", SAME)),
    "dense": (("weight", "kernel", DENSE), ("bias", "bias", SAME)),
}
GAMMA = {"weight": "gamma", "bias": "beta"}  # the leaves of norms in files that were converted from TensorFlow

# What a file may hold and `Bert` does not, below the prefix of the tower and beside it.
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
IGNORED = {
    **dict.fromkeys(POOLER, "here the last hidden vectors are read, without the tanh pooler"),
    "embeddings.position_ids": "0, 1, 2, ...: a constant that older versions stored",
    "embeddings.token_type_ids": "all zeros: a constant that older versions stored",
}
HEADS = {
    "cls.*": "a head that predicts hidden words or the next sentence",
    "lm_head.*": "a head that predicts hidden words",
    "classifier.*": "a head that classifies",
    "qa_outputs.*": "a head that marks answers",
}


def section(attributes: Attributes) -> dict[str, Any]:
    """The fields of config.task.text; AlignError for what `Bert` cannot express. `vocab_size` is left to the caller."""
    attributes.expect({"hidden_act": ("gelu", "gelu_python"), "position_embedding_type": "absolute"})
    fields = {field: _number(attributes, name, default) for field, (name, default) in FIELDS.items()}
    if fields["width"] % fields["heads"]:
        raise AlignError(
            f"{attributes.where}: hidden_size: expected a multiple of num_attention_heads={fields['heads']}, "
            f"found {fields['width']}"
        )
    offset = 0
    if attributes.take("model_type", "bert") in ROBERTA:
        offset = _number(attributes, "pad_token_id", 1) + 1
    rows = _number(attributes, "max_position_embeddings", 512)
    if rows <= offset:
        raise AlignError(f"{attributes.where}: max_position_embeddings: expected more than {offset}, found {rows}")
    attributes.ignore({
        "pad_token_id": "padding is masked, whatever its id",
        "pooler_*": "here the last hidden vectors are read, without the tanh pooler",
        "directionality": "bidi: a word sees both sides, as in every BERT",
    })  # fmt: skip
    plain(attributes)
    return fields | {"max_length": rows - offset, "position_offset": offset}


def attributes_of(module: Bert) -> dict[str, Any]:
    """What config.json says of `module`: the inverse of `section`, and model_type and vocab_size."""
    found = {name: getattr(module, field) for field, (name, _) in FIELDS.items()} | {
        "vocab_size": module.vocab_size,
        "max_position_embeddings": module.position_offset + module.max_length,
        "hidden_act": "gelu",
    }
    if module.position_offset:
        return {"model_type": "roberta", **found, "pad_token_id": module.position_offset - 1}
    return {"model_type": "bert", **found}


def entries(module: Bert, prefix: str = "", *, gamma: bool = False) -> list[Entry]:
    """All parameters of `module`, whose names there begin with `prefix`; `gamma`: norms are named as in TensorFlow."""
    modules = EMBEDDINGS | {
        f"encoder.layer.{i}.{theirs}": (f"layer_{i}/{ours}", kind)
        for i in range(module.layers)
        for theirs, (ours, kind) in LAYER.items()
    }
    return [
        Entry(f"{prefix}{theirs}.{GAMMA[leaf] if gamma and kind == 'norm' else leaf}", f"params/{ours}/{own}", layout)
        for theirs, (ours, kind) in modules.items()
        for leaf, own, layout in LEAVES[kind]
    ]


def template(module: Bert) -> dict[str, Any]:
    """The shapes and dtypes of its variables, {"params": ...}."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)


def read(tensors: Tensors, attributes: Attributes, folder: Path) -> Pretrained:
    """A text tower. Its tokenizer is that of `folder`, whose pieces must fit the embedding table."""
    kind = attributes.take("model_type")
    if kind not in TYPES:
        raise AlignError(f"{attributes.where}: model_type: expected one of {TYPES}, found {kind!r}")
    rows = _number(attributes, "vocab_size", VOCAB_SIZE)
    fields = section(attributes)
    module = towers.text_tower(fields, vocab_size=rows)
    inside = f"{'roberta' if kind in ROBERTA else 'bert'}."
    prefix = inside if any(name.startswith(inside) for name in tensors) else ""
    gamma = f"{prefix}embeddings.LayerNorm.gamma" in tensors
    params = names.read(tensors, entries(module, prefix, gamma=gamma), template(module))["params"]
    tensors.ignore({f"{prefix}{pattern}": reason for pattern, reason in IGNORED.items()} | HEADS)
    vocab, files = huggingface_tokenizer.read(folder, rows=rows)
    facts = {"text_tower": f"{kind} of {tensors.where}"}
    if kind in ROBERTA:
        facts["text_architecture"] = f"RoBERTa is BERT, with positions that begin at {module.position_offset}"
    return Pretrained(
        tensors.where, params={"text_tower": params}, model_state={}, task={"text": fields}, data={"vocab": vocab},
        files=files, facts=facts, ignored=tensors.ignored | attributes.ignored,
        kept={name: tensors.kept()[prefix + name] for name in POOLER if prefix + name in tensors},
    )  # fmt: skip


def write(model: Pretrained) -> Foreign:
    """The text tower as a BertModel, or a RobertaModel where positions have an offset, with its tokenizer's files.

    Its pooler is that of the source. Where that had none, or the tower was trained since, there is none: load it with
    `from_pretrained(folder, add_pooling_layer=False)`; without that option transformers makes a fresh one, and says so.
    """
    module = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    config = attributes_of(module)
    architecture = "RobertaModel" if module.position_offset else "BertModel"
    tensors = names.write({"params": model.params["text_tower"]}, entries(module))
    tensors |= {name: model.kept[name] for name in POOLER if name in model.kept}
    return Foreign(tensors, {"architectures": [architecture], **config}, huggingface_tokenizer.write(model))


def _number(attributes: Attributes, name: str, default: float) -> Any:
    """The attribute, a number of the default's kind above 0; rates may be 0."""
    found = attributes.take(name, default)
    whole = isinstance(default, int)
    if isinstance(found, bool) or not isinstance(found, int if whole else (int, float)) or found < 0:
        kind = "a whole number" if whole else "a number"
        raise AlignError(f"{attributes.where}: {name}: expected {kind} of at least 0, found {found!r}")
    return found
