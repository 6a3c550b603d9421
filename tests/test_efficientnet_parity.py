"""The image tower's outputs and gradients against Hugging Face's (padding `hf`) and Keras's (padding `same`)."""

import copy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from closeness import relative_error

from align_jax.interop.huggingface_efficientnet import from_torch_state
from align_jax.models.efficientnet import STAGES, EfficientNet, round_filters
from align_jax.types import AlignError

WIDTH, DEPTH = 0.35, 0.3  # eight blocks, one of them with a skip connection


def randomise(model: torch.nn.Module) -> None:
    """Weights that keep activations of order one: transformers' own, of std 0.02, vanish within a few blocks."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor, low, high):
        return torch.nn.init.uniform_(tensor, low, high, generator=generator)

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                uniform(layer.bias, -1, 1)
        if isinstance(layer, torch.nn.BatchNorm2d):
            uniform(layer.weight, 0.5, 1.5)
            uniform(layer.bias, -0.5, 0.5)
            uniform(layer.running_mean, -0.5, 0.5)
            uniform(layer.running_var, 0.5, 2)


@pytest.fixture(scope="module")
def peer() -> transformers.EfficientNetModel:
    config = transformers.EfficientNetConfig(
        width_coefficient=WIDTH,
        depth_coefficient=DEPTH,
        hidden_dim=round_filters(1280 * WIDTH),
        drop_connect_rate=0.0,
    )
    model = transformers.EfficientNetModel(config)
    randomise(model)
    return model


def numpy_state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def images(size: int, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(rows, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "size, train, dtype, tolerance",
    [(64, False, "float32", 1e-4), (75, False, "float32", 1e-4), (75, True, "float64", 1e-9)],
)
def test_outputs_and_gradients_equal_hugging_face(peer, size, train, dtype, tolerance):
    """Train mode is compared in float64: there many gradients are small differences that BatchNorm nearly cancels."""
    with jax.enable_x64(dtype == "float64"):
        module = EfficientNet(
            WIDTH, DEPTH, padding="hf", head_conv=True, bn_group_size=None, dtype=dtype, param_dtype=dtype
        )
        pixels = images(size, rows=4).astype(dtype)
        params, batch_stats = from_torch_state(numpy_state(peer), module)

        @jax.jit
        def run(params, pixels):
            def loss(params, pixels):
                variables = {"params": params, "batch_stats": batch_stats}
                features, _ = module.apply(variables, pixels, train=train, mutable="batch_stats")
                return jnp.sum(jnp.sin(features)), features

            (_, features), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, pixels)
            return features, *gradients

        features, param_gradients, pixel_gradients = jax.device_get(run(params, pixels))

    twin = copy.deepcopy(peer).to(getattr(torch, dtype)).train(train)
    leaf = torch.tensor(pixels).permute(0, 3, 1, 2).requires_grad_()
    expected = twin(leaf).pooler_output
    expected.sin().sum().backward()
    assert leaf.grad is not None
    gradients = numpy_state(peer) | {name: value.grad.numpy() for name, value in twin.named_parameters()}
    with jax.enable_x64(dtype == "float64"):
        expected_gradients, _ = from_torch_state(gradients, module)

    assert relative_error(features, expected.detach().numpy()) < tolerance
    assert relative_error(pixel_gradients, leaf.grad.permute(0, 2, 3, 1).numpy()) < tolerance
    assert relative_error(param_gradients, expected_gradients) < tolerance


def test_align_vision_model_has_no_head():
    config = transformers.AlignVisionConfig(
        width_coefficient=WIDTH, depth_coefficient=DEPTH, hidden_dim=round_filters(320 * WIDTH), depthwise_padding=[]
    )
    peer = transformers.AlignVisionModel(config).eval()
    randomise(peer)
    state = {f"vision_model.{name}": tensor for name, tensor in numpy_state(peer).items()}
    module = EfficientNet(WIDTH, DEPTH, padding="hf")
    params, batch_stats = from_torch_state(state, module, prefix="vision_model.")
    pixels = images(75)
    with torch.no_grad():
        expected = peer(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output.numpy()
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(
        {"params": params, "batch_stats": batch_stats}, pixels
    )
    assert relative_error(features, expected) < 1e-4


def test_import_names_what_does_not_fit(peer):
    module = EfficientNet(WIDTH, DEPTH, padding="hf", head_conv=True)
    state = numpy_state(peer)
    with pytest.raises(AlignError, match=r"unknown \['extra.weight'\]"):
        from_torch_state(state | {"extra.weight": np.zeros(1)}, module)
    with pytest.raises(AlignError, match=r"missing \['encoder.top_conv.weight'\]"):
        from_torch_state({k: v for k, v in state.items() if k != "encoder.top_conv.weight"}, module)
    with pytest.raises(AlignError, match=r"unknown .*encoder.top_bn.bias"):
        from_torch_state(state, EfficientNet(WIDTH, DEPTH, padding="hf"))
    with pytest.raises(AlignError, match=r"embeddings.convolution.weight: expected"):
        from_torch_state(state | {"embeddings.convolution.weight": np.zeros((1, 3, 3, 3))}, module)
    with pytest.raises(AlignError, match="both 8 channels wide"):
        from_torch_state(state, EfficientNet(0.25, DEPTH))


# Keras runs in a process of its own: it does not keep to strict dtype promotion. Its public names stop at B0, which is
# slow to build twice; `EfficientNet` is the function behind them. The full table is compared with Hugging Face's.
KERAS = """
import sys
import jax
import keras
import numpy as np
from keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet
rng = np.random.default_rng(0)
found = {}
for size in (64, 75):
    model = EfficientNet(
        0.25, 0.3, 64, blocks_args=DEFAULT_BLOCKS_ARGS[:3], include_top=False, weights=None,
        input_shape=(size, size, 3), pooling="avg", name="peer",
    )
    for layer in model.layers:
        for weight in layer.weights:
            kind, shape = weight.name, weight.shape
            fan_in = np.prod(shape[:2] if "dwconv" in layer.name else shape[:-1])
            if kind == "kernel":
                value = rng.normal(size=shape, scale=(2 / fan_in) ** 0.5)
            elif kind in ("gamma", "moving_variance"):
                value = rng.uniform(0.5, 1.5, shape)
            elif layer.name != "normalization":
                value = rng.normal(size=shape, scale=0.3)
            else:
                continue
            weight.assign(value)
            found[f"{size}/{layer.name}/{kind}"] = value
    # Rescaling and normalisation are layers of Keras's model: ours starts behind them.
    both = keras.Model(model.input, [model.get_layer("stem_conv_pad").input, model.output])
    pixels = rng.uniform(0, 255, (2, size, size, 3))
    outputs = jax.jit(lambda x: both(x, training=False))(pixels)
    found[f"{size}/inputs"], found[f"{size}/outputs"] = (np.asarray(x) for x in outputs)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def keras_arrays(tmp_path_factory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("keras") / "peer.npz"
    subprocess.run([sys.executable, "-c", KERAS, str(path)], check=True)
    return dict(np.load(path))


def from_keras(arrays: dict[str, np.ndarray]) -> dict:
    """{"block2a_bn/gamma": ...} to our variables. Keras numbers blocks within a stage; sorted, they are in order."""
    blocks = sorted({name.split("_")[0] for name in arrays if name.startswith("block")})
    layers = {"dwconv": "depthwise_conv", "bn": "depthwise_bn", "top_conv": "head_conv", "top_bn": "head_bn"}
    leaves = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    variables = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        layer, leaf = name.split("/")
        tree = variables["batch_stats" if leaf.startswith("moving") else "params"]
        if layer.startswith("block"):
            block, layer = layer.split("_", 1)
            tree = tree.setdefault(f"block_{blocks.index(block)}", {})
        if layer == "dwconv":
            value = value.swapaxes(2, 3)
        elif layer.startswith("se_") and leaf == "kernel":
            value = value[0, 0]
        tree.setdefault(layers.get(layer, layer), {})[leaves.get(leaf, leaf)] = value.astype(np.float32)
    return variables


@pytest.mark.parametrize("size", ["64", "75"])
def test_outputs_equal_keras(keras_arrays, size):
    module = EfficientNet(0.25, 0.3, stages=STAGES[:3], strides=(1, 2, 2), padding="same", head_conv=True)
    arrays = {name.removeprefix(f"{size}/"): value for name, value in keras_arrays.items() if name.startswith(size)}
    inputs, outputs = arrays.pop("inputs"), arrays.pop("outputs")
    features = jax.jit(lambda variables, x: module.apply(variables, x, train=False))(from_keras(arrays), inputs)
    assert relative_error(features, outputs) < 1e-4
