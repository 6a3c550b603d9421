"""The cross-encoder against transformers' BertModel on the same sequence, and what it may not depend on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from closeness import relative_error

from align_jax.interop import names
from align_jax.interop.accounts import Tensors
from align_jax.interop.huggingface_bert import entries, template
from align_jax.models.bert import Bert
from align_jax.models.image_bert import ImageBert, Visual, cell_boxes, geometry
from align_jax.models.region_masking import hide

TOWER = Bert(vocab_size=60, layers=2, width=32, heads=4, mlp_width=64, max_length=16)
CONFIG = transformers.BertConfig(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=16,
)  # fmt: skip
MODEL = ImageBert(TOWER, None, region_width=10, classes=4)
CLS, SEP = 2, 3
RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 4, 3])  # pieces, of which the first is [CLS] and the last [SEP]
IDS = RNG.integers(4, 60, (3, 6), np.int32)
IDS[:, 0] = CLS
IDS[np.arange(3), LENGTHS - 1] = SEP
MASK = np.arange(6)[None] < LENGTHS[:, None]
IDS[~MASK] = 0
PRESENT = np.arange(5)[None] < np.array([[5], [2], [1]])
LOW = RNG.uniform(0, 0.5, (3, 5, 2))
BOXES = np.concatenate([LOW, LOW + RNG.uniform(0.1, 0.5, LOW.shape)], -1)
FEATURES = RNG.normal(size=(3, 5, 10))
POSITIONS = np.array([[1, 4], [2, 0], [1, 0]], np.int32)


def visual(dtype=np.float32, features=FEATURES, boxes=BOXES, present=PRESENT):
    return Visual(jnp.asarray(features.astype(dtype)), jnp.asarray(boxes.astype(dtype)), jnp.asarray(present))


def fresh(model=MODEL, dtype=np.float32) -> Any:
    """Parameters of which none is zero: a fresh bias would hide a swap."""
    inputs = dict(zip(("regions", "boxes", "region_mask"), visual(dtype), strict=True))
    params = jax.jit(model.init)(jax.random.key(0), inputs, IDS, MASK, POSITIONS)["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), dtype) for leaf in leaves])


def theirs(bert: transformers.BertModel, params: Any, features: torch.Tensor) -> torch.Tensor:
    """The last hidden states [3, 12, 32] of BertModel on the same sequence, as the paper's figure 4 has it."""

    def dense(x, name):
        return x @ torch.tensor(np.asarray(params[name]["kernel"])) + torch.tensor(np.asarray(params[name]["bias"]))

    tables = bert.embeddings
    boxes = torch.tensor(BOXES)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    image = dense(features, "region_projection") + dense(torch.cat([boxes, area[..., None]], -1), "box_projection")
    image = image + tables.position_embeddings.weight[1] + tables.token_type_embeddings.weight[0]
    norm = params["region_norm"]
    image = torch.nn.functional.layer_norm(
        image, (32,), torch.tensor(np.asarray(norm["scale"])), torch.tensor(np.asarray(norm["bias"])), 1e-12
    )
    ids = torch.tensor(IDS)
    first = tables(input_ids=ids[:, :1], position_ids=torch.tensor([[0]]))
    middle = tables(input_ids=torch.full((3, 1), SEP), position_ids=torch.tensor([[2]]))
    words = tables(
        input_ids=ids[:, 1:], position_ids=torch.arange(3, 8)[None], token_type_ids=torch.ones((3, 5), dtype=torch.long)
    )
    one = torch.ones((3, 1), dtype=torch.bool)
    seen = torch.cat([one, torch.tensor(PRESENT), one, torch.tensor(MASK[:, 1:])], 1)
    mask = torch.where(seen, 0.0, -1e30)[:, None, None]
    x = torch.cat([first, image, middle, words], 1)
    return bert.encoder(x, attention_mask=mask.to(x.dtype)).last_hidden_state


def test_values_and_gradients_equal_bert_on_the_same_sequence():
    """In float64, where a wrong position, segment, mask or epsilon cannot hide."""
    torch.manual_seed(0)
    bert = transformers.BertModel(CONFIG, add_pooling_layer=False).double().eval()
    with torch.no_grad():
        for weights in bert.parameters():
            weights += 0.1 * torch.randn(weights.shape, dtype=weights.dtype)
    double = MODEL.clone(text_tower=TOWER.clone(dtype=jnp.float64, param_dtype=jnp.float64), param_dtype=jnp.float64)
    state = {name: tensor.numpy().copy() for name, tensor in bert.state_dict().items()}
    weights = np.random.default_rng(2).normal(size=(3, 12, 32))
    weights *= np.concatenate([np.ones((3, 1)), PRESENT, np.ones((3, 1)), MASK[:, 1:]], 1)[..., None]
    with jax.enable_x64(True):
        tower = names.read(
            Tensors(state, "peer"), entries(double.text_tower), template(double.text_tower)
        )["params"]  # fmt: skip
        params = fresh(double, np.float64) | {"text_tower": tower}

        def ours(features):
            seen = visual(np.float64)._replace(features=features)
            tokens, present = double.apply({"params": params}, seen, method="tokens")
            hidden = double.apply({"params": params}, tokens, present, IDS, MASK, method="join")
            return (hidden * weights).sum(), hidden

        gradient, hidden = jax.jit(jax.grad(ours, has_aux=True))(jnp.asarray(FEATURES))
        features = torch.tensor(FEATURES, requires_grad=True)
        expected = theirs(bert, params, features)
        (expected * torch.tensor(weights)).sum().backward()
    kept = weights != 0
    assert features.grad is not None
    assert relative_error(np.asarray(hidden) * kept, expected.detach().numpy() * kept) < 1e-12
    assert relative_error(np.asarray(gradient), features.grad.numpy()) < 1e-10


