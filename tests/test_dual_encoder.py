"""The two towers together: against transformers' AlignModel, and the rules of the shared space."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax.interop.accounts import Tensors
from align_jax.interop.huggingface_align import variables
from align_jax.losses.contrastive import contrastive_loss
from align_jax.models.bert import Bert
from align_jax.models.dual_encoder import DualEncoder
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import Stage
from align_jax.models.randomness import row_keys

WIDTH, DEPTH, FEATURES, TEMPERATURE = 0.35, 0.3, 112, 0.07
TEXT = Bert(vocab_size=60, layers=2, width=32, heads=2, mlp_width=64, max_length=24)
PEER = DualEncoder(EfficientNet(WIDTH, DEPTH, padding="hf"), TEXT, embedding=FEATURES)
ROWS = 4
IDS = np.random.default_rng(0).integers(1, 60, (ROWS, 9), np.int32)
MASK = np.arange(9)[None] < np.array([[9], [6], [3], [8]])


def pixels(size: int) -> np.ndarray:
    return np.random.default_rng(size).uniform(-1, 1, (ROWS, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def peer() -> transformers.AlignModel:
    """A tiny AlignModel whose activations are of order one: with transformers' own weights they vanish, and so NaN."""
    text = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 24,
    }
    vision = {"width_coefficient": WIDTH, "depth_coefficient": DEPTH, "drop_connect_rate": 0.0}
    config = transformers.AlignConfig(
        text_config=text, vision_config=vision, projection_dim=FEATURES, temperature_init_value=TEMPERATURE
    )
    torch.manual_seed(0)
    model = transformers.AlignModel(config).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.2)
            torch.nn.init.normal_(layer.bias)
    return model


@pytest.fixture(scope="module")
def state(peer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in peer.state_dict().items()}


@pytest.mark.parametrize("size", [64, 75])  # at odd sizes Hugging Face's padding is not TensorFlow's
def test_equals_hugging_face_align(peer, state, size):
    images = pixels(size)
    peer.zero_grad()
    expected = peer(
        input_ids=torch.tensor(IDS),
        attention_mask=torch.tensor(MASK),
        pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)),
        return_loss=True,
    )
    expected.loss.backward()

    found = variables(Tensors(state, "peer"), PEER)
    params = found["params"]
    image, text = jax.jit(PEER.apply)(found, images, IDS, MASK)

    def loss(log_temperature):
        """AlignModel smooths labels by 0.1, as the paper does, and halves the paper's sum."""
        mean = contrastive_loss(image, text, jnp.exp(log_temperature), label_smoothing=0.1).loss
        return mean.total / mean.count / 2

    value, slope = jax.value_and_grad(loss)(jnp.asarray(params["log_temperature"]))
    logits = image @ text.T / jnp.exp(params["log_temperature"])
    assert np.exp(params["log_temperature"]) == pytest.approx(TEMPERATURE, rel=1e-6)
    for found, theirs in [
        (image, expected.image_embeds),
        (text, expected.text_embeds),
        (logits, expected.logits_per_image),
        (value, expected.loss),
        (slope, peer.temperature.grad * TEMPERATURE),
    ]:
        theirs = theirs.detach().numpy()
        assert np.abs(found - theirs).max() < 1e-4 * np.abs(theirs).max()


def apply(module: DualEncoder, variables, *inputs, **options) -> Any:
    """Linen's own `apply` may return more than the result, which its type cannot leave out."""
    return module.apply(variables, *inputs, **options)


class Image(nn.Module):
    """A tower of one layer: the mean pixel, plus a number that the row's key draws."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
        return nn.Dense(8, dtype=self.dtype)(images.mean((1, 2)) + draw(keys))


class Text(nn.Module):
    """As `Image`, for word pieces: the rows' numbers along L."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        words = jnp.where(mask, ids, 0).astype(jnp.float32)
        return nn.Dense(6, dtype=self.dtype)(words[..., None] + draw(keys)[..., None])


def draw(keys: jax.Array | None) -> jax.Array:
    return jnp.zeros((1, 1)) if keys is None else jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("projection", [False, True])
