"""config.json of timm's folders: which convention a network follows, and what it is fed with."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.data import images, pixels
from align_jax.data.json_file import json_of
from align_jax.interop.accounts import Attributes
from align_jax.interop.efficientnet import Fed
from align_jax.models.efficientnet_scaling import VARIANTS
from align_jax.types import AlignError

ARCHITECTURE = re.compile(r"(tf_)?efficientnet_(b\d|l2|lite\d)(_\w+)?(\..+)?")
TENSORFLOW = {"padding": "same", "epsilon": 1e-3}
TORCH = {"padding": "symmetric", "epsilon": 1e-5}
IGNORED = {
    "num_features": "the tensors show it",
    "num_classes": "the head shows it",
    "drop_*": "of training, which timm leaves to its scripts",
}
CROP = 0.875  # where a file leaves it out
IGNORED_SOURCE = {
    **IGNORED,
    **dict.fromkeys(
        ("url", "file", "source", "hf_hub_*", "origin_url", "paper_*", "notes", "description", "tag", "architecture"),
        "where it came from",
    ),
    **dict.fromkeys(("test_*", "min_input_size", "pool_size"), "of other resolutions than the one it was trained at"),
    **dict.fromkeys(("first_conv", "classifier", "custom_load"), "names of tensors, which are known"),
    "label_descriptions": "label_names are the classes",
}


@dataclasses.dataclass(frozen=True)
class TimmConfig:
    """`variant`, of VARIANTS; fields of EfficientNet that tensors do not show; what it is fed with."""

    variant: str
    conventions: Mapping[str, Any]
    fed: Fed
    ignored: Mapping[str, str]


def read(path: Path) -> TimmConfig:
    """AlignError, by name, where it is missing, or says what `EfficientNet` cannot express."""
    if not path.is_file():
        raise AlignError(
            f"expected timm's config.json beside the weights, since their names do not say whether they are of "
            f"tf_efficientnet_* or efficientnet_*, which pad differently; found no {path}; copy it from the model's "
            'folder, or write {"architecture": "tf_efficientnet_..."} there'
        )
    attributes = Attributes(json_of(path), str(path))
    architecture = attributes.take("architecture")
    found = ARCHITECTURE.fullmatch(str(architecture))
    if found is None or found[2] not in VARIANTS:
        raise AlignError(f"{path}: architecture: expected an EfficientNet (B0 to B8, L2, Lite), found {architecture!r}")
    made, source = (
        Attributes(attributes.take(name, {}), f"{path}: {name}") for name in ("model_args", "pretrained_cfg")
    )
    for account in (attributes, made):
        account.expect({"global_pool": ("avg", ""), "in_chans": 3})
        account.ignore(IGNORED)
    fed = _fed(source, found[2], tensorflow=found[1] is not None)
    accounts = (attributes, made, source)
    for account in accounts:
        account.close()
    ignored = {name: reason for account in accounts for name, reason in account.ignored.items()}
    return TimmConfig(found[2], TORCH if found[1] is None else TENSORFLOW, fed, ignored)


def _fed(source: Attributes, variant: str, *, tensorflow: bool) -> Fed:
    """What the section pretrained_cfg says, and where it says nothing, what timm's networks of that name want."""
    source.expect({"crop_mode": "center", "fixed_input_size": False, "label_offset": (None, 0)})
    half = tensorflow and variant.startswith("lite")
    _, *moments = pixels.PIXELS["imagenet"]
    mean = np.asarray(source.take("mean", 0.5 if half else moments[0]))
    std = np.asarray(source.take("std", 0.5 if half else moments[1]))
    convention = pixels.named(1 / (255 * std), -mean / std)
    side = VARIANTS[variant].resolution
    size, resample = source.take("input_size", (3, side, side)), source.take("interpolation", "bicubic")
    channels, height, width = size
    for name, known, found, fine in (
        ("mean and std", "those of config.task.pixels", (mean.tolist(), std.tolist()), convention is not None),
        ("input_size", "three channels of a square", size, channels == 3 and height == width),
        ("interpolation", f"one of {tuple(images.RESAMPLE)}", resample, resample in images.RESAMPLE),
    ):
        if not fine:
            raise AlignError(f"{source.where}: {name}: expected {known}, found {found!r}")
    share = float(source.take("crop_pct", CROP))
    names, licence = source.take("label_names", None), source.take("license", None)
    source.ignore(IGNORED_SOURCE)
    return Fed(
        pixels=convention, crop=height, resample=resample, share=share, names=names,
        facts={} if licence is None else {"license": licence},
    )  # fmt: skip