@pytest.fixture(scope="module")
def params():
    return fresh()


@jax.jit
def predicted(params, seen, zeroed) -> Any:
    return MODEL.apply({"params": params}, seen, IDS, MASK, POSITIONS, zeroed=zeroed, method="predict")


def predict(params, seen=None, zeroed=None) -> Any:
    return predicted(params, visual() if seen is None else seen, jnp.zeros((3, 5), bool) if zeroed is None else zeroed)


def test_words_are_read_from_their_own_places(params):
    """Changing the word at place 4 of row 0 changes what is said of it most of all: there the table is its own head."""
    tokens, present = MODEL.apply({"params": params}, visual(), method="tokens")
    hidden = MODEL.apply({"params": params}, tokens, present, IDS, MASK, method="join")
    out = predict(params)
    for row, column, place in ((0, 0, 1), (0, 1, 4), (1, 0, 2)):
        own = MODEL.apply({"params": params}, hidden[row : row + 1, place + 6 : place + 7], method="word_logits")
        np.testing.assert_allclose(out.words[row, column], np.asarray(own)[0, 0], atol=1e-5)


def test_the_order_of_regions_and_absent_ones_do_not_matter(params):
    """Nor what padding holds: a row alone, cut to its own length, gives the same numbers."""
    out = predict(params)
    order = np.array([3, 0, 4, 2, 1])
    turned = predict(params, visual(features=FEATURES[:, order], boxes=BOXES[:, order], present=PRESENT[:, order]))
    np.testing.assert_allclose(turned.match, out.match, atol=1e-5)
    np.testing.assert_allclose(turned.classes[0], out.classes[0][order], atol=1e-5)
    noise = FEATURES + 100.0 * ~PRESENT[..., None]
    np.testing.assert_allclose(predict(params, visual(features=noise)).match, out.match, atol=1e-5)
    cut = visual(features=FEATURES[1:2, :2], boxes=BOXES[1:2, :2], present=PRESENT[1:2, :2])
    alone = MODEL.apply({"params": params}, cut, IDS[1:2, :4], MASK[1:2, :4], POSITIONS[1:2], method="predict")
    np.testing.assert_allclose(alone.match, out.match[1:2], atol=1e-5)
    np.testing.assert_allclose(alone.words, out.words[1:2], atol=1e-5)


def test_zeroed_features_cannot_be_seen(params):
    """Their boxes can."""
    zeroed = jnp.asarray(np.arange(5)[None] == np.array([[1], [0], [0]]))
    out = predict(params, zeroed=zeroed)
    other = FEATURES + 7.0 * np.asarray(zeroed)[..., None]
    np.testing.assert_array_equal(predict(params, visual(features=other), zeroed).features, out.features)
    moved = np.clip(BOXES - 0.05 * np.asarray(zeroed)[..., None], 0, 1)
    assert np.abs(predict(params, visual(boxes=moved), zeroed).match - out.match).min() > 1e-6


def test_the_global_feature_is_the_mean_of_what_can_be_seen():
    whole = MODEL.clone(global_feature=True)
    zeroed = jnp.asarray(np.arange(5)[None] == np.array([[1], [1], [3]]))
    params = fresh(whole)
    tokens, present = whole.apply({"params": params}, visual(), zeroed=zeroed, method="tokens")
    assert tokens.shape == (3, 6, 32) and np.asarray(present)[:, -1].all()
    visible = np.where(np.asarray(zeroed)[..., None], 0, FEATURES)
    mean = (visible * PRESENT[..., None]).sum(1) / PRESENT.sum(1)[:, None]
    alone = Visual(
        jnp.asarray(mean[:, None].astype(np.float32)), jnp.asarray(np.float32([[[0, 0, 1, 1]]] * 3)),
        jnp.ones((3, 1), bool),
    )  # fmt: skip
    expected, _ = MODEL.apply({"params": params}, alone, method="tokens")
    np.testing.assert_allclose(tokens[:, -1:], expected, atol=1e-5)


def test_boxes_of_cells_and_their_geometry():
    boxes = np.asarray(cell_boxes(2, 4, jnp.float32))
    np.testing.assert_allclose(boxes[0], [0, 0, 0.25, 0.5])
    np.testing.assert_allclose(boxes[3], [0.75, 0, 1, 0.5])
    np.testing.assert_allclose(boxes[4], [0, 0.5, 0.25, 1])
    np.testing.assert_allclose(np.asarray(geometry(jnp.asarray(boxes[None])))[0, :, 4], 1 / 8)


def test_hidden_regions_are_a_share_of_the_present_and_one_at_least():
    keys = jax.vmap(jax.random.key)(jnp.arange(4000))
    present = jnp.asarray(np.arange(10)[None] < np.arange(4000)[:, None] % 11)
    hidden, zeroed = (np.asarray(x) for x in hide(present, keys, share=0.15, zeroed=0.9))
    count, there = hidden.sum(1), np.asarray(present).sum(1)
    assert not (hidden & ~np.asarray(present)).any() and not (zeroed & ~hidden).any()
    assert (count[there > 0] >= 1).all() and (count[there == 0] == 0).all()
    # A region is hidden by its own draw, or as the least of all where none is: 0.15 + 0.85^n / n of n.
    for n in (1, 5, 10):
        assert abs(hidden[there == n].sum() / (n * (there == n).sum()) - (0.15 + 0.85**n / n)) < 0.04
    assert abs(zeroed.sum() / hidden.sum() - 0.9) < 0.02
