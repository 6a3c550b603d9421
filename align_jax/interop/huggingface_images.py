"""preprocessor_config.json of EfficientNetImageProcessor, which ALIGN uses too: from a picture to a tower's numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from align_jax.data.pixels import PIXELS, named
from align_jax.interop.accounts import Attributes
from align_jax.types import AlignError

FILE = "preprocessor_config.json"
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow
# The processor's defaults, where a file leaves something out.
SIZE, CROP_SIZE = {"height": 346, "width": 346}, {"height": 289, "width": 289}
HALF = (0.5, 0.5, 0.5)
IGNORED = {
    "image_processor_type": "its attributes say what it does",
    "feature_extractor_type": "as above",
    "processor_class": "as above",
    "data_format": "ours are always channels last",
    "input_data_format": "as above",
    "do_convert_rgb": "every picture becomes RGB here",
    "return_tensors": "a matter of their interface",
    "device": "as above",
    "disable_grouping": "how they batch, which changes no value",
    "image_seq_length": "of models that mix images into texts",
}


def read(attributes: Attributes) -> tuple[dict[str, Any], str]:
    """(resize, crop and resample of config.data; config.task.pixels).

    AlignError, by name, for a processor that these cannot express.
    """
    attributes.expect({"do_resize": True, "do_rescale": True, "do_pad": (False, None), "default_to_square": True})
    attributes.ignore({**IGNORED, "pad_size": "nothing is padded"})
    resize = _side(attributes, "size", SIZE)
    cropped, crop = attributes.take("do_center_crop", False), _side(attributes, "crop_size", CROP_SIZE)
    resample = attributes.take("resample", 3)
    if resample not in RESAMPLE:
        raise AlignError(
            f"{attributes.where}: resample: expected {', '.join(f'{n} ({name})' for n, name in RESAMPLE.items())}, "
            f"found {resample!r}"
        )
    data = {"resize": resize, "crop": crop if cropped else resize, "resample": RESAMPLE[resample]}
    return data, _pixels(attributes)


def write(*, resize: int, crop: int, resample: str, pixels: str) -> dict[str, Any]:
    """The inverse of `read`: the content of a preprocessor_config.json."""
    divisor, mean, std = PIXELS[pixels]
    return {
        "image_processor_type": "EfficientNetImageProcessor",
        "do_resize": True, "size": {"height": resize, "width": resize},
        "resample": {name: number for number, name in RESAMPLE.items()}[resample],
        "do_center_crop": crop != resize, "crop_size": {"height": crop, "width": crop},
        "do_rescale": True, "rescale_factor": 1 / divisor, "rescale_offset": False,
        "do_normalize": True, "image_mean": _channels(mean), "image_std": _channels(std), "include_top": False,
    }  # fmt: skip


def _side(attributes: Attributes, name: str, default: Mapping[str, int]) -> int:
    """Pixels of a square."""
    found = attributes.take(name, default)
    sides = (found, found) if isinstance(found, int) else (found.get("height"), found.get("width"))
    if sides[0] is None or sides[0] != sides[1]:
        raise AlignError(f"{attributes.where}: {name}: expected equal height and width, found {found!r}")
    return sides[0]


def _pixels(attributes: Attributes) -> str:
    """The name in PIXELS of a x + b, which is what rescaling and normalising come to."""
    a = np.full(3, attributes.take("rescale_factor", 1 / 255))
    b = np.full(3, -1.0 if attributes.take("rescale_offset", False) else 0.0)
    mean, std = (np.asarray(attributes.take(name, HALF)) for name in ("image_mean", "image_std"))
    if attributes.take("do_normalize", True):
        a, b = a / std, (b - mean) / std
    if attributes.take("include_top", True):  # as Keras, they divide by the root of the spread, and here once more
        a, b = a / std, b / std
    name = named(a, b)
    if name is not None:
        return name
    raise AlignError(
        f"{attributes.where}: expected rescaling and normalising that come to config.task.pixels of {tuple(PIXELS)}, "
        f"found a x + b with a={a.round(6).tolist()}, b={b.round(6).tolist()}"
    )


def _channels(value: float | tuple[float, float, float]) -> list[float]:
    return list(np.broadcast_to(value, 3).astype(float))
