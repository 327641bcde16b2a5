"""Test the choice of color channel, the detected polarity and the amount of ink."""

import numpy as np
import pytest
from digit_photos import each_digit, to_image
from photos import FOUR, SEVEN, written
from PIL import Image

from src.extras.paper.ink import find_ink, ink_channel, is_dark_on_light

RNG = np.random.default_rng(0)
SHAPE = (300, 320)

each_light = pytest.mark.parametrize("light", ["even", "slope", "shadow"])


def illumination(kind: str) -> np.ndarray:
    """Return the illumination of each pixel, from 0 to 1."""
    height, width = SHAPE
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(0, 1, width)
    if kind == "slope":
        return np.broadcast_to(0.4 + 0.6 * x, SHAPE)
    if kind == "shadow":
        return np.where(x + 0.3 * y < 0.6, 0.5, 1)
    return np.ones(SHAPE)


# Color channel


@pytest.mark.parametrize(
    "ink, channel",
    [
        ((200, 60, 60), "R"),
        ((90, 80, 255), "B"),
    ],
)
def test_a_colored_pen_as_bright_as_the_paper_is_read_from_one_channel(ink, channel):
    color = Image.new("RGB", (1, 1), ink)
    paper = color.convert("L").getpixel((0, 0))
    photo = written(FOUR, ink=ink, paper=(paper, paper, paper), mode="RGB")
    expected = photo.getchannel(channel)
    assert np.array_equal(ink_channel(photo), np.asarray(expected))


def test_a_dark_pen_is_read_from_gray():
    photo = written(SEVEN, ink=(30, 30, 40), paper=(250, 240, 200), mode="RGB")
    gray = photo.convert("L")
    assert np.array_equal(ink_channel(photo), np.asarray(gray))
    assert np.array_equal(ink_channel(gray), np.asarray(gray))


# Polarity


@each_light
@pytest.mark.parametrize("pen", [4, 36])
@each_digit
def test_polarity_is_found_for_all_pens_and_light(strokes, pen, light):
    for ink, paper in ((30, 220), (220, 30)):
        drawing = written(strokes, pen=pen, ink=ink, paper=paper)
        lit = np.asarray(drawing) * illumination(light)
        noisy = to_image(lit + RNG.normal(0, 3, SHAPE))
        assert is_dark_on_light(np.asarray(noisy)) == (ink < paper)


# Amount of ink


@each_light
def test_ink_is_a_fraction_of_the_papers_brightness(light):
    """On paper of brightness 200, ink of 50 absorbs 3/4 of the light; ink of 125 absorbs 3/8."""
    photo = np.full(SHAPE, 200.0)
    photo[100:220, 60:84] = 50
    photo[100:220, 230:254] = 125
    lit = photo * illumination(light)
    ink = find_ink(lit.round().astype(np.uint8))
    assert ink.dtype == np.float32
    assert ink.shape == SHAPE
    assert ink[110:210, 68:76].min() > 0.95
    assert ink[110:210, 238:246].mean() == pytest.approx(0.5, abs=0.03)
    assert ink[:, 100:120].max() < 0.1
    assert ink[20:80].max() < (0.4 if light == "shadow" else 0.1)


@pytest.mark.parametrize("noise", [2, 20])
def test_noise_is_not_ink(noise):
    rng = np.random.default_rng(noise)
    photo = to_image(150 + rng.normal(0, noise, SHAPE))
    assert not find_ink(np.asarray(photo)).any()
