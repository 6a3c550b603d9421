"""How a picture becomes the square that a model sees: one way in training, another in evaluation."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from align_jax.data import images
from align_jax.types import AlignError


class View(Protocol):
    """Both ways, for pictures in any form that `images.decode` takes; BadExample as there."""

    @property
    def side(self) -> int:
        """Pixels of the square in evaluation."""
        ...

    @property
    def resample(self) -> str:
        """The filter, of `images.RESAMPLE`."""
        ...

    @property
    def protocol(self) -> str:
        """The square in evaluation, in words."""
        ...

    def train(self, image: Any, rng: np.random.Generator) -> np.ndarray:
        """uint8 [H, H, 3]: one of many squares, drawn."""
        ...

    def evaluate(self, image: Any) -> np.ndarray:
        """uint8 [side, side, 3]: always the same."""
        ...

    def preprocessing(self) -> dict[str, Any]:
        """`evaluate` for other programs: what stands in an export's preprocessing.json."""
        ...


def whole(view: View, image: Any) -> np.ndarray:
    """uint8 [side, side, 3]: all of a picture, where the view in evaluation would be a window of it."""
    return images.crop(image, resize=view.side, size=view.side, rng=None, flip=False, resample=view.resample)


def check_resample(resample: str) -> None:
    """Refuses a filter of config.data.resample that is not known."""
    if resample not in images.RESAMPLE:
        raise AlignError(f"config.data.resample: expected one of {tuple(images.RESAMPLE)}, found {resample!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resized:
    """ALIGN's: the picture resized to a square, its aspect not kept, and a window of that (facts: ALIGN section 2)."""

    resize: int  # pixels of the square to which a picture is resized in training
    crop: int  # pixels of the window in training
    flip: bool  # mirror half of the training pictures
    eval_crop: int | None = None  # pixels of the window in evaluation, where it is another; the square grows with it
    resample: str = "bilinear"  # of `images.RESAMPLE`

    def __post_init__(self):
        check_resample(self.resample)
        if not 0 < self.crop <= self.resize:
            raise AlignError(f"config.data: expected 0 < crop <= resize, found {self.crop} and {self.resize}")
        if self.side < 1:
            raise AlignError(f"config.data.eval_crop: expected at least 1 pixel, found {self.eval_crop}")

    @property
    def side(self) -> int:
        """Pixels of the square in evaluation."""
        return self.crop if self.eval_crop is None else self.eval_crop

    @property
    def protocol(self) -> str:
        """The square in evaluation, in words."""
        return f"central {self.side} px of {self._whole} x {self._whole}"

    def train(self, image: Any, rng: np.random.Generator) -> np.ndarray:
        """uint8 [crop, crop, 3]: a random window, mirrored half the time."""
        return images.crop(image, resize=self.resize, size=self.crop, rng=rng, flip=self.flip, resample=self.resample)

    def evaluate(self, image: Any) -> np.ndarray:
        """uint8 [side, side, 3]: the central window."""
        return images.crop(image, resize=self._whole, size=self.side, rng=None, flip=False, resample=self.resample)

    def preprocessing(self) -> dict[str, Any]:
        """`evaluate` for other programs."""
        return {"resize": self._whole, "crop": self.side, "resample": self.resample, "keep_aspect": False}

    @property
    def _whole(self) -> int:
        return round(self.resize * self.side / self.crop)
