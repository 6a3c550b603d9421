"""The image tower's outputs and gradients against Hugging Face's (padding `hf`) and Keras's (padding `same`)."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from closeness import relative_error
from torch_peers import numpy_state, randomise

from align_jax.interop import efficientnet, names
from align_jax.interop.accounts import Tensors
from align_jax.interop.huggingface_efficientnet import entries
from align_jax.interop.source import open_pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS, Variant, round_filters
from align_jax.tasks import classify
from align_jax.types import AlignError

WIDTH, DEPTH = 0.35, 0.3  # eight blocks, one of them with a skip connection


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


def ours(state: dict[str, np.ndarray], module: EfficientNet, prefix: str = "") -> dict:
    """{"params", "batch_stats"} of Hugging Face's tensors."""
    return names.read(Tensors(state, "the peer"), entries(module, prefix), efficientnet.shapes(module))


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
        variables = ours(numpy_state(peer), module)

        @jax.jit
        def run(params, pixels):
            def loss(params, pixels):
                given = {**variables, "params": params}
                features, _ = module.apply(given, pixels, train=train, mutable="batch_stats")
                return jnp.sum(jnp.sin(features)), features

            (_, features), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, pixels)
            return features, *gradients

        features, param_gradients, pixel_gradients = jax.device_get(run(variables["params"], pixels))

    twin = copy.deepcopy(peer).to(getattr(torch, dtype)).train(train)
    leaf = torch.tensor(pixels).permute(0, 3, 1, 2).requires_grad_()
    expected = twin(leaf).pooler_output
    expected.sin().sum().backward()
    assert leaf.grad is not None
    gradients = numpy_state(peer) | {name: value.grad.numpy() for name, value in twin.named_parameters()}
    with jax.enable_x64(dtype == "float64"):
        expected_gradients = ours(gradients, module)["params"]

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
    variables = ours(state, module, "vision_model.")
    pixels = images(75)
    with torch.no_grad():
        expected = peer(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output.numpy()
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, pixels)
    assert relative_error(features, expected) < 1e-4


# Keras runs in a process of its own: it does not keep to strict dtype promotion. Its public names stop at B0, which is
# slow to build twice; `EfficientNet` is the function behind them. The weights are the same for both sizes of images.
KERAS = """
import sys
from pathlib import Path
import jax
import keras
import numpy as np
from keras.src.applications import efficientnet
folder = Path(sys.argv[1])
efficientnet.CONV_KERNEL_INITIALIZER = efficientnet.DENSE_KERNEL_INITIALIZER = "zeros"  # random ones compile for long
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
found = {}
for size in (64, 75):
    rng = np.random.default_rng(0)
    model = efficientnet.EfficientNet(
        0.25, 0.3, 64, weights=None, classes=5, classifier_activation=None, input_shape=(size, size, 3), name="peer"
    )
    for layer in model.layers:
        for weight in layer.weights:
            kind, shape = weight.name, weight.shape
            fan_in = np.prod(shape[:2] if "dwconv" in layer.name else shape[:-1])
            if "normalization" in layer.name:  # the second one of a process is normalization_1
                value = {"mean": MEAN, "variance": STD**2, "count": 0}[kind]
            elif kind == "kernel":
                value = rng.normal(size=shape, scale=(2 / fan_in) ** 0.5)
            elif kind in ("gamma", "moving_variance"):
                value = rng.uniform(0.5, 1.5, shape)
            else:
                value = rng.normal(size=shape, scale=0.3)
            weight.assign(np.reshape(value, shape))
    model.layers[2].finalize_state()
    found[f"{size}/inputs"] = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    outputs = jax.jit(lambda x: model(x, training=False))(found[f"{size}/inputs"].astype("float32"))
    found[f"{size}/outputs"] = np.asarray(outputs)
model.save(folder / "model.h5")
model.save_weights(folder / "peer.weights.h5")
np.savez(folder / "peer.npz", **found)
"""


@pytest.fixture(scope="module")
def keras_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    subprocess.run([sys.executable, "-c", KERAS, str(folder)], check=True)
    return folder


