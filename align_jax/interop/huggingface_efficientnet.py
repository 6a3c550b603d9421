"""EfficientNet as Hugging Face writes it: EfficientNetModel, EfficientNetForImageClassification, and ALIGN's tower."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from align_jax import towers
from align_jax.data import classes
from align_jax.data.json_file import json_of
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.data.views import Resized
from align_jax.interop import efficientnet, huggingface_images, names
from align_jax.interop.accounts import Attributes, Tensors
from align_jax.interop.efficientnet import Fed
from align_jax.interop.huggingface_attributes import plain
from align_jax.interop.names import Entry
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.efficientnet_scaling import HEAD_FILTERS, STEM_FILTERS, Stage, round_filters
from align_jax.types import AlignError

ENDS = {
    "stem_conv": "embeddings.convolution",
    "stem_bn": "embeddings.batchnorm",
    "head_conv": "encoder.top_conv",
    "head_bn": "encoder.top_bn",
}
BLOCK = {
    "expand_conv": "expansion.expand_conv",
    "expand_bn": "expansion.expand_bn",
    "depthwise_conv": "depthwise_conv.depthwise_conv",
    "depthwise_bn": "depthwise_conv.depthwise_norm",
    "se_reduce": "squeeze_excite.reduce",
    "se_expand": "squeeze_excite.expand",
    "project_conv": "projection.project_conv",
    "project_bn": "projection.project_bn",
}
TRUNK, HEAD = "efficientnet.", "classifier"  # of EfficientNetForImageClassification
ACTIVATIONS: dict[str, Literal["swish", "relu6"]] = {"swish": "swish", "silu": "swish", "relu6": "relu6"}
# Of their config, where a file leaves something out: those of B7.
DEFAULTS = {
    "image_size": 600, "width_coefficient": 2.0, "depth_coefficient": 3.1, "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "in_channels": (32, 16, 24, 40, 80, 112, 192), "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "depthwise_padding": (), "strides": (1, 2, 2, 2, 1, 2, 1), "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6), "hidden_act": "swish", "batch_norm_eps": 1e-3, "drop_connect_rate": 0.2,
}  # fmt: skip
LISTS = ("num_block_repeats", "kernel_sizes", "expand_ratios", "in_channels", "out_channels", "strides")  # by stage
EXPECTED = {"num_channels": 3, "depth_divisor": 8, "squeeze_expansion_ratio": 0.25, "pooling_type": "mean"}
IGNORED = {
    "batch_norm_momentum": "of TensorFlow, 0.99 of the old statistics, which PyTorch reads the other way round; "
    "ours is TensorFlow's",
    "hidden_dim": "the width of the top convolution, which the tensors show, and the side of a pooling window that "
    "takes in the whole map",
    "label2id": "the inverse of id2label",
    "num_hidden_layers": "follows from num_block_repeats",
}


def section(attributes: Attributes) -> dict[str, Any]:
    """The fields of config.task.image, `head_conv` aside, which ALIGN's tower has not.

    AlignError, by name, for what `EfficientNet` cannot express.
    """
    attributes.expect(EXPECTED)
    given = {name: attributes.take(name, default) for name, default in DEFAULTS.items()}
    if len({len(given[name]) for name in LISTS}) > 1:
        raise AlignError(f"{attributes.where}: expected {', '.join(LISTS)} of one length, found several")
    filters, side = given["out_channels"], given["image_size"]
    for name, known in (("hidden_act", tuple(ACTIVATIONS)), ("in_channels", ([STEM_FILTERS, *filters[:-1]],))):
        found = list(given[name]) if name == "in_channels" else given[name]
        if found not in known:
            raise AlignError(f"{attributes.where}: {name}: expected {' or '.join(map(repr, known))}, found {found!r}")
    stages = zip(given["num_block_repeats"], given["kernel_sizes"], given["expand_ratios"], filters, strict=True)
    module = EfficientNet(
        width=given["width_coefficient"],
        depth=given["depth_coefficient"],
        stochastic_depth=float(given["drop_connect_rate"]),
        strides=tuple(given["strides"]),
        stages=tuple(Stage(*stage) for stage in stages),
        activation=ACTIVATIONS[given["hidden_act"]],
        epsilon=given["batch_norm_eps"],
    )
    check(module.clone(padding="hf"))
    # Padding of the stem is that of even sides; a block of stride 2 has it too, or the same on all sides.
    strided = {index for index, (_, stride) in enumerate(module.layout()) if stride > 1}
    symmetric = strided & set(given["depthwise_padding"])
    if symmetric and (not isinstance(side, int) or side % 2 or symmetric != odd_blocks(module, side)):
        raise AlignError(
            f"{attributes.where}: depthwise_padding: expected none of the blocks of stride 2, or those that "
            f"meet an odd side at image_size={side!r}, found {sorted(symmetric)} of {sorted(strided)}"
        )
    found = efficientnet.fields(module.clone(padding="same" if symmetric else "hf"))
    del found["head_conv"]
    return found


def attributes_of(module: EfficientNet, *, side: int) -> dict[str, Any]:
    """The attributes of `module` for images of side x side pixels: the inverse of `section`.

    AlignError, by name, for what Hugging Face's EfficientNet cannot express.
    """
    check(module)
    if module.padding == "same" and side % 2:
        raise AlignError(
            f"Hugging Face EfficientNet: expected an even side with config.task.image.padding='same', found {side} "
            "pixels, at which its stem pads otherwise; train with padding='hf' or another config.data.crop"
        )
    stages = [Stage(*stage) for stage in module.stages]
    return {
        "image_size": side,
        "width_coefficient": module.width,
        "depth_coefficient": module.depth,
        "num_block_repeats": [stage.repeats for stage in stages],
        "kernel_sizes": [stage.kernel for stage in stages],
        "expand_ratios": [stage.expand for stage in stages],
        "in_channels": [STEM_FILTERS, *(stage.filters for stage in stages[:-1])],
        "out_channels": [stage.filters for stage in stages],
        "strides": list(module.strides),
        "depthwise_padding": sorted(odd_blocks(module, side)) if module.padding == "same" else [],
        "hidden_act": module.activation,
        "hidden_dim": round_filters(module.width * HEAD_FILTERS),
        "batch_norm_eps": module.epsilon,
        "drop_connect_rate": module.stochastic_depth,
        **EXPECTED,
    }


def check(module: EfficientNet) -> None:
    """Refuses, by name, a tower that Hugging Face's EfficientNet is not, whatever the images."""
    for name, expected in (("squeeze", True), ("fixed_ends", False), ("stem_stride", 2), ("padding", ("same", "hf"))):
        found = getattr(module, name)
        if found not in (expected if isinstance(expected, tuple) else (expected,)):
            raise AlignError(
                f"Hugging Face EfficientNet: expected config.task.image.{name} of {expected!r}, found {found!r}, which "
                "it has not"
            )
    if not set(module.strides) <= {1, 2}:
        raise AlignError(f"Hugging Face EfficientNet: expected strides of 1 and 2, found {module.strides}")
    # It gives a stage's first block no skip connection; the original does where shapes allow it. They differ in no
    # published variant, but do in narrow ones, where rounding makes neighbouring stages equally wide.
    widths = [round_filters(module.width * f) for f in (STEM_FILTERS, *(stage[3] for stage in module.stages))]
    for index, stride in enumerate(module.strides):
        if stride == 1 and widths[index] == widths[index + 1]:
            raise AlignError(
                f"Hugging Face EfficientNet: stages {index} and {index + 1} are both {widths[index]} channels wide at "
                f"width={module.width}, and there its skip connections differ from the original; choose another width"
            )


