"""Compare digits extracted from synthetic photos with the known geometry of the drawings."""

import numpy as np
import pytest
from digit_photos import assert_same_digit, correlation, each_digit, extract, image_of
from photos import FOUR, ONE, SEVEN, ZERO, write_on, written
from PIL import Image, ImageDraw
from program import ROOT
from torchvision.datasets import MNIST

from src.data.datasets import read_digits
from src.errors import InputError
from src.extras.paper.photo import extract_digit
from src.extras.paper.strokes import DATASETS, center_of_mass

DIGIT_STROKES = DATASETS["DigitsDataModule"]
MNIST_FILE = ROOT / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
RNG = np.random.default_rng(0)


def assert_refused(photo: Image.Image, invert: str = "auto") -> None:
    with pytest.raises(InputError, match="no strokes were found"):
        extract(photo, invert)


# Dataset images


@pytest.mark.parametrize("invert", ["auto", "yes", "no"])
def test_images_of_the_digits_are_at_most_inverted(invert):
    images, _ = read_digits("test")
    for image in images[:, 0].numpy():
        shown = 255 - image if invert == "yes" else image
        found = extract_digit(Image.fromarray(shown), 8, DIGIT_STROKES, invert)
        assert np.array_equal(found.image, image)
        assert found.box is None
        assert found.digits == 1


@pytest.mark.real_data
@pytest.mark.skipif(not MNIST_FILE.is_file(), reason="needs the real MNIST under data/")
def test_images_of_mnist_are_unchanged_in_every_mode():
    images = MNIST(ROOT / "data", train=False).data.numpy()
    for image in images[:2000]:
        gray = Image.fromarray(image)
        inverted = Image.fromarray(255 - image)
        for photo in (gray, gray.convert("RGB"), inverted):
            assert np.array_equal(image_of(photo), image)


# Position and size


@pytest.mark.parametrize(
    "size",
    [
        (320, 300),
        (300, 620),
    ],
)
@each_digit
def test_the_box_is_where_the_strokes_were_drawn(strokes, size):
    side = min(size)
    pen = side // 20
    points = np.array([point for stroke in strokes for point in stroke])
    corner = (np.array(size) - side) / 2
    low = corner + side * points.min(0) - pen / 2
    high = corner + side * points.max(0) + pen / 2
    found = extract(written(strokes, size, pen))
    expected = [*(low / size), *(high / size)]
    assert found.box == pytest.approx(expected, abs=0.012)
    assert found.digits == 1


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR])  # a seven's tail would be cut off
@pytest.mark.parametrize("pen", [8, 30])
def test_mnist_strokes_are_20_pixels_long_with_their_mass_in_the_center(strokes, pen):
    image = image_of(written(strokes, pen=pen))
    rows, columns = np.nonzero(image > 127)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    assert longer in (19, 20, 21)
    assert center_of_mass(image) == pytest.approx((14.5, 14.5), abs=0.1)
    assert image.max() > 230
    assert image[0].max() == 0
    assert image[:, 0].max() == 0


@each_digit
def test_strokes_of_the_digits_are_8_pixels_tall_with_their_box_in_the_center(strokes):
    image = extract_digit(written(strokes), 8, DIGIT_STROKES).image
    rows, columns = np.nonzero(image > 64)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    assert longer == 8
    for places in (rows, columns):
        middle = (places.min() + places.max() + 1) / 2
        assert middle == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize(
    "pen, expected",
    [
        (2, 2.0),
        (6, 2.0),
        (40, 20 * 40 / 220),
    ],
)
def test_thin_strokes_are_thickened_and_thick_ones_are_not(pen, expected):
    """The thick line is 220 pixels long (180 plus 20 per round cap) and is scaled to 20 pixels."""
    line = [(0.5, 0.2), (0.5, 0.8)]
    image = image_of(written([line], pen=pen))
    width = image[10:18].sum(axis=1).mean() / 255
    assert width == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 600),
        (600, 2),
        (28, 1),
    ],
)
def test_degenerate_sizes_are_refused_or_read(size):
    assert_refused(Image.new("L", size, 200))
    noise = RNG.integers(0, 256, size[::-1], dtype=np.uint8)
    try:
        image = image_of(Image.fromarray(noise))
    except InputError as error:
        assert "no strokes were found" in str(error)
    else:
        assert image.shape == (28, 28)


# Polarity


def test_invert_overrules_the_detected_polarity():
    """With "no", the light hole in a dark ring is taken for the digit."""
    ring = written(ZERO, pen=24)
    points = 300 * np.array(ZERO[0]) + (10, 0)
    low = (points.min(0) + 12) / (320, 300)
    high = (points.max(0) - 12) / (320, 300)
    hole = extract(ring, "no")
    assert hole.box == pytest.approx([*low, *high], abs=0.02)
    assert hole.image[14, 14] == 255
    assert image_of(ring)[14, 14] == 0


# Specks and lines


@each_digit
def test_specks_are_ignored(strokes):
    photo = written(strokes)
    draw = ImageDraw.Draw(photo)
    for place in ((20, 20), (290, 40), (30, 270), (300, 150), (160, 285)):
        draw.circle(place, 2, fill=20)
    assert_same_digit(photo, written(strokes))


@pytest.mark.parametrize(
    "line",
    [
        (0, 290, 320, 299),
        (4, 0, 4, 300),
    ],
)
@each_digit
def test_a_line_that_reaches_the_border_is_ignored(strokes, line):
    photo = written(strokes)
    ImageDraw.Draw(photo).line(line, fill=30, width=7)
    assert_same_digit(photo, written(strokes))


@pytest.mark.parametrize("pen", [3, 20])
def test_strokes_that_reach_the_border_are_read_if_there_are_no_others(pen):
    photo = Image.new("L", (320, 300), 220)
    ImageDraw.Draw(photo).line([(150, 0), (160, 299)], fill=30, width=pen)
    found = extract(photo)
    assert found.box[1] == 0
    assert found.box[3] == 1
    assert found.image[5:23, 13:16].mean() > 120


# Number of digits


@pytest.mark.parametrize("count", [1, 3])
def test_the_largest_of_several_digits_is_read_and_they_are_counted(count):
    photo = Image.new("L", (900, 300), 220)
    write_on(photo, SEVEN, 16, 40)
    others = [(FOUR, 0.15), (ONE, 0.85)]
    for strokes, middle in others[: count - 1]:
        write_on(photo, strokes, 16, 40, middle, side=0.8)
    found = extract(photo)
    assert found.digits == count
    assert 0.3 < found.box[0] < found.box[2] < 0.7
    assert correlation(found.image, image_of(written(SEVEN))) > 0.97


# Photos without strokes


@pytest.mark.parametrize("invert", ["auto", "yes"])
@pytest.mark.parametrize(
    "size",
    [
        (28, 28),
        (300, 200),
    ],
)
@pytest.mark.parametrize("brightness", [0, 99, 255])
@pytest.mark.filterwarnings("error")  # e.g. NumPy's "Mean of empty slice"
def test_uniform_pictures_are_refused(brightness, size, invert):
    assert_refused(Image.new("L", size, brightness), invert)
