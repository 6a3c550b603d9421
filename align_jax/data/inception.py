"""Inception's augmentation, with which ALIGN's image tower is fine-tuned (facts: ALIGN section 6).

Training: a random window of 8 % to 100 % of the picture's area with an aspect of 3/4 to 4/3 (Szegedy et al. 2015,
arXiv 1409.4842, section 6), resized to a square and mirrored half the time. TensorFlow's "distorted bounding box", as
the first Inception code called it, began at 5 %; the code of EfficientNet went back to 8 %, in at most 10 attempts,
and so do we. The area is uniform and the aspect uniform in its logarithm, so that wide is as likely as tall.

Evaluation: the central square of 0.875 of the shorter side, resized.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from align_jax.data import images
from align_jax.data.views import check_resample
from align_jax.types import AlignError

ATTEMPTS = 10  # windows that are drawn before the largest central one is taken: odd pictures have few that fit
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inception:
    """Windows that keep their aspect within bounds, resized."""

    crop: int  # pixels of the square in training
    flip: bool  # mirror half of the training pictures
    eval_crop: int | None = None  # pixels of the square in evaluation, where it is another
    eval_share: float = 0.875  # of the shorter side that evaluation sees
    area: tuple[float, float] = (0.08, 1.0)  # least and largest share of the picture's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # least and largest width / height of the window
    resample: str = "bilinear"  # of `images.RESAMPLE`

    def __post_init__(self):
        check_resample(self.resample)
        if self.crop < 1 or self.side < 1:
            raise AlignError(
                f"config.data: expected crop and eval_crop of at least 1 pixel, found {self.crop} and {self.eval_crop}"
            )
        if not 0 < self.eval_share <= 1:
            raise AlignError(f"config.data.eval_share: expected a share in (0, 1], found {self.eval_share}")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise AlignError(
                f"config.data: expected area as rising shares in (0, 1] and aspect as rising numbers above 0, found "
                f"{self.area} and {self.aspect}"
            )

    @property
    def side(self) -> int:
        """Pixels of the square in evaluation."""
        return self.crop if self.eval_crop is None else self.eval_crop

    @property
    def protocol(self) -> str:
        """The square in evaluation, in words."""
        return f"central {self.eval_share:g} of the shorter side at {self.side} px"

    def train(self, image: Any, rng: np.random.Generator) -> np.ndarray:
        """uint8 [crop, crop, 3]: a random window, mirrored half the time."""
        # The least window of a picture decoded in part still has a quarter to spare: see `images.crop`.
        picture = images.decode(image, at_least=math.ceil(1.25 * self.crop / math.sqrt(self.area[0] * self.aspect[0])))
        square = self._square(picture, self.window(*picture.size, rng), self.crop)
        return square[:, ::-1].copy() if self.flip and rng.integers(2) else square

    def evaluate(self, image: Any) -> np.ndarray:
        """uint8 [side, side, 3]: the central square."""
        picture = images.decode(image, at_least=math.ceil(1.25 * self.side / self.eval_share))
        return self._square(picture, self.centre(*picture.size), self.side)

    def preprocessing(self) -> dict[str, Any]:
        """`evaluate` for other programs: the shorter side resized to `resize`, then the central `crop`."""
        resize = round(self.side / self.eval_share)
        return {"resize": resize, "crop": self.side, "resample": self.resample, "keep_aspect": True}

    def window(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """A random window of whole pixels."""
        low, high = (math.log(bound) for bound in self.aspect)
        for _ in range(ATTEMPTS):
            area = width * height * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(low, high))
            across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < across <= width and 0 < down <= height:
                left, top = rng.integers(0, (width - across + 1, height - down + 1)).tolist()
                return left, top, left + across, top + down
        across = min(width, max(1, round(height * self.aspect[1])))
        down = min(height, max(1, round(width / self.aspect[0])))
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down

    def centre(self, width: int, height: int) -> Box:
        """The central square, to fractions of a pixel."""
        side = self.eval_share * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def _square(self, picture: Image.Image, box: Box, side: int) -> np.ndarray:
        return np.array(picture.resize((side, side), images.RESAMPLE[self.resample], box=box))