def test_embeddings_are_unit_vectors_in_f32(projection, dtype):
    width = 5 if projection else 8
    module = DualEncoder(Image(dtype), Text(dtype), width, image_projection=projection, temperature_init=0.25)
    inputs = pixels(8), IDS, MASK
    params = module.init(jax.random.key(0), *inputs)["params"]
    assert params["log_temperature"] == pytest.approx(np.log(0.25))
    names = {"image_tower", "text_tower", "text_projection", "log_temperature"}
    assert set(params) == names | ({"image_projection_layer"} if projection else set())
    for embedding in apply(module, {"params": params}, *inputs):
        assert embedding.shape == (ROWS, width) and embedding.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=1), 1, atol=1e-6)


def test_each_tower_alone_equals_the_pair():
    module = DualEncoder(Image(), Text(), 8)
    images, keys = pixels(8), row_keys(jax.random.key(1), ROWS)
    variables = module.init(jax.random.key(0), images, IDS, MASK)
    image, text = module.apply(variables, images, IDS, MASK, train=True, keys=keys)
    np.testing.assert_array_equal(image, module.apply(variables, images, train=True, keys=keys, method="embed_images"))
    np.testing.assert_array_equal(text, module.apply(variables, IDS, MASK, keys=keys, method="embed_texts"))


def test_the_towers_draw_independently_and_by_row():
    class Keys(nn.Module):
        """Hands its keys on, where features were expected."""

        @nn.compact
        def __call__(self, *_, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
            self.sow("drawn", "keys", keys)
            return jnp.ones((ROWS, 1, 8)) if _[0].ndim == 2 else jnp.ones((ROWS, 8))

    keys = row_keys(jax.random.key(1), ROWS)
    module = DualEncoder(Keys(), Keys(), 8)
    variables = {"params": module.init(jax.random.key(0), pixels(8), IDS, MASK)["params"]}
    _, drawn = module.apply(variables, pixels(8), IDS, MASK, train=True, keys=keys, mutable="drawn")
    data = [tuple(key) for rows in jax.tree.leaves(drawn) for key in jax.random.key_data(rows).tolist()]
    assert len(data) == len(set(data)) == 2 * ROWS


def test_dropout_does_not_depend_on_the_split_of_the_batch():
    tower = EfficientNet(0.25, 0.6, stochastic_depth=0.5, bn_group_size=2, stages=(Stage(2, 3, 1, 16),), strides=(1,))
    module = DualEncoder(tower, TEXT.clone(layers=1), 5, image_projection=True)
    images, keys = pixels(16), row_keys(jax.random.key(1), ROWS)
    variables = module.init(jax.random.key(0), images, IDS, MASK)

    @jax.jit
    def embed(images, ids, mask, keys):
        return module.apply(variables, images, ids, mask, train=True, keys=keys, mutable="batch_stats")[0]

    whole = embed(images, IDS, MASK, keys)
    halves = [embed(images[half], IDS[half], MASK[half], keys[half]) for half in (slice(0, 2), slice(2, 4))]
    for found, parts in zip(whole, zip(*halves, strict=True), strict=True):
        np.testing.assert_allclose(found, jnp.concatenate(parts), atol=2e-5)


def test_a_vector_of_zeros_passes_no_nan_back():
    module = DualEncoder(Image(), Text(), 8)
    images = np.zeros((ROWS, 8, 8, 3), np.float32)
    variables = module.init(jax.random.key(0), images, IDS, MASK)
    gradient = jax.grad(lambda v: apply(module, v, images, method="embed_images").sum())(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_refuses_what_does_not_fit():
    inputs = jax.random.key(0), pixels(8), IDS, MASK
    with pytest.raises(ValueError, match=r"the 8 features of the image tower, found 5; set image_projection=True"):
        DualEncoder(Image(), Text(), 5).init(*inputs)
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"temperature_init: expected a number above 0"):
            DualEncoder(Image(), Text(), 8, temperature_init=temperature).init(*inputs)
