"""Host-side pictures: decoding them, and the window that a model sees (facts: ALIGN section 5).

JPEG goes through libjpeg-turbo (simplejpeg), everything else through Pillow. The first frame of an animation counts,
EXIF orientation is applied, transparency is laid on white, 16 bits become 8, colour profiles are not read.

What cannot be used is a BadExample, for one of these reasons:
  image file missing   the path leads nowhere
  image empty          no bytes, or no pixels
  image unreadable     no format of `FORMATS`, a broken header, or numbers that have no black and white
  image too large      more than `MAX_PIXELS` pixels by its header, or a JPEG of more than `MAX_SCANS` scans
  image truncated      the data end before the picture does, as far as the decoder can tell
  image damaged        the decoder met data that make no picture
"""

import errno
import io
import re
import warnings
from functools import partial

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from align_jax.data import storage
from align_jax.data.source import BadExample

Picture = Image.Image | np.ndarray | bytes | str  # as a record holds it

# A few kilobytes can unfold to any size. This lets the 108 megapixels of a telephone through and costs a reader up to
# 0.4 GB as RGB, and for a moment a few times as much.
MAX_PIXELS = 2**27
MAX_SCANS = 100  # each passes over all pixels in a few bytes; encoders write some ten
JPEG = b"\xff\xd8\xff"
# What the web shows. Pillow knows more, some of it by running other programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Of Pillow, once 16 bits are 8. Of floats and 32 bits (F, I) nobody knows which value is white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
# Values of config.data.resample. "nearest" is what google/efficientnet-* ask for.
RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
# How to stand upright what is stored in EXIF orientation 2..8.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of odd metadata and of huge pictures; neither says that a picture is no use. Once for the process:
# `warnings.catch_warnings` is not safe among the threads that read.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(image: Picture, *, at_least: int | None = None) -> Image.Image:
    """An upright RGB picture of an encoded one, a path, a picture or an array; BadExample where it cannot be used.

    A JPEG that the caller has opened is read by Pillow, which may fill up with grey what is damaged.

    With `at_least`, a JPEG comes out at 1/2 to 1/8 of its size if both sides keep that many pixels: libjpeg leaves out
    what would not be seen, in half the time and less.
    """
    return Image.fromarray(_pixels(image, at_least))


