"""Color channel, polarity and amount of ink."""

import numpy as np
import pytest
from photos import FOUR, ONE, SEVEN, ZERO, written
from PIL import Image

from src.extras.paper.ink import find_ink, ink_channel, is_dark_on_light, peak
from src.extras.paper.windows import sliding

RNG = np.random.default_rng(0)


def pixels(strokes: list, **options) -> np.ndarray:
    return np.asarray(written(strokes, **options))


def illumination(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Return the light on every pixel, 0 to 1."""
    height, width = shape
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(0, 1, width)[None]
    if kind == "slope":
        return np.broadcast_to(0.4 + 0.6 * x, shape)
    if kind == "shadow":
        return np.where(x + 0.3 * y < 0.6, 0.5, 1)
    return np.ones(shape)


# Channel


@pytest.mark.parametrize("lighter", [0, 12])
@pytest.mark.parametrize(
    "ink, channel", [((200, 60, 60), 0), ((0, 140, 40), 0), ((90, 80, 255), 2)]
)
def test_a_colored_pen_as_bright_as_the_paper_is_read_from_one_channel(ink, channel, lighter):
    gray = Image.new("RGB", (1, 1), ink).convert("L").getpixel((0, 0))
    photo = written(FOUR, ink=ink, paper=(gray + lighter,) * 3, mode="RGB")
    assert np.ptp(np.asarray(photo.convert("L"))) == lighter
    assert np.array_equal(ink_channel(photo), np.asarray(photo.getchannel(channel)))


@pytest.mark.parametrize(
    "ink, paper", [((30, 30, 40), (250, 240, 200)), ((20, 20, 160), (240, 240, 240))]
)
def test_a_dark_pen_is_read_from_gray(ink, paper):
    photo = written(SEVEN, ink=ink, paper=paper, mode="RGB")
    gray = photo.convert("L")
    assert np.array_equal(ink_channel(photo), np.asarray(gray))
    assert np.array_equal(ink_channel(gray), np.asarray(gray))


# Polarity


@pytest.mark.parametrize("light", ["even", "slope", "shadow"])
@pytest.mark.parametrize("pen", [4, 8, 20, 36])
@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_polarity_is_found_for_all_pens_and_light(strokes, pen, light):
    for ink, paper in ((30, 220), (220, 30)):
        photo = pixels(strokes, pen=pen, ink=ink, paper=paper) * illumination(light, (300, 320))
        noisy = photo + RNG.normal(0, 3, photo.shape)
        assert is_dark_on_light(noisy.clip(0, 255).astype(np.uint8)) == (ink < paper)


@pytest.mark.parametrize("size", [(40, 40), (900, 700), (200, 640)])
def test_polarity_is_found_at_other_sizes(size):
    pen = min(size) // 15
    assert is_dark_on_light(pixels(FOUR, size=size, pen=pen))
    assert not is_dark_on_light(pixels(FOUR, size=size, pen=pen, ink=230, paper=20))


# Amount


@pytest.mark.parametrize("light", ["even", "slope", "shadow"])
def test_ink_is_a_fraction_of_the_papers_brightness(light):
    """Paper has brightness 200: ink of 50 absorbs 3/4 of the light, ink of 125 half of that."""
    photo = np.full((300, 320), 200.0)
    photo[100:220, 60:84] = 50
    photo[100:220, 230:254] = 125
    lit = photo * illumination(light, photo.shape)
    ink = find_ink(lit.round().astype(np.uint8))
    assert ink.dtype == np.float32 and ink.shape == photo.shape
    assert ink[110:210, 68:76].min() > 0.95
    assert ink[110:210, 238:246].mean() == pytest.approx(0.5, abs=0.03)
    assert ink[:, 100:120].max() < 0.1
    assert ink[20:80].max() < (0.4 if light == "shadow" else 0.1)


@pytest.mark.parametrize("noise", [2, 8, 20])
def test_noise_is_not_ink(noise):
    photo = 150 + np.random.default_rng(noise).normal(0, noise, (300, 320))
    assert not find_ink(photo.clip(0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize("light", [(0.3, 1), (0.6, 1), (1, 0.5)])
def test_falling_light_is_not_ink(light):
    photo = np.broadcast_to(240 * np.linspace(*light, 320), (300, 320))
    assert not find_ink(photo.astype(np.uint8)).any()


@pytest.mark.parametrize("ink, found", [(192, False), (180, True)])
def test_a_contrast_of_4_percent_is_paper_and_10_percent_is_ink(ink, found):
    assert find_ink(pixels(FOUR, ink=ink, paper=200)).any() == found


@pytest.mark.parametrize("pen", [1, 60])
def test_the_thinnest_and_the_broadest_pen_are_found(pen):
    photo = pixels(FOUR, pen=pen, ink=0, paper=255)
    ink = find_ink(photo) > 0.5
    away = sliding(np.pad(photo, 3, mode="edge"), 7, np.minimum) > 0
    assert ink[photo == 0].mean() > 0.95 and not ink[away].any()


def test_peak_is_the_weakest_of_the_strongest_2000th():
    values = RNG.permutation(np.arange(10_000.0))
    assert peak(values.reshape(100, 100)) == 9_995
    assert peak(np.array([[3.0, 7.0]])) == 7