def odd_blocks(module: EfficientNet, side: int) -> set[int]:
    """The blocks of stride 2 that meet an odd side: TensorFlow pads them by as much before as after."""
    side, found = math.ceil(side / module.stem_stride), set()
    for index, (_, stride) in enumerate(module.layout()):
        if stride > 1 and side % 2:
            found.add(index)
        side = math.ceil(side / stride)
    return found


def entries(module: EfficientNet, prefix: str = "") -> list[Entry]:
    """All variables of `module` and what Hugging Face calls them, `prefix` first."""

    def name(block: int | None, layer: str) -> str:
        inside = ENDS[layer] if block is None else f"encoder.blocks.{block}.{BLOCK[layer]}"
        return prefix + inside

    return efficientnet.entries(module, name)


def read(tensors: Tensors, attributes: Attributes, folder: Path) -> Pretrained:
    """EfficientNetModel: a tower with its top convolution. EfficientNetForImageClassification: a classifier."""
    module = EfficientNet(**section(attributes), head_conv=True)
    prefix = TRUNK if any(name.startswith(TRUNK) for name in tensors) else ""
    variables = names.read(tensors, entries(module, prefix), efficientnet.shapes(module))
    head = efficientnet.head(tensors, HEAD, module.features) if f"{HEAD}.weight" in tensors else None
    tensors.ignore(efficientnet.COUNTERS)

    labels, dropout = attributes.take("id2label", None), float(attributes.take("dropout_rate", 0.0))
    path, side = folder / huggingface_images.FILE, attributes.take("image_size", DEFAULTS["image_size"])
    if path.is_file():
        processor = Attributes(json_of(path), str(path))
        data, pixels = huggingface_images.read(processor)
        processor.close()
        if module.padding == "same" and data["crop"] != side:
            raise AlignError(
                f"{path}: expected pictures of image_size={side} pixels, to which depthwise_padding belongs, found "
                f"{data['crop']}"
            )
        fed = Fed(pixels=pixels, **data)
    else:
        facts = {"preprocessing": f"not known, for want of {huggingface_images.FILE}: set config.task.pixels"}
        fed = Fed(crop=side, facts=facts)
    attributes.expect({"model_type": "efficientnet"})
    attributes.ignore(IGNORED)
    plain(attributes)
    if head is not None:
        fed = dataclasses.replace(fed, dropout=dropout, names=_names(labels, attributes.where))
    ignored = {**tensors.ignored, **attributes.ignored}
    return efficientnet.pretrained(tensors.where, module, variables, head, fed, ignored=ignored, kept=tensors.kept())