def crop(
    image: Picture, *, resize: int, size: int, rng: np.random.Generator | None, flip: bool, resample: str = "bilinear"
) -> np.ndarray:
    """uint8 [size, size, 3]: a `size` window of the picture resized to resize x resize, by a filter of `RESAMPLE`.

    With `rng` the window is random and mirrored half the time (if `flip`), only the window is computed, and of a large
    JPEG only what would be seen is decoded. Without, it is the central one, of the whole picture resized: to the bit
    what Pillow and Hugging Face's processors make of it. Nothing is resampled if the picture is stored at resize x
    resize. BadExample as `decode`.
    """
    # A quarter to spare for the resize, whose filter is softer than libjpeg's. Against decoding in full, photographs
    # come to a PSNR of 39 dB at the least and 43 on average, without it 30 and 36. So up to 2.5 times the size all is
    # decoded in full.
    pixels = _pixels(image, None if rng is None or resample == "nearest" else resize * 5 // 4)
    height, width, _ = pixels.shape
    room = resize - size
    left, top = (rng.integers(0, room + 1, 2).tolist() if rng is not None else (room // 2, room // 2))  # fmt: skip
    if rng is None and not height == width == resize:
        pixels = np.asarray(Image.fromarray(pixels).resize((resize, resize), RESAMPLE[resample]))
        height = width = resize
    if height == width == resize:
        window = pixels[top : top + size, left : left + size]
    else:
        across, down = width / resize, height / resize
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        window = np.asarray(Image.fromarray(pixels).resize((size, size), RESAMPLE[resample], box=box))
    found = np.empty((size, size, 3), np.uint8)
    if rng is not None and flip and rng.integers(2):
        for channel in range(3):  # in one go numpy would copy runs of three bytes, in six times the time
            found[..., channel] = window[:, ::-1, channel]
    else:
        found[:] = window
    return found


def _pixels(image: Picture, at_least: int | None) -> np.ndarray:
    """uint8 [H, W, 3] of whatever a record holds."""
    if isinstance(image, np.ndarray):
        if not image.size:
            raise BadExample("image empty")
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return image
        try:
            return _rgb(Image.fromarray(image))
        except (TypeError, ValueError) as error:
            raise BadExample("image unreadable") from error
    if isinstance(image, Image.Image):
        return _rgb(image)
    data = image if isinstance(image, bytes) else _read(image)
    if not data:
        raise BadExample("image empty")
    return _jpeg(data, at_least) if data.startswith(JPEG) else _rgb(_opened(data))


def _read(path: str) -> bytes:
    try:
        return storage.read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadExample("image file missing") from error
    except (IsADirectoryError, PermissionError, ValueError, storage.UnknownProtocol) as error:
        raise BadExample("image unreadable") from error  # ValueError: no path can be spelt so
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # names that lead nowhere; the disk is well
            raise BadExample("image file missing") from error
        raise


def _jpeg(data: bytes, at_least: int | None) -> np.ndarray:
    """A JPEG of any colour space, in full or scaled down. Adobe's inverted CMYK is taken for all CMYK, as browsers do.

    libjpeg only warns of data that are cut off or damaged, and fills up with grey; `strict` makes that an error.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadExample("image unreadable") from error
    exif, one_scan = _layout(data)
    if int(height) * int(width) > MAX_PIXELS or (not one_scan and data.count(b"\xff\xda") > MAX_SCANS):
        raise BadExample("image too large")
    least = at_least or 0
    decoded = partial(simplejpeg.decode_jpeg, data, min_height=least, min_width=least, min_factor=2 if at_least else 1)
    try:
        pixels = decoded()
    except ValueError as error:
        # It names the first warning: of bytes too many before the end marker, after a whole picture, all was well.
        if not str(error).endswith("extraneous bytes before marker 0xd9"):
            raise _damage(error) from error
        pixels = decoded(strict=False)
    turn = TURNS.get(_orientation(exif))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _layout(data: bytes) -> tuple[bytes, bool]:
    """(the EXIF segment of a JPEG from its name on, or b""; whether one scan holds all there is).

    Walks over the segments before the first scan, which costs a tenth of looking through the data.
    """
    exif = components = b""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 < len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # fills up
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # stand alone
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            exif = data[at + 4 : end]
        elif marker in (0xC0, 0xC1):  # sequential
            components = data[at + 9 : at + 10]
        elif marker == 0xDA:
            return exif, data[at + 4 : at + 5] == components
        at = end
    return exif, False


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadExample("image too large") from error
    except MemoryError:
        raise
    except Exception as error:  # hostile headers reach any error that Pillow has: EOFError, OverflowError, KeyError ...
        raise BadExample("image unreadable") from error


def _rgb(picture: Image.Image) -> np.ndarray:
    """The pixels of an opened picture, upright, transparency on white."""
    if picture.width * picture.height > MAX_PIXELS:
        raise BadExample("image too large")
    if not picture.width * picture.height:
        raise BadExample("image empty")
    try:
        picture.load()
    except Image.DecompressionBombError as error:
        raise BadExample("image too large") from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _damage(error) from error
    turn = TURNS.get(_orientation(picture.info.get("exif", b"")))
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(((np.asarray(picture).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode not in MODES:
        raise BadExample("image unreadable")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB")
    return np.asarray(picture if turn is None else picture.transpose(turn))


def _orientation(exif: bytes) -> int:
    """1..8, how a picture is stored; 1, upright, where the metadata do not say so."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        found = tags.get(ExifTags.Base.Orientation)
    except Exception:  # a picture is more than its metadata, and what broken ones raise is as open as above
        return 1
    return found if isinstance(found, int) else 1


def _damage(error: Exception) -> BadExample:
    """The reason, from the words of libjpeg and Pillow."""
    ends_early = re.search("truncated|premature end of jpeg", str(error), re.IGNORECASE)
    return BadExample("image truncated" if ends_early else "image damaged")
