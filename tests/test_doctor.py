"""The doctor: which numbers it takes for which fault, and that it says so once."""

import math

import pytest

from align_jax.watch.doctor import EARLY, PATIENCE, Doctor

HEALTHY = {"loss": 3.0, "temperature": 0.05, "image_cosine": 0.1, "text_cosine": 0.2, "data_wait": 0.01}
CHANCE = 2 * math.log(256)


def told(values, *, rows=PATIENCE, first=EARLY, **options):
    """The names of the signs told over `rows` logged rows."""
    doctor = Doctor(**({"chance": CHANCE, "bounds": (0.01, None)} | options))
    return [sign.name for row in range(rows) for sign in doctor.examine(first + row, HEALTHY | values)]


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ({"loss": CHANCE * 1.005}, "loss at chance"),
        ({"temperature": 0.01}, "temperature at its bound"),
        ({"image_cosine": 0.96}, "embeddings collapsed"),
        ({"text_cosine": 0.96}, "embeddings collapsed"),
        ({"data_wait": 0.25}, "data starvation"),
    ],
)
def test_a_sign_is_told_once_when_it_lasts(values, sign):
    assert told(values, rows=PATIENCE - 1) == []
    assert told(values, rows=PATIENCE) == [sign]
    assert told(values, rows=5 * PATIENCE) == [sign]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"loss": CHANCE * 0.98},
        {"loss": math.nan},
        {"temperature": 0.0102},
        {"image_cosine": 0.94},
        {"data_wait": 0.19},
    ],
)
def test_the_healthy_are_left_alone(values):
    assert told(values, rows=10) == []


def test_no_verdict_without_grounds():
    assert told({"loss": CHANCE}, first=EARLY - PATIENCE) == [], "too early"
    assert told({"loss": CHANCE}, chance=None) == [], "a loss whose value at chance is not known"
    assert told({"temperature": 0.01}, bounds=(None, None)) == []


def test_what_comes_back_is_told_again():
    doctor = Doctor(chance=None)
    sick, well = HEALTHY | {"data_wait": 0.9}, HEALTHY
    rows = [sick] * PATIENCE + [well] + [sick] * PATIENCE
    signs = [sign for step, row in enumerate(rows) for sign in doctor.examine(step, row)]
    assert [sign.name for sign in signs] == ["data starvation"] * 2
    assert "90%" in signs[0].text and "config.data.threads" in signs[0].text
