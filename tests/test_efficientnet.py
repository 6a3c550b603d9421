"""The image tower by itself: sizes, initial weights, refusals, and rows that do not know which device holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from closeness import relative_error
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from align_jax import towers
from align_jax.models.efficientnet import Conv, EfficientNet
from align_jax.models.efficientnet_scaling import STAGES, VARIANTS, round_filters
from align_jax.models.randomness import row_keys

SMALL = EfficientNet(0.25, 0.6, stages=STAGES[:2], strides=(1, 2), bn_group_size=2)


def images(size: int, rows: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(rows, size, size, 3)).astype(np.float32)


COUNTS = {
    "b0": 3_595_388,
    "b1": 6_101_024,
    "b2": 7_202_562,
    "b3": 10_103_336,
    "b4": 16_742_216,
    "b5": 27_288_112,
    "b6": 39_403_992,
    "b7": 62_143_440,
    "b8": 82_608_046,
    "l2": 467_219_796,
    # With the head, and a classifier of 1,000 classes, the published 4,652,008 to 13,006,568.
    "lite0": 2_958_848,
    "lite1": 3_723_520,
    "lite2": 4_357_952,
    "lite3": 6_422_016,
    "lite4": 11_149_568,
}


def count(module: EfficientNet) -> int:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)["params"])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts(name):
    assert count(towers.image_tower({"variant": name}, side=64)) == COUNTS[name]


@pytest.mark.parametrize("name", ["b0", "b3", "b7"])
def test_parameter_counts_equal_hugging_face(name):
    width, depth, *_ = VARIANTS[name]
    hidden = round_filters(1280 * width)
    config = transformers.EfficientNetConfig(width_coefficient=width, depth_coefficient=depth, hidden_dim=hidden)
    with torch.device("meta"):
        peer = transformers.EfficientNetModel(config)
    assert count(EfficientNet(width, depth, head_conv=True)) == sum(p.numel() for p in peer.parameters())


def test_initial_weights_have_the_published_spread():
    for depthwise, fan_out in ((False, 9 * 96), (True, 9)):
        conv = Conv(96, 3, depthwise=depthwise)
        params = jax.jit(conv.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 96)))["params"]
        assert params["kernel"].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_sides_of_the_maps_at_289_pixels():
    def side(padding):
        module = EfficientNet(0.25, 0.1, padding=padding)
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 289, 289, 3)), train=False))
        x = jax.ShapeDtypeStruct((1, 289, 289, 3), jnp.float32)
        return jax.eval_shape(lambda v, x: module.apply(v, x, train=False, method="feature_map"), variables, x).shape[1]

    assert side("same") == 10 and side("hf") == 9


@pytest.mark.parametrize(
    "module, size, message",
    [
        (EfficientNet(padding="hf"), 31, "31 x 31 pixels are too small"),
        (EfficientNet(padding="valid"), 64, "expected padding of .*, found 'valid'"),  # pyright: ignore
        (EfficientNet(strides=(1, 2)), 64, "a stride for each of 7 stages"),
    ],
)
def test_refusals(module, size, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((2, size, size, 3)), train=False))


@pytest.fixture(scope="module")
def variables():
    """Of SMALL."""
    return jax.jit(lambda: SMALL.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3)), train=False))()


def test_masks_belong_to_rows(variables):
    pixels, keys = images(16, rows=8), row_keys(jax.random.key(1), 8)

    @jax.jit
    def features(pixels, keys):
        return SMALL.clone(stochastic_depth=0.9).apply(variables, pixels, train=False, keys=keys)

    whole = features(pixels, keys)
    halves = np.concatenate([features(pixels[:4], keys[:4]), features(pixels[4:], keys[4:])])
    np.testing.assert_allclose(whole, halves, rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.round(whole - features(pixels, None), 5), axis=0)) > 2  # rows drop different blocks


def test_eight_devices_train_like_one(variables):
    """Groups of two rows: the same gradients and batch statistics, with no collective but the gradient's sum."""
    pixels, keys = images(16, rows=16), row_keys(jax.random.key(1), 16)

    def gradient_and_stats(variables, pixels, keys):
        def loss(params):
            features, state = SMALL.apply(
                {**variables, "params": params}, pixels, train=True, keys=keys, mutable="batch_stats"
            )
            return jnp.sum(jnp.sin(features)), state["batch_stats"]

        return jax.grad(loss, has_aux=True)(variables["params"])

    def per_device(variables, pixels, keys):
        gradient, stats = gradient_and_stats(jax.lax.pcast(variables, "data", to="varying"), pixels, keys)
        return jax.lax.psum(gradient, "data"), jax.lax.pmean(stats, "data")

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(per_device, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    expected, found = jax.jit(gradient_and_stats)(variables, pixels, keys), jax.jit(spread)(variables, pixels, keys)
    assert relative_error(found, expected) < 1e-4


def test_bfloat16_activations_float32_weights(variables):
    module = SMALL.clone(dtype=jnp.bfloat16)
    pixels = images(16, rows=2)

    def features(module):
        return jax.jit(lambda v, x: module.apply(v, x, train=True, mutable="batch_stats")[0])(variables, pixels)

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), pixels, train=False))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    assert features(module).dtype == jnp.float32
    assert relative_error(features(module), features(SMALL)) < 0.1


def test_accelerators_take_convolutions(variables):
    """The rewrites that XLA:CPU needs stay on CPU."""
    traced = jax.jit(lambda v, x: SMALL.apply(v, x, train=False)).trace(variables, images(16, rows=2))
    convolutions = [path for path, _ in jax.tree.leaves_with_path(variables["params"]) if "_conv" in str(path)]
    for platform in ("tpu", "cuda"):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert program.count("stablehlo.convolution") == len(convolutions)
