"""Host-side image decoding and cropping (facts: ALIGN section 5; the resize does not keep the aspect)."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from align_jax.data.source import BadExample


def decode(image: Image.Image | np.ndarray | bytes | str) -> Image.Image:
    """An RGB picture, transparency laid on white; BadExample where it cannot be read."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        # Pillow warns of odd metadata and of huge pictures; only the error beyond both says that a picture is no use.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) if not isinstance(
                image, Image.Image
            ) else image  # fmt: skip
            picture.load()
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                layer = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise BadExample("image file missing") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadExample("image unreadable") from error


def crop(picture: Image.Image, *, resize: int, size: int, rng: np.random.Generator | None, flip: bool) -> np.ndarray:
    """uint8 [size, size, 3]: a `size` window of the picture resized to resize x resize, bilinear.

    With `rng` the window is random and mirrored half the time (if `flip`); without, it is the central one. Only the
    window is computed.
    """
    room = resize - size
    left, top = (rng.integers(0, room + 1, 2).tolist() if rng is not None else (room // 2, room // 2))  # fmt: skip
    across, down = picture.width / resize, picture.height / resize
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
    if rng is not None and flip and rng.integers(2):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