def _names(labels: Mapping[str, str] | None, where: str) -> list[str] | None:
    """Of {"0": name, "1": name, ...}."""
    if labels is None:
        return None
    found = {str(index): name for index, name in labels.items()}
    if set(found) != set(map(str, range(len(found)))):
        raise AlignError(f"{where}: id2label: expected names of 0 to {len(found) - 1}, found {sorted(found)[:5]}")
    return [found[str(index)] for index in range(len(found))]


def write(model: Pretrained) -> Foreign:
    """The inverse of `read`. AlignError, by name, for what Hugging Face cannot express."""
    view = {name: model.data[name] for name in ("resize", "crop", "eval_crop", "resample") if name in model.data}
    if model.data.get("augment", "align") != "align":
        raise AlignError(
            f"{model.where}: expected config.data.augment='align', found {model.data['augment']!r}, which Hugging "
            "Face's EfficientNetImageProcessor cannot express"
        )
    if "crop" not in view or "resize" not in view:
        raise AlignError(f"{model.where}: expected config.data.resize and config.data.crop, found a tower without them")
    seen = Resized(**view, flip=False).preprocessing()
    module = towers.image_tower(model.task["image"], side=seen["crop"])
    if not module.head_conv:
        raise AlignError(
            f"{model.where}: expected a tower with config.task.image.head_conv=True, which Hugging Face's EfficientNet "
            "always has, found one without, as ALIGN's; write the whole ALIGN model"
        )
    labelled = model.task.get("name") == "classify"
    tree = {"params": model.params["image_tower"], "batch_stats": model.model_state["batch_stats"]["image_tower"]}
    tensors = names.write(tree, entries(module, TRUNK if labelled else ""))
    zeros = counters(tensors)
    tensors |= zeros | {name: tensor for name, tensor in model.kept.items() if name in zeros}
    config = {
        "model_type": "efficientnet",
        "architectures": ["EfficientNetForImageClassification" if labelled else "EfficientNetModel"],
        **attributes_of(module, side=seen["crop"]),
    }
    if labelled:
        head = model.params["head"]
        tensors |= {
            f"{HEAD}.weight": np.ascontiguousarray(np.asarray(head["kernel"]).T),
            f"{HEAD}.bias": np.asarray(head["bias"]),
        }
        with tempfile.TemporaryDirectory() as folder:
            model.files[classes.FILE](Path(folder) / classes.FILE)
            labels = dict(enumerate(classes.names(None, folder=Path(folder))))
        config |= {
            "id2label": {str(index): name for index, name in labels.items()},
            "label2id": {name: index for index, name in labels.items()},
            "dropout_rate": float(model.task.get("dropout", 0.0)),
        }
    processor = huggingface_images.write(
        resize=seen["resize"], crop=seen["crop"], resample=seen["resample"],
        pixels=model.task.get("pixels", DEFAULT_PIXELS),
    )  # fmt: skip
    text = json.dumps(processor, indent=2)
    return Foreign(tensors, config, {huggingface_images.FILE: lambda path: path.write_text(text + "\n", "utf-8")})


def counters(tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """What PyTorch's BatchNorm counts, and nothing here does: zeros."""
    ends = ".running_mean"
    return {
        f"{name.removesuffix(ends)}.num_batches_tracked": np.zeros((), np.int64)
        for name in tensors
        if name.endswith(ends)
    }
