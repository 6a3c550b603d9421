"""How the bytes of a picture become the numbers that a tower is fed: config.task.pixels."""

from typing import Any, NamedTuple

import numpy as np


class Pixels(NamedTuple):
    """(x / divisor - mean) / std of bytes x; `mean` and `std` are one number, or one for each of R, G and B."""

    divisor: float
    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]

    def preprocessing(self) -> dict[str, Any]:
        """scale * x + offset, for other programs: each one number, or three."""
        scale, offset = 1 / (self.divisor * np.asarray(self.std)), -np.divide(self.mean, self.std)
        return {"scale": scale.tolist(), "offset": offset.tolist()}


PIXELS = {
    # [-1, 1]: the public ALIGN checkpoints (facts: ALIGN section 2), and EfficientNets of AdvProp.
    "symmetric": Pixels(127.5, 1.0, 1.0),
    # Mean and spread of ImageNet's training set: EfficientNet, Noisy Student, and most of what PyTorch trains.
    "imagenet": Pixels(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # EfficientNet-Lite: tensorflow/tpu lite/efficientnet_lite_builder.py.
    "lite": Pixels(1.0, 127.0, 128.0),
}
DEFAULT_PIXELS = "symmetric"


def named(scale: Any, offset: Any) -> str | None:
    """The name in PIXELS of scale * x + offset, each one number or three; None where it has none."""
    for name, known in PIXELS.items():
        ours = known.preprocessing()
        if all(np.allclose(x, ours[key], rtol=1e-5, atol=0) for key, x in (("scale", scale), ("offset", offset))):
            return name
    return None
