"""Host-side image decoding and cropping (facts: ALIGN section 5; the resize does not keep the aspect)."""

import io
import warnings

import numpy as np
from PIL import Image

from align_jax.data import storage
from align_jax.data.source import BadExample

# Pillow warns of odd metadata and of huge pictures; only the error beyond both says that a picture is no use. Once for
# the process: `warnings.catch_warnings` is not safe among the threads that read.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(image: Image.Image | np.ndarray | bytes | str) -> Image.Image:
    """An RGB picture, transparency laid on white; BadExample where it cannot be read."""
    try:
        picture = _opened(image)
        picture.load()
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            layer = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return picture.convert("RGB")
    except FileNotFoundError as error:
        raise BadExample("image file missing") from error
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise BadExample("image unreadable") from error


def _opened(image: Image.Image | np.ndarray | bytes | str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    # Read at once: of a truncated file, Pillow would leave the handle open.
    return Image.open(io.BytesIO(image if isinstance(image, bytes) else storage.read(image)))


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
