"""Pictures from files made by real encoders, odd and hostile ones among them."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import simplejpeg
from fuzz_images import fuzz_images
from PIL import Image, ImageDraw, PngImagePlugin

from align_jax.data import images
from align_jax.data.source import BadExample

# As align_jax.data.images has it outside of pytest, which sets its own filters for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (60, 90, 3), np.uint8)


def encoded(picture, kind, **options):
    """The bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels(image, **options):
    found = np.asarray(images.decode(image, **options))
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    return found


def psnr(one, other):
    """Peak signal to noise ratio in dB."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


def scene(width, height):
    """A picture with smooth shades, edges and fine lines, other in each corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    shades = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(9 * x * y)], axis=-1)
    picture = Image.fromarray(shades.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((width * 0.1, height * 0.2, width * 0.45, height * 0.7), (220, 40, 30))
    for i in range(12):
        draw.line((width * 0.5, height * i / 12, width * 0.95, height * (i + 3) / 15), (20, 20, 20), 2)
    return picture


SCENE = scene(96, 64)
UPRIGHT = np.asarray(SCENE)
FINE: dict[str, dict] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
# EXIF orientation -> how an upright picture is stored, by the figure of the EXIF standard (row 0, column 0).
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.swapaxes(0, 1),  # left, top
    6: lambda p: p.swapaxes(0, 1)[::-1],  # right, top
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda p: p.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_give_the_same_upright_picture(kind, orientation):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    image = encoded(stored, kind, exif=exif, **FINE.get(kind, {}))
    found = pixels(image)
    assert found.shape == UPRIGHT.shape
    assert psnr(found, UPRIGHT) > (30 if kind in ("JPEG", "MPO", "AVIF") else 1000)
    assert psnr(pixels(Image.open(io.BytesIO(image))), UPRIGHT) > 30


def test_broken_metadata_leave_the_picture_as_it_is_stored():
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12" * 50):
        image = encoded(SCENE, "JPEG", exif=exif)
        np.testing.assert_array_equal(pixels(image), pixels(encoded(SCENE, "JPEG")))
        assert (pixels(encoded(SCENE, "PNG", exif=exif)) == UPRIGHT).all()


def test_exif_behind_other_segments_and_fill_bytes_is_found():
    exif = Image.Exif()
    exif[0x0112] = 3
    image = encoded(SCENE, "JPEG", exif=exif, icc_profile=bytes(200_000), **FINE["JPEG"])
    start = image.index(b"\xff\xe1")
    assert psnr(pixels(image[:start] + b"\xff\xff" + image[start:]), UPRIGHT[::-1, ::-1]) > 30


def test_cmyk_has_the_colours_that_browsers_show():
    colours = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    picture = Image.fromarray(colours.repeat(16, axis=0).repeat(16, axis=1))
    cmyk = np.asarray(picture.convert("CMYK"))
    files = {
        "CMYK": encoded(picture.convert("CMYK"), "JPEG", quality=95),  # Adobe's marker, inverted
        "YCCK": simplejpeg.encode_jpeg(255 - cmyk, quality=95, colorspace="CMYK", colorsubsampling="444"),
    }
    for space, image in files.items():
        assert simplejpeg.decode_jpeg_header(image)[2] == space
        assert abs(pixels(image).astype(int) - np.asarray(picture)).max() <= 12, space
    assert (pixels(encoded(picture.convert("CMYK"), "TIFF")) == np.asarray(picture)).all()


def png_of_16_bits(values):
    """uint16 [H, W, 3] as a PNG, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_file((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)))


def png_file(*chunks):
    """A PNG of (type, contents)."""
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bits_become_8_and_are_not_cut():
    values = np.linspace(0, 65535, 512).astype(np.uint16).reshape(2, 256)
    expected = np.round(values / 257).astype(np.uint8)
    grey = Image.fromarray(values)
    for image in (encoded(grey, "PNG"), encoded(grey, "TIFF"), encoded(grey, "TIFF", compression="tiff_lzw"), values):
        found = pixels(image)
        assert (found == expected[..., None]).all()
    colour = pixels(png_of_16_bits(np.stack([values, values[:, ::-1], values * 0], axis=-1)))
    assert abs(colour[..., 0].astype(int) - expected).max() <= 1 and not colour[..., 2].any()
    assert (np.diff(colour[..., 0].reshape(-1).astype(int)) >= 0).all() and colour.max() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    image = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **FINE.get(kind, {}))
    assert Image.open(io.BytesIO(image)).n_frames == 3
    assert (pixels(image) == (255, 0, 0)).all()


def test_transparency_is_laid_on_white():
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[:2, :, :] = (200, 0, 0, 255)
    layer[2, :, 3] = 128
    picture = Image.fromarray(layer)
    for image in (picture, encoded(picture, "PNG"), encoded(picture, "WEBP", lossless=True, exact=True), layer):
        found = pixels(image)
        assert found.shape == (4, 4, 3)
        assert (found[:2] == (200, 0, 0)).all() and (found[3] == 255).all()
        assert (abs(found[2].astype(int) - 127) <= 1).all()
    grey = Image.merge("LA", [Image.new("L", (2, 1), 30), Image.new("L", (2, 1))])
    grey.putpixel((0, 0), (30, 255))
    assert pixels(encoded(grey, "PNG"))[..., 0].tolist() == [[30, 255]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(kind):
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 0, 0, 200])
    palette.putdata([0, 1])
    assert pixels(encoded(palette, kind)).tolist() == [[[9, 9, 9], [0, 0, 200]]]
    assert pixels(encoded(palette, kind, transparency=0)).tolist() == [[[255, 255, 255], [0, 0, 200]]]


def test_any_mode_becomes_rgb(tmp_path):
    grey = NOISE[..., 0]
    for image in (grey, Image.fromarray(grey), encoded(Image.fromarray(grey), "PNG")):
        assert (pixels(image) == grey[..., None]).all()
    two = Image.fromarray(grey).convert("1")
    for kind in ("PNG", "TIFF", "GIF", "BMP", "PPM"):
        assert (pixels(encoded(two, kind)) == np.asarray(two.convert("RGB"))).all()
    jpeg = pixels(encoded(SCENE.convert("L"), "JPEG", quality=95))
    assert (jpeg[..., 0] == jpeg[..., 2]).all() and psnr(jpeg[..., 0], np.asarray(SCENE.convert("L"))) > 35
    assert psnr(pixels(encoded(SCENE, "JPEG", quality=95, keep_rgb=True)), UPRIGHT) > 35
    assert (pixels(NOISE) == NOISE).all()
    (tmp_path / "a.png").write_bytes(encoded(SCENE, "PNG"))
    assert images.decode(str(tmp_path / "a.png")).mode == "RGB"
    assert (pixels(str(tmp_path / "a.png")) == UPRIGHT).all()


def test_odd_but_whole_jpegs_are_read():
    plain = encoded(SCENE, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(plain)))
    files = {
        "progressive": encoded(SCENE, "JPEG", quality=90, progressive=True),
        "garbage behind": plain + b"\0garbage\xff\xd8" * 50,
        "garbage before the end": plain[:-2] + b"garbage" + plain[-2:],
        "restarts": encoded(SCENE, "JPEG", quality=90, restart_marker_blocks=2),
        "pictures behind": encoded(SCENE, "MPO", quality=90, save_all=True, append_images=[SCENE, SCENE]),
        "huge profile": encoded(SCENE, "JPEG", quality=90, icc_profile=RNG.bytes(3_000_000)),
    }
    for name, image in files.items():
        assert abs(pixels(image).astype(int) - expected).max() <= 2, name


def test_a_huge_profile_costs_no_png():
    assert (pixels(encoded(SCENE, "PNG", icc_profile=RNG.bytes(900_000))) == UPRIGHT).all()


# Refused.


def reason(image):
    """Why it is refused, by both functions."""
    with pytest.raises(BadExample) as one:
        images.decode(image)
    with pytest.raises(BadExample) as other:
        images.crop(image, resize=32, size=24, rng=None, flip=False)
    assert str(one.value) == str(other.value)
    return str(one.value)


def test_what_is_no_picture_says_why(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    assert reason(str(tmp_path / "none.png")) == reason(str(tmp_path / "text.png" / "a.png")) == "image file missing"
    for image in (b"", str(tmp_path / "empty.png"), np.zeros((0, 4, 3), np.uint8)):
        assert reason(image) == "image empty"
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # Pillow would start an interpreter
    unreadable = [svg, page, script, b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(100), encoded(SCENE, "PNG")[:20],
                  str(tmp_path), str(tmp_path / "text.png"), "a\0b", UPRIGHT / 2, UPRIGHT / np.float32(2),
                  np.zeros((4, 4), np.int32), np.zeros((2, 4, 4, 3), np.uint8)]  # fmt: skip
    for image in unreadable:
        assert reason(image) == "image unreadable", image


def test_a_path_that_leads_nowhere_is_a_bad_example():
    assert reason("x" * 300 + ".jpg") == "image file missing"
    assert reason("zz://bucket/a.jpg") == "image unreadable"


def test_a_failing_disk_is_no_bad_example(monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(images.storage, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        images.decode("a.png")


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_no_part_of_a_jpeg_passes_for_the_whole(mode, progressive):
    """Cut anywhere, with and without an end marker behind: libjpeg would fill up with grey."""
    whole = encoded(SCENE.convert(mode), "JPEG", quality=90, progressive=progressive)
    first = whole.index(b"\xff\xda") + 20
    for end in (*range(first, len(whole) - 30, 97), len(whole) - 40):
        found = reason(whole[:end])
        assert found == "image truncated" or (progressive and found == "image damaged")  # cut in a table between scans
        if not progressive:  # a coarser picture is a whole one too
            assert reason(whole[:end] + b"\xff\xd9") == "image damaged"
    assert reason(whole[:-2]) == "image truncated"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF"])
def test_no_part_of_another_file_passes_for_the_whole(kind):
    whole = encoded(Image.fromarray(NOISE), kind)
    # A WebP or AVIF is one piece, and Pillow cannot tell where it broke; a TIFF keeps its directory at the end.
    said = {"WEBP", "AVIF", "TIFF"}
    for end in range(len(whole) // 4, len(whole) * 3 // 4, 997):
        found = reason(whole[:end])
        assert found == "image truncated" or (kind in said and found in ("image damaged", "image unreadable")), found


def test_damaged_data_are_no_picture():
    jpeg, png = (bytearray(encoded(SCENE, kind)) for kind in ("JPEG", "PNG"))
    start = jpeg.index(b"\xff\xda") + 200
    for wrong in (b"\xff\xd0", b"\xff\x00"):  # restarts where there are none, no code
        jpeg[start : start + 40] = wrong * 20
        assert reason(bytes(jpeg)) == "image damaged"
    png[200:240] = bytes(40)
    assert reason(bytes(png)) == "image damaged"


def at_size(image, offset, kind, width, height):
    """The file with another width and height in its header."""
    return image[:offset] + struct.pack(kind, width, height) + image[offset + struct.calcsize(kind) :]


def lying(width, height):
    """Files of 96 x 64 whose headers say otherwise."""
    jpeg, png, gif, bmp = (encoded(SCENE, kind) for kind in ("JPEG", "PNG", "GIF", "BMP"))
    body = png[33:]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return {
        "JPEG": at_size(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", height, width),
        "PNG": png_file((b"IHDR", header))[:33] + body,
        "GIF": at_size(gif, gif.index(b"\x2c\0\0\0\0\x60\0\x40\0") + 5, "<HH", width, height),
        "BMP": at_size(bmp, 18, "<ii", width, height),
    }


def test_a_header_that_promises_more_than_there_is_is_refused():
    found = {kind: reason(image) for kind, image in lying(200, 300).items()}
    assert (found["GIF"], found["BMP"]) == ("image truncated", "image truncated")
    # The end marker of the JPEG comes too soon, the rows of the PNG begin in the wrong places.
    assert (found["JPEG"], found["PNG"]) == ("image damaged", "image damaged")


def test_bombs_are_refused_by_their_headers():
    jpeg = lying(65500, 65500)["JPEG"]
    lines = zlib.compress(bytes(12_000 * 1501))  # 18 MB of 1-bit rows in 18 kB, which Pillow alone would unfold
    png = png_file((b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0)), (b"IDAT", lines))
    gif = at_size(encoded(SCENE, "GIF"), 6, "<HH", 65535, 65535)
    webp = encoded(SCENE, "WEBP", lossless=True)
    sides = webp.index(b"VP8L") + 9  # 14 bits each, less one
    webp = webp[:sides] + struct.pack("<I", 16382 | 16382 << 14) + webp[sides + 4 :]
    tiff = encoded(Image.new("1", (20_000, 1)), "TIFF")
    one_row = tiff
    tiff = tiff.replace(struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 257, 4, 1, 20_000))
    assert tiff != one_row
    bmp = lying(12_000, 12_000)["BMP"]
    start = time.perf_counter()
    for name, image in {"jpeg": jpeg, "png": png, "gif": gif, "webp": webp, "tiff": tiff, "bmp": bmp}.items():
        assert reason(image) == "image too large", name
    assert time.perf_counter() - start < 1, "nothing is unfolded"


def test_a_jpeg_of_endless_scans_is_refused():
    """A few bytes a scan, and each of them visits all pixels."""
    whole = encoded(SCENE.convert("L"), "JPEG", progressive=True)
    starts = [i for i in range(len(whole)) if whole.startswith(b"\xff\xda", i)]
    last = whole[starts[-1] : -2]
    assert reason(whole[:-2] + last * images.MAX_SCANS + whole[-2:]) == "image too large"
    plain = encoded(SCENE, "JPEG", comment=b"\xff\xda" * 200, **FINE["JPEG"])  # no scans, only their sign
    assert psnr(pixels(plain), UPRIGHT) > 30


def test_text_that_unfolds_in_a_png_is_refused():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 80_000_000, zip=True)
    assert reason(encoded(SCENE, "PNG", pnginfo=text)) in ("image unreadable", "image damaged")


# The window of a picture.


def windows(image, *, resize, size, seeds=20):
    yield images.crop(image, resize=resize, size=size, rng=None, flip=True)
    for seed in range(seeds):
        yield images.crop(image, resize=resize, size=size, rng=np.random.default_rng(seed), flip=True)


def drawn(picture, *, resize, size, rng):
    """What `crop` draws and computes, in the words of Pillow."""
    left, top = rng.integers(0, resize - size + 1, 2).tolist()
    across, down = picture.width / resize, picture.height / resize
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    window = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else window)


@pytest.mark.parametrize("side", [(60, 90), (20, 17), (36, 36)], ids=["shrinks", "grows", "keeps"])
def test_windows_are_those_of_pillow_bit_for_bit(side):
    picture = Image.fromarray(RNG.integers(0, 256, (*side, 3), np.uint8))
    for seed in range(20):
        expected = drawn(picture, resize=36, size=32, rng=np.random.default_rng(seed))
        for image in (picture, np.asarray(picture), encoded(picture, "PNG")):
            found = images.crop(image, resize=36, size=32, rng=np.random.default_rng(seed), flip=True)
            assert found.flags.c_contiguous and found.flags.writeable
            np.testing.assert_array_equal(found, expected)


def test_a_jpeg_of_the_target_size_is_only_cut_out():
    image = encoded(scene(72, 72), "JPEG", quality=90)
    whole = simplejpeg.decode_jpeg(image)
    central, *others = windows(image, resize=72, size=60)
    np.testing.assert_array_equal(central, whole[6:66, 6:66])
    cuts = {whole[top : top + 60, left : left + 60].tobytes() for top in range(13) for left in range(13)}
    assert all(window.tobytes() in cuts or window[:, ::-1].tobytes() in cuts for window in others)


@pytest.mark.parametrize("size", [(178, 178), (240, 170), (640, 175)])
def test_a_jpeg_up_to_two_and_a_half_times_the_size_is_decoded_in_full(size):
    image = encoded(scene(*size), "JPEG", quality=90)
    whole = images.decode(image)
    assert whole.size == size
    for found, expected in zip(windows(image, resize=72, size=60), windows(whole, resize=72, size=60), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(360, 360), (800, 600), (2000, 800)])
def test_a_large_jpeg_is_scaled_by_libjpeg_at_little_loss(size):
    image = encoded(scene(*size), "JPEG", quality=90)
    whole = images.decode(image)
    smaller = images.decode(image, at_least=180)
    assert whole.size == size and min(smaller.size) >= 180 and smaller.width <= size[0] / 2 + 1
    for found, expected in zip(windows(image, resize=144, size=120), windows(whole, resize=144, size=120), strict=True):
        assert psnr(found, expected) > 37


def test_a_turned_jpeg_is_scaled_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(scene(800, 600), "JPEG", quality=90, exif=exif)
    assert images.decode(image).size == (600, 800)
    assert images.decode(image, at_least=100).size == (150, 200)


def test_bytes_paths_and_pictures_are_read_alike(tmp_path):
    image = encoded(SCENE, "JPEG", quality=90)
    (tmp_path / "a.jpg").write_bytes(image)
    np.testing.assert_array_equal(pixels(image), pixels(str(tmp_path / "a.jpg")))
    assert abs(pixels(image).astype(int) - pixels(Image.open(io.BytesIO(image)))).max() <= 2  # by the other decoder


@pytest.mark.parametrize("side", [(60, 90), (20, 17)], ids=["shrinks", "grows"])
def test_the_central_crop_is_the_middle_of_the_resized_picture(side):
    picture = Image.fromarray(RNG.integers(0, 256, (*side, 3), np.uint8))
    found = images.crop(picture, resize=32, size=24, rng=None, flip=True)
    whole = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    assert found.dtype == np.uint8 and abs(found.astype(int) - whole[4:28, 4:28]).max() <= 2


def test_random_windows_reach_every_corner_and_no_further():
    """Pixel values tell where a window starts, and whether it is mirrored."""
    rows, columns = np.mgrid[:12, :12].astype(np.uint8) * 10
    picture = Image.fromarray(np.stack([rows, columns, columns * 0], axis=-1))
    seen = {True: set(), False: set()}
    for seed in range(300):
        window = images.crop(picture, resize=12, size=9, rng=np.random.default_rng(seed), flip=True).astype(int)
        mirrored = window[0, 0, 1] > window[0, -1, 1]
        straight = window[:, ::-1] if mirrored else window
        top, left = straight[0, 0, :2] // 10
        assert (straight[..., 0] == rows[top : top + 9, :9]).all() and (
            straight[..., 1] == columns[:9, left : left + 9]
        ).all()
        seen[bool(mirrored)].add((int(top), int(left)))
    everywhere = {(top, left) for top in range(4) for left in range(4)}
    assert seen == {True: everywhere, False: everywhere}


def test_without_flip_no_window_is_mirrored():
    picture = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (24, 1, 3)))
    for seed in range(50):
        window = images.crop(picture, resize=24, size=8, rng=np.random.default_rng(seed), flip=False)
        assert window[0, 0, 0] < window[0, -1, 0]


def test_mutated_files_give_a_picture_or_a_reason():
    outcomes = fuzz_images(2000, seed=0)
    assert sum(outcomes.values()) == 2000
    assert outcomes.keys() >= {"picture", "image unreadable", "image truncated", "image damaged", "image too large"}
