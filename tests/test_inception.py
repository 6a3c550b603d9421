"""Inception's windows: their distribution, where evaluation looks, and what the model is given."""

import math

import numpy as np
import pytest
from PIL import Image
from test_images import SCENE, UPRIGHT, encoded

from align_jax.data.inception import ATTEMPTS, Inception
from align_jax.data.source import BadExample
from align_jax.data.views import Resized
from align_jax.types import AlignError

# As align_jax.data.images has it outside of pytest, which sets its own filters for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

VIEW = Inception(crop=16, flip=False)


def windows(width, height, count=4000, view=VIEW):
    """f64 [count, 4]: left, top, right, bottom."""
    rng = np.random.default_rng(0)
    return np.array([view.window(width, height, rng) for _ in range(count)], float)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 300), (375, 500), (60, 45)])
def test_windows_keep_their_bounds(width, height):
    found = windows(width, height)
    left, top, right, bottom = found.T
    assert (found == np.round(found)).all()
    assert (left >= 0).all() and (left < right).all() and (right <= width).all()
    assert (top >= 0).all() and (top < bottom).all() and (bottom <= height).all()
    across, down = right - left, bottom - top
    # Sides are rounded to whole pixels, by half of one at most.
    assert ((across + 0.5) * (down + 0.5) >= 0.08 * width * height).all()
    assert ((across + 0.5) / (down - 0.5) >= 3 / 4).all() and ((across - 0.5) / (down + 0.5) <= 4 / 3).all()
    area = across * down / (width * height)
    assert area.min() < 0.1 and area.max() > 0.9


def test_small_windows_are_uniform_in_area_and_in_log_aspect_and_lie_anywhere():
    """Up to 9/16 of a square's area every aspect fits, so nothing is drawn again."""
    rng = np.random.default_rng(1)
    view = Inception(crop=16, flip=False, area=(0.08, 0.5))
    left, top, right, bottom = np.array([view.window(4000, 4000, rng) for _ in range(20_000)], float).T
    across, down = right - left, bottom - top
    area = (across * down / 4000**2 - 0.08) / 0.42
    aspect = (np.log(across / down) - math.log(3 / 4)) / math.log(16 / 9)
    for share in (area, aspect, left / (4000 - across), top / (4000 - down)):
        edges = np.sort(share)
        distance = np.abs(edges - np.linspace(0, 1, len(edges))).max()  # Kolmogorov's
        assert distance < 1.63 / math.sqrt(len(edges)), "1 % of uniform samples lie further off"
    assert abs(np.corrcoef([area, aspect, left / (4000 - across), top / (4000 - down)]) - np.eye(4)).max() < 0.03


@pytest.mark.parametrize(("width", "height", "box"), [
    (4000, 10, (1993, 0, 2006, 10)), (10, 4000, (0, 1993, 10, 2006)), (1, 1, (0, 0, 1, 1)), (1000, 1, (499, 0, 500, 1)),
])  # fmt: skip
def test_a_picture_that_no_window_fits_gives_its_largest_central_one(width, height, box):
    class Largest(np.random.Generator):
        """Always the whole area, the widest or tallest window."""

        drawn = 0

        def uniform(self, low, high):
            self.drawn += 1
            return high if width > height else (low if self.drawn % 2 == 0 else high)

    rng = Largest(np.random.PCG64(0))
    found = VIEW.window(width, height, rng)
    if width * height > 1:
        assert found == box and rng.drawn == 2 * ATTEMPTS
    assert found == box or width * height == 1


@pytest.mark.parametrize(("width", "height", "box"), [
    (500, 400, (75, 25, 425, 375)), (400, 500, (25, 75, 375, 425)), (8, 8, (0.5, 0.5, 7.5, 7.5)),
    (9, 3, (3.1875, 0.1875, 5.8125, 2.8125)),
])  # fmt: skip
def test_evaluation_sees_seven_eighths_of_the_shorter_side(width, height, box):
    assert VIEW.centre(width, height) == box


def test_evaluation_equals_a_plain_resize():
    """The shorter side to side / 0.875, the central square of that: 64 rows become 64, of which 56 are seen."""
    found = Inception(crop=16, eval_crop=56, flip=False).evaluate(SCENE)
    np.testing.assert_array_equal(found, UPRIGHT[4:60, 20:76])
    # Half as large, against the whole picture resized first: its pixels are the means of the same ones.
    half = np.asarray(SCENE.resize((48, 32), Image.Resampling.BILINEAR))[2:30, 10:38]
    other = Inception(crop=16, eval_crop=28, flip=False).evaluate(SCENE)
    assert abs(other.astype(int) - half.astype(int))[1:-1, 1:-1].max() <= 1


def test_training_gives_the_pixels_of_its_window_mirrored_half_the_time():
    view = Inception(crop=24, flip=True)
    mirrored = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        box = view.window(*SCENE.size, rng)
        plain = np.asarray(SCENE.resize((24, 24), Image.Resampling.BILINEAR, box=box))
        found = view.train(SCENE, np.random.default_rng(seed))
        assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
        is_mirrored = not np.array_equal(found, plain)
        np.testing.assert_array_equal(found, plain[:, ::-1] if is_mirrored else plain)
        mirrored += is_mirrored
    assert 18 <= mirrored <= 42
    never = Inception(crop=24, flip=False)
    box = never.window(*SCENE.size, np.random.default_rng(3))
    plain = np.asarray(SCENE.resize((24, 24), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_array_equal(never.train(SCENE, np.random.default_rng(3)), plain)


def test_a_large_jpeg_is_decoded_in_part_and_looks_the_same():
    large = SCENE.resize((1920, 1280), Image.Resampling.BICUBIC)
    file = encoded(large, "JPEG", quality=95)
    view = Inception(crop=24, flip=False)
    fast, slow = (view.evaluate(x).astype(float) for x in (file, large))
    assert 10 * np.log10(255**2 / np.mean((fast - slow) ** 2)) > 38
    fast, slow = (view.train(x, np.random.default_rng(5)).astype(float) for x in (file, large))
    assert 10 * np.log10(255**2 / np.mean((fast - slow) ** 2)) > 30, "the window of fewer pixels is another by one"


def test_what_cannot_be_read_is_a_bad_example():
    for view in (VIEW, Resized(resize=18, crop=16, flip=False)):
        with pytest.raises(BadExample, match="image unreadable"):
            view.train(b"no picture", np.random.default_rng(0))
        with pytest.raises(BadExample, match="image unreadable"):
            view.evaluate(b"no picture")


def test_resized_grows_with_the_window_of_evaluation():
    """289 of 346 in training is 360 of 431 in evaluation."""
    view = Resized(resize=346, crop=289, flip=True, eval_crop=360)
    assert view.protocol == "central 360 px of 431 x 431" and view.evaluate(SCENE).shape == (360, 360, 3)
    whole = np.asarray(SCENE.resize((431, 431), Image.Resampling.BILINEAR))[35:395, 35:395]
    assert abs(view.evaluate(SCENE).astype(int) - whole.astype(int))[2:-2, 2:-2].max() <= 1
    assert Resized(resize=346, crop=289, flip=True).evaluate(SCENE).shape == (289, 289, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop and eval_crop of at least 1 pixel, found 0"),
        ({"eval_crop": 0}, "found 16 and 0"),
        ({"eval_share": 1.5}, "eval_share: expected a share"),
        ({"area": (0.5, 0.1)}, "rising shares"),
        ({"area": (0.1, 1.1)}, "rising shares"),
        ({"aspect": (0.0, 1.0)}, "above 0"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(AlignError, match=message):
        Inception(**({"crop": 16, "flip": False} | options))
