"""BERT weights from Hugging Face's tensor names (transformers BertModel, and the text model of AlignModel)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.models.bert import Bert
from align_jax.types import AlignError, Params

# Tensors that a file may hold and `Bert` does not, each with the reason.
IGNORED = {
    "pooler.dense.weight": "we read the last hidden vector of [CLS], without the tanh pooler",
    "pooler.dense.bias": "as above",
    "embeddings.position_ids": "0, 1, 2, ...: a constant that older versions stored",
    "embeddings.token_type_ids": "all zeros: a constant that older versions stored",
}

# Their module -> our path, outside the layers and inside one.
EMBEDDINGS = {
    "embeddings.word_embeddings": "word_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.token_type_embeddings": "type_embedding",
    "embeddings.LayerNorm": "embedding_norm",
}
LAYER = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
    "output.LayerNorm": "mlp_norm",
}


def from_torch_state(
    state: Mapping[str, np.ndarray], module: Bert, prefix: str = "", ignore: Mapping[str, str] = IGNORED
) -> Params:
    """The parameters of `module` from the tensors of `state` whose names begin with `prefix`.

    AlignError, by name, where one is missing, of another shape, or neither used nor listed in `ignore`.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    template = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    found = {name.removeprefix(prefix): np.asarray(x) for name, x in state.items() if name.startswith(prefix)}
    targets = {name: _at(template, path) for name, path in _modules(module.layers).items()}
    sources = {
        f"{name}.{'bias' if leaf == 'bias' else 'weight'}": (target, leaf)
        for name, target in targets.items()
        for leaf in target
    }
    missing = sorted(sources.keys() - found.keys())
    unknown = sorted(found.keys() - sources.keys() - ignore.keys())
    if missing or unknown:
        raise AlignError(
            f"BERT tensors {prefix}*: expected those of {module.layers} layers, missing {missing}, unknown {unknown}"
        )
    for name, (target, leaf) in sources.items():
        value = found[name].T if leaf == "kernel" else found[name]  # torch stores [out, in]
        if value.shape != target[leaf].shape:
            raise AlignError(f"BERT tensor {prefix}{name}: expected {target[leaf].shape}, found {value.shape}")
        target[leaf] = value.astype(target[leaf].dtype)
    return template


def _modules(layers: int) -> dict[str, str]:
    """Their module name -> our path."""
    inside = {
        f"encoder.layer.{i}.{theirs}": f"layer_{i}/{ours}" for i in range(layers) for theirs, ours in LAYER.items()
    }
    return EMBEDDINGS | inside


def _at(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """The subtree at "a/b"."""
    for key in path.split("/"):
        tree = tree[key]
    return tree
