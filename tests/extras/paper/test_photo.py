"""Digits extracted from drawn photos, compared with the geometry they were drawn with."""

import numpy as np
import pytest
from photos import FOUR, ONE, SEVEN, ZERO, write_on, written
from PIL import Image, ImageDraw
from program import ROOT
from torchvision.datasets import MNIST

from src.data.datasets import read_digits
from src.errors import InputError
from src.extras.paper.photo import ExtractedDigit, extract_digit
from src.extras.paper.render import center_of_mass, pen_width
from src.extras.paper.strokes import DATASETS

DIGIT_STROKES = DATASETS["DigitsDataModule"]
MNIST_STROKES = DATASETS["MNISTDataModule"]
HAS_MNIST = (ROOT / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file()
RNG = np.random.default_rng(0)

each_digit = pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])


def extract(photo: Image.Image, invert: str = "auto") -> ExtractedDigit:
    return extract_digit(photo, 28, MNIST_STROKES, invert)


def image_of(photo: Image.Image, invert: str = "auto") -> np.ndarray:
    return extract(photo, invert).image


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def assert_refused(photo: Image.Image, invert: str = "auto") -> None:
    with pytest.raises(InputError, match="no strokes were found"):
        extract(photo, invert)


def to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


# Images of the dataset


@pytest.mark.parametrize("invert", ["auto", "yes", "no"])
def test_images_of_the_digits_are_unchanged(invert):
    for image in read_digits("test")[0][:, 0].numpy():
        shown = 255 - image if invert == "yes" else image
        found = extract_digit(Image.fromarray(shown), 8, DIGIT_STROKES, invert)
        assert np.array_equal(found.image, image)
        assert found.box is None and found.digits == 1
        if invert == "auto":
            inverted = Image.fromarray(255 - image)
            found = extract_digit(inverted, 8, DIGIT_STROKES, invert)
            assert np.array_equal(found.image, image)


@pytest.mark.real_data
@pytest.mark.skipif(not HAS_MNIST, reason="needs the real MNIST under data/")
def test_images_of_mnist_are_unchanged_in_every_mode():
    images = MNIST(ROOT / "data", train=False).data.numpy()
    for image in images[:2000]:
        gray = Image.fromarray(image)
        inverted = Image.fromarray(255 - image)
        for photo in (gray, gray.convert("RGB"), inverted):
            assert np.array_equal(image_of(photo), image)


# Place and size


@pytest.mark.parametrize("size", [(320, 300), (640, 480), (300, 620), (1200, 900)])
@each_digit
def test_the_box_is_where_the_strokes_were_drawn(strokes, size):
    side = min(size)
    pen = side // 20
    points = np.array([point for stroke in strokes for point in stroke]) * side
    corner = (np.array(size) - side) / 2
    low = corner + points.min(0) - pen / 2
    high = corner + points.max(0) + pen / 2
    found = extract(written(strokes, size, pen))
    assert found.box == pytest.approx([*(low / size), *(high / size)], abs=0.012)
    assert found.digits == 1


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR])  # the foot of a seven would be cut off
@pytest.mark.parametrize("pen", [8, 16, 30])
def test_mnist_strokes_are_20_pixels_long_with_their_mass_in_the_center(strokes, pen):
    image = image_of(written(strokes, pen=pen))
    rows, columns = np.nonzero(image > 127)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
    assert center_of_mass(image) == pytest.approx((14.5, 14.5), abs=0.1)
    assert image.max() > 230 and image[0].max() == image[:, 0].max() == 0


@each_digit
def test_strokes_of_the_digits_are_8_pixels_tall_with_their_box_in_the_center(strokes):
    image = extract_digit(written(strokes), 8, DIGIT_STROKES).image
    rows, columns = np.nonzero(image > 64)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 8
    for places in (rows, columns):
        assert abs((places.min() + places.max() + 1) / 2 - 4) <= 0.5


@pytest.mark.parametrize("width, height", [(200, 40), (40, 200)])
def test_the_aspect_ratio_is_kept(width, height):
    photo = Image.new("L", (320, 300), 220)
    photo.paste(30, (60, 50, 60 + width, 50 + height))
    image = image_of(photo) > 127
    size = (image.any(0).sum(), image.any(1).sum())
    assert size == pytest.approx((width / 10, height / 10), abs=1)


@pytest.mark.parametrize("pen, expected", [(2, 2.0), (6, 2.0), (40, 20 * 40 / 220)])
def test_a_thin_pen_is_broadened_and_a_broad_one_is_not(pen, expected):
    """The broad line is 180 + 40 pixels long, with its round ends, and becomes 20 pixels long."""
    image = image_of(written([[(0.5, 0.2), (0.5, 0.8)]], pen=pen)) / 255
    assert image[10:18].sum(1).mean() == pytest.approx(expected, abs=0.4)


def test_pen_width_is_the_width_of_the_line():
    ink = np.zeros((300, 300), np.uint8)
    ink[50:250, 100:112] = 255  # 2 * 200 * 12 / (2 * (200 + 12)) = 11.3
    assert pen_width(ink) == pytest.approx(11.3, abs=0.1)
    large = written(ZERO, (1280, 1200), 40, ink=255, paper=0)
    smooth = large.resize((320, 300), Image.Resampling.BOX)
    assert pen_width(np.asarray(smooth)) == pytest.approx(10, abs=0.8)


