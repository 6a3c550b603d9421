"""Mutated picture files: each must give a picture or a counted reason, in bounded time and memory."""

import functools
import io
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from align_jax.data import images
from align_jax.data.source import BadExample

SECONDS = 10  # for one input; a bound against endless loops, not a measure of speed
GIGABYTES = 6  # at the most, of the process: a picture of MAX_PIXELS with transparency is four copies of 0.5 GB
RESIZE, SIZE = 48, 40


@functools.cache
def originals() -> tuple[bytes, ...]:
    """Whole files of all kinds that are read, 2 to 10 kB each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :120]
    smooth = np.stack([2 * x, 2 * y, 127 + 80 * np.sin(x * y / 300)], axis=-1)
    picture = Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))
    layer = picture.copy()
    layer.putalpha(Image.fromarray(x.astype(np.uint8)))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    deep = Image.fromarray((x * 500).astype(np.uint16))
    frames = {"save_all": True, "append_images": [picture.rotate(90 * i) for i in range(2)]}
    files = [
        (picture, "JPEG", {"quality": 85, "exif": exif}),
        (picture, "JPEG", {"quality": 85, "progressive": True, "icc_profile": rng.bytes(700)}),
        (picture, "JPEG", {"quality": 70, "restart_marker_blocks": 4}),
        (picture.convert("L"), "JPEG", {}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture, "MPO", frames),
        (picture.resize((40, 30)), "PNG", {"exif": exif}),
        (layer.resize((40, 30)), "PNG", {"icc_profile": rng.bytes(700)}),
        (picture.quantize(16), "PNG", {"transparency": 3}),
        (deep.resize((40, 30)), "PNG", {}),
        (picture.convert("1"), "PNG", {}),
        (picture.quantize(32), "GIF", frames | {"transparency": 3}),
        (layer, "WEBP", {"exif": exif}),
        (picture, "WEBP", {"lossless": True}),
        (picture, "WEBP", frames),
        (picture.resize((40, 30)), "TIFF", {}),
        (layer.resize((40, 30)), "TIFF", {"compression": "tiff_lzw"}),
        (picture, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (picture.convert("1"), "TIFF", {"compression": "group4"}),
        (picture.resize((40, 30)), "BMP", {}),
        (picture, "AVIF", {"exif": exif}),
        (picture, "JPEG2000", {}),
        (picture.resize((40, 30)), "PPM", {}),
    ]
    found = []
    for image, kind, options in files:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())
    return tuple(found)


def mutant(seed: int, index: int) -> bytes:
    """Input `index` of `seed`: a whole file with one or two mutations."""
    rng = np.random.default_rng((seed, index))
    data = originals()[rng.integers(len(originals()))]
    for _ in range(rng.integers(1, 3)):
        data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return data


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """One to sixteen bits anywhere."""
    found = bytearray(data)
    for place in rng.integers(0, max(len(data), 1), rng.integers(1, 17)) if data else ():
        found[place] ^= 1 << rng.integers(8)
    return bytes(found)


def edit_header(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes near the start, to values that sizes and markers like."""
    found = bytearray(data)
    for place in rng.integers(0, min(len(data), 700), rng.integers(1, 9)) if data else ():
        found[place] = rng.choice([0, 1, 0x7F, 0x80, 0xC2, 0xDA, 0xE1, 0xFE, 0xFF, rng.integers(256)])
    return bytes(found)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is lost."""
    return data[: rng.integers(len(data) + 1)]


def drop(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch within is lost."""
    start, end = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:start] + data[min(end, start + 300) :]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch comes again and again."""
    start, end = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:end] + data[start:end][:2000] * rng.integers(1, 8) + data[end:]


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """The start of this file and the end of another."""
    other = originals()[rng.integers(len(originals()))]
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other)) :]


MUTATIONS = (flip_bits, edit_header, cut, drop, repeat, splice)


def fuzz_images(count: int, seed: int, keep: Path | None = None) -> dict[str, int]:
    """Reads `count` mutants of `seed`; outcome -> how many, "picture" or a reason. AssertionError names what failed.

    Before an input is read it is written to `keep`, so that it is there even if the process dies of it.
    """
    outcomes: Counter[str] = Counter()
    for index in range(count):
        data = mutant(seed, index)
        if keep is not None:
            keep.write_bytes(data)
        start = time.perf_counter()
        try:
            outcomes[read(data)] += 1
        except Exception as error:
            raise AssertionError(
                f"mutant({seed}, {index}): expected a picture or a BadExample, found {error!r}"
            ) from error
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, f"mutant({seed}, {index}): {seconds:.1f} s"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of kB
        assert peak < GIGABYTES, f"mutant({seed}, {index}) or one before it: {peak:.1f} GB of memory"
    return dict(outcomes)


def read(data: bytes) -> str:
    """What becomes of the file; both ways to read it must agree."""
    try:
        window = images.crop(data, resize=RESIZE, size=SIZE, rng=np.random.default_rng(0), flip=True)
    except BadExample as bad:
        return str(bad)
    assert window.shape == (SIZE, SIZE, 3) and window.dtype == np.uint8
    whole = images.decode(data)
    assert whole.mode == "RGB" and whole.width > 0 and whole.height > 0
    return "picture"