@pytest.fixture
def tiny_variant(monkeypatch):
    """A size that no one published, so that the readers' search for a published one finds the peer's."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.3, 64))


@pytest.mark.parametrize("size, file", [(64, "model.h5"), (75, "peer.weights.h5")])
def test_logits_equal_keras(keras_folder, tiny_variant, size, file):
    """From bytes on, so with its rescaling and its normalisation."""
    model = open_pretrained(keras_folder / file)
    fields = {key: value for key, value in model.task.items() if key != "name"}
    task = classify.build(**fields, image_size=size, classes=model.data["classes"])
    arrays = np.load(keras_folder / "peer.npz")
    run = jax.jit(task.functions()["classify_images"])
    logits = run(model.params, model.model_state, {"image": arrays[f"{size}/inputs"]})
    assert relative_error(logits, arrays[f"{size}/outputs"]) < 1e-4


def keras_2(source: Path, target: Path, *, top: str = "probs") -> None:
    """The same weights as Keras 2 wrote them, and the Noisy Student releases: other names, bytes, long lists split."""
    with h5py.File(source) as given, h5py.File(target, "w") as file:
        groups = {name: group for name, group in given["model_weights"].items() if "normalization" not in name}
        layers = [top if name == "predictions" else name for name in groups if name != "top_level_model_weights"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = (
            np.array([name.encode() for name in part]) for part in (layers[:50], layers[50:])
        )
        for name, group in groups.items():
            layer = top if name == "predictions" else name
            leaves = [weight.split("/")[-1] for weight in group.attrs["weight_names"]]
            renamed = [f"depthwise_{leaf}" if "dwconv" in name else leaf for leaf in leaves]
            made = file.create_group(layer)
            made.attrs["weight_names"] = np.array([f"{layer}_1/{leaf}:0".encode() for leaf in renamed])
            for leaf, other in zip(leaves, renamed, strict=True):
                made[f"{layer}_1/{other}:0"] = group[name][leaf][()]


def test_all_layouts_of_keras_hold_the_same(keras_folder, tiny_variant, tmp_path):
    keras_2(keras_folder / "model.h5", tmp_path / "old.h5")
    first, *others = [
        open_pretrained(path)
        for path in (keras_folder / "model.h5", keras_folder / "peer.weights.h5", tmp_path / "old.h5")
    ]
    for other in others:
        jax.tree.map(
            np.testing.assert_array_equal, (first.params, first.model_state), (other.params, other.model_state)
        )
    assert first.task["pixels"] == "imagenet" and first.task["image"]["padding"] == "same"


def test_keras_files_that_do_not_fit_are_refused(keras_folder, tiny_variant, tmp_path):
    def changed(change) -> Path:
        shutil.copyfile(keras_folder / "model.h5", tmp_path / "changed.h5")
        with h5py.File(tmp_path / "changed.h5", "r+") as file:
            change(file["model_weights"])
        return tmp_path / "changed.h5"

    def variance(value):
        return lambda root: root["normalization_1/normalization_1/variance"].write_direct(np.array(value, "f4"))

    def without_stem(root):
        root["stem_conv"].attrs["weight_names"] = np.array([], "S1")

    def extra(root):
        root["block1a_add"]["block1a_add/scale"] = np.zeros(1)
        root["block1a_add"].attrs["weight_names"] = ["block1a_add/scale"]

    assert open_pretrained(changed(variance((0.229, 0.224, 0.225)))).task["name"] == "classify"
    for change, message in [
        (variance((1, 1, 1)), "tensor normalization_1: expected ImageNet's mean"),
        (without_stem, "expected the tensor stem_conv/kernel, found none"),
        (extra, "expected no other tensors, found block1a_add/scale"),
        (lambda root: root.attrs.pop("layer_names"), "expected an HDF5 file of Keras, with layer_names"),
    ]:
        with pytest.raises(AlignError, match=message):
            open_pretrained(changed(change))
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((keras_folder / "model.h5").read_bytes()[:5000])
    with pytest.raises(AlignError, match="expected a whole HDF5 file, found a damaged one"):
        open_pretrained(damaged)


def test_a_variant_that_no_one_published_is_refused(keras_folder):
    with pytest.raises(AlignError, match=r"a published EfficientNet .*found 8 blocks, the last of 80 channels"):
        open_pretrained(keras_folder / "model.h5")