@pytest.mark.parametrize("size", [(20, 18), (31, 28), (4000, 3000)])
def test_tiny_and_huge_pictures_give_the_same_image(size):
    image = image_of(written(FOUR, size, max(1, min(size) // 15)))
    assert correlation(image, image_of(written(FOUR, (320, 300), 20))) > 0.85


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 3), (28, 1), (5000, 2)])
def test_degenerate_sizes_are_refused_or_read(size):
    assert_refused(Image.new("L", size, 200))
    noise = Image.fromarray(RNG.integers(0, 256, size[::-1], dtype=np.uint8))
    try:
        assert image_of(noise).shape == (28, 28)
    except InputError as error:
        assert "no strokes were found" in str(error)


# Polarity


@each_digit
def test_a_negative_gives_the_same(strokes):
    dark = written(strokes, ink=30, paper=215)
    light = written(strokes, ink=225, paper=40)
    assert np.array_equal(image_of(dark), image_of(dark, "yes"))
    assert np.array_equal(image_of(light), image_of(light, "no"))
    assert correlation(image_of(dark), image_of(light)) > 0.98


def test_invert_overrules_the_detected_polarity():
    """The hole of a dark ring is a light spot."""
    ring = written(ZERO, pen=24)
    points = np.array(ZERO[0]) * 300 + (10, 0)
    inner = [*(points.min(0) + 12) / (320, 300), *(points.max(0) - 12) / (320, 300)]
    found = extract(ring, "no")
    assert found.box == pytest.approx(inner, abs=0.02)
    assert found.image[14, 14] == 255 and image_of(ring)[14, 14] == 0


# Light, specks, lines


@each_digit
def test_uneven_light_changes_almost_nothing(strokes):
    photo = np.asarray(written(strokes), float)
    slope = np.linspace(0.4, 1, 320)
    shadow = np.where(np.arange(320) < 130, 0.5, 1.0)
    for light in (slope, slope[::-1], shadow):
        shaded = to_image(photo * light + RNG.normal(0, 2, photo.shape))
        assert correlation(image_of(shaded), image_of(written(strokes))) > 0.97


def assert_ignored(marked: Image.Image, clean: Image.Image) -> None:
    found = extract(marked)
    expected = extract(clean)
    assert found.digits == 1 and found.box == expected.box
    assert correlation(found.image, expected.image) > 0.999


@each_digit
def test_specks_are_ignored(strokes):
    photo = written(strokes)
    draw = ImageDraw.Draw(photo)
    for x, y in ((20, 20), (290, 40), (30, 270), (300, 150), (160, 285)):
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=20)
    assert_ignored(photo, written(strokes))


@pytest.mark.parametrize(
    "line", [(0, 6, 320, 6), (0, 290, 320, 299), (4, 0, 4, 300), (312, 0, 318, 300)]
)
@each_digit
def test_a_line_that_reaches_the_border_is_ignored(strokes, line):
    photo = written(strokes)
    ImageDraw.Draw(photo).line(line, fill=30, width=7)
    assert_ignored(photo, written(strokes))


def test_strokes_that_reach_the_border_are_read_if_there_are_no_others():
    photo = Image.new("L", (320, 300), 220)
    ImageDraw.Draw(photo).line([(150, 0), (160, 299)], fill=30, width=20)
    found = extract(photo)
    assert found.box[1] == 0 and found.box[3] == 1
    assert found.image[5:23, 13:16].mean() > 150


# Number of digits


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_largest_of_several_digits_is_read_and_they_are_counted(count):
    photo = Image.new("L", (900, 300), 220)
    write_on(photo, SEVEN, 16, 40)
    for strokes, middle in ((FOUR, 0.15), (ONE, 0.85))[: count - 1]:
        write_on(photo, strokes, 16, 40, middle, side=0.8)
    found = extract(photo)
    assert found.digits == count and 0.3 < found.box[0] < found.box[2] < 0.7
    assert correlation(found.image, image_of(written(SEVEN))) > 0.97


def test_the_bar_of_a_five_belongs_to_it():
    photo = Image.new("L", (320, 300), 220)
    draw = ImageDraw.Draw(photo)
    body = [(120, 60), (110, 140), (170, 150), (190, 190), (160, 230), (110, 230)]
    draw.line(body, fill=40, width=16)
    draw.line([(138, 60), (200, 58)], fill=40, width=16)  # 10 pixels away
    found = extract(photo)
    assert found.digits == 1 and found.box[2] * 320 == pytest.approx(200, abs=4)


# Nothing to read


@pytest.mark.parametrize("invert", ["auto", "yes", "no"])
@pytest.mark.parametrize("size", [(28, 28), (300, 200)])
@pytest.mark.parametrize("brightness", [0, 1, 60, 99, 128, 170, 254, 255])
def test_uniform_pictures_are_refused(brightness, size, invert):
    assert_refused(Image.new("L", size, brightness), invert)


@pytest.mark.parametrize("size", [(28, 28), (300, 200)])
def test_noise_is_refused(size):
    noisy = 60 + RNG.normal(0, 4, size[::-1])
    assert_refused(to_image(noisy))
    assert_refused(to_image(255 - noisy))
