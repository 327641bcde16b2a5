"""Where the ink is: which channel shows it, whether it is dark or light, and how much of it there is, by hand."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from photos import FOUR, ONE, SEVEN, ZERO, written
from PIL import Image

from src.extras.paper.ink import closing, find_ink, is_dark_on_light, peak, slide, telling_channel

DRAWN = {"0": ZERO, "1": ONE, "4": FOUR, "7": SEVEN}
NOISE = np.random.default_rng(0)


def pixels(strokes, **options) -> np.ndarray:
    return np.asarray(written(strokes, **options))


def light_of(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """How much light falls on every pixel, 0 to 1."""
    y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    return {
        "even": 0 * x + 1,
        "slope": 0.4 + 0.6 * x,
        "shadow": np.where(x + 0.3 * y < 0.6, 0.5, 1),
    }[kind]


# Which channel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lighter", [0, 12])
@pytest.mark.parametrize(
    "ink, channel", [((200, 60, 60), 0), ((0, 140, 40), 0), ((90, 80, 255), 2)]
)
def test_a_colored_pen_that_is_nearly_as_bright_as_the_paper_is_seen_in_the_channel_that_shows_it_best(
    ink, channel, lighter
):
    gray = Image.new("RGB", (1, 1), ink).convert("L").getpixel((0, 0))
    photo = written(FOUR, ink=ink, paper=(gray + lighter,) * 3, mode="RGB")
    assert np.ptp(np.asarray(photo.convert("L"))) == lighter
    assert np.array_equal(telling_channel(photo), np.asarray(photo.getchannel(channel)))


@pytest.mark.parametrize(
    "ink, paper", [((30, 30, 40), (250, 240, 200)), ((20, 20, 160), (240, 240, 240))]
)
def test_a_dark_pen_is_seen_in_gray(ink, paper):
    photo = written(SEVEN, ink=ink, paper=paper, mode="RGB")
    assert np.array_equal(telling_channel(photo), np.asarray(photo.convert("L")))


def test_a_gray_photo_is_taken_as_it_is():
    photo = written(SEVEN)
    assert np.array_equal(telling_channel(photo), np.asarray(photo))


# Dark or light --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("light", ["even", "slope", "shadow"])
@pytest.mark.parametrize("pen", [4, 8, 20, 36])
@pytest.mark.parametrize("name", DRAWN)
def test_dark_strokes_and_light_ones_are_told_apart(name, pen, light):
    for ink, paper, dark in ((30, 220, True), (220, 30, False)):
        photo = pixels(DRAWN[name], pen=pen, ink=ink, paper=paper) * light_of(light, (300, 320))
        photo = (photo + NOISE.normal(0, 3, photo.shape)).clip(0, 255).astype(np.uint8)
        assert is_dark_on_light(photo) == dark


@pytest.mark.parametrize("size", [(40, 40), (900, 700), (200, 640)])
def test_dark_and_light_at_other_sizes(size):
    pen = min(size) // 15
    assert is_dark_on_light(pixels(FOUR, size=size, pen=pen))
    assert not is_dark_on_light(pixels(FOUR, size=size, pen=pen, ink=230, paper=20))


# How much -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("light", ["even", "slope", "shadow"])
def test_ink_is_a_part_of_the_papers_brightness_whatever_the_light(light):
    """Paper of 200; ink of 50 takes away 3/4 of its light, one of 125 takes half as much: 3/8."""
    photo = np.full((300, 320), 200.0)
    photo[100:220, 60:84], photo[100:220, 230:254] = 50, 125
    ink = find_ink((photo * light_of(light, photo.shape)).round().astype(np.uint8))
    assert ink.dtype == np.float32 and ink.shape == photo.shape
    full, half = ink[110:210, 68:76], ink[110:210, 238:246]
    assert full.min() > 0.95 and half.mean() == pytest.approx(0.5, abs=0.03)
    assert ink[:, 100:120].max() < 0.1 and ink[20:80].max() < (0.4 if light == "shadow" else 0.1)


@pytest.mark.parametrize("brightness", [0, 1, 100, 254, 255])
def test_in_a_uniform_picture_there_is_none(brightness):
    assert not find_ink(np.full((300, 200), brightness, np.uint8)).any()


@pytest.mark.parametrize("noise", [2, 8, 20])
def test_in_noise_there_is_none(noise):
    photo = 150 + np.random.default_rng(noise).normal(0, noise, (300, 320))
    assert not find_ink(photo.clip(0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize("light", [(0.3, 1), (0.6, 1), (1, 0.5)])
def test_in_light_that_falls_off_there_is_none(light):
    photo = np.broadcast_to(240 * np.linspace(*light, 320), (300, 320)).astype(np.uint8)
    assert not find_ink(photo).any()


@pytest.mark.parametrize("ink, found", [(192, False), (180, True)])
def test_what_is_4_percent_darker_is_paper_what_is_10_percent_darker_is_ink(ink, found):
    assert find_ink(pixels(FOUR, ink=ink, paper=200)).any() == found


def test_the_thinnest_pen_and_the_broadest():
    for pen in (1, 60):
        photo = pixels(FOUR, pen=pen, ink=0, paper=255)
        ink = find_ink(photo) > 0.5
        assert (
            ink[photo == 0].mean() > 0.95
            and ink[slide(np.pad(photo, 3, mode="edge"), 7, np.minimum) > 0].mean() == 0
        )


# Windows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("function", [np.maximum, np.minimum])
def test_slide_is_the_extreme_of_every_window(k, function):
    x = NOISE.integers(0, 256, (13, 17)).astype(np.uint8)
    assert np.array_equal(
        slide(x, k, function), function.reduce(sliding_window_view(x, (k, k)), axis=(2, 3))
    )
    assert np.array_equal(
        slide(x, k, function, (1,)), function.reduce(sliding_window_view(x, k, 1), axis=2)
    )


def test_closing_fills_dark_details_that_are_narrower_and_nothing_else():
    x = np.full((30, 40), 200, np.uint8)
    x[10:20, 5:9] = 50  # 4 wide
    x[5:25, 20:32] = 60  # 12 wide
    x[15, 36] = 250
    filled = closing(x, 5)
    expected = x.copy()
    expected[10:20, 5:9] = 200
    assert np.array_equal(filled, expected)


def test_peak_is_what_the_strongest_of_2000_pixels_reach():
    values = NOISE.permutation(np.arange(10_000.0))
    assert peak(values.reshape(100, 100)) == 9_995  # the weakest of the five strongest
    assert peak(np.array([[3.0, 7.0]])) == 7
