"""From a photo to what the dataset would have had: expected places and sizes are those the strokes were drawn with."""

from collections import deque

import numpy as np
import pytest
import torch
from photos import FOUR, ONE, SEVEN, ZERO, write_on, written
from PIL import Image, ImageDraw
from program import ROOT
from scipy import ndimage

from src.data.datasets import DATASETS, read_digits
from src.data.modules import MNISTDataModule
from src.errors import InputError
from src.extras.paper.photo import choose, connected, develop, drawn, pen_width, spread
from src.inference.predictor import Predictor

MNIST, DIGITS = DATASETS["mnist"].strokes, DATASETS["digits"].strokes
HAS_MNIST = (ROOT / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file()
CHANCE = np.random.default_rng(0)


def given(photo: Image.Image, invert: str = "auto") -> np.ndarray:
    """What a network of MNIST is given of it, uint8 [28, 28]."""
    return develop(photo, 28, MNIST, invert).image


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two images: 1 if they are the same, but for their contrast."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def refusal(photo: Image.Image, invert: str = "auto") -> str:
    with pytest.raises(InputError) as caught:
        given(photo, invert)
    return str(caught.value)


# Images of the dataset ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("invert", ["auto", "no"])
def test_images_of_the_digits_go_through_untouched(invert):
    for image in read_digits("test")[0][:, 0].numpy():
        made = develop(Image.fromarray(image), 8, DIGITS, invert)
        assert np.array_equal(made.image, image) and made.box is None and made.digits == 1


@pytest.mark.parametrize("invert", ["auto", "yes"])
def test_dark_on_light_they_are_swapped_and_nothing_else(invert):
    for image in read_digits("test")[0][:, 0].numpy():
        assert np.array_equal(develop(Image.fromarray(255 - image), 8, DIGITS, invert).image, image)


@pytest.mark.real_data
@pytest.mark.skipif(not HAS_MNIST, reason="needs the real MNIST under data/")
def test_images_of_mnist_go_through_untouched_in_every_mode():
    data = MNISTDataModule(root=str(ROOT / "data"))
    data.prepare_data()
    for image in data.sets["test"].images[:2000, 0].numpy():
        assert np.array_equal(given(Image.fromarray(image)), image)
        assert np.array_equal(given(Image.fromarray(255 - image)), image)
    assert np.array_equal(given(Image.fromarray(image).convert("RGB")), image)


def test_an_image_of_its_size_that_is_off_the_center_is_a_photo():
    image = np.zeros((28, 28), np.uint8)
    image[2:22, 4:7] = 255
    made = develop(Image.fromarray(image), 28, MNIST)
    assert made.box == pytest.approx((4 / 28, 2 / 28, 7 / 28, 22 / 28), abs=0.02)
    rows, columns = np.nonzero(made.image > 127)
    assert np.ptp(rows) + 1 == pytest.approx(20, abs=1) and abs(columns.mean() + 0.5 - 14.5) < 0.3


# Place and size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(320, 300), (640, 480), (300, 620), (1200, 900)])
@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_the_strokes_are_found_where_they_were_drawn(strokes, size):
    side, pen = min(size), min(size) // 20
    points = np.array([point for stroke in strokes for point in stroke])
    corner = (np.array(size) - side) / 2
    low, high = corner + points.min(0) * side - pen / 2, corner + points.max(0) * side + pen / 2
    expected = [*(low / size), *(high / size)]
    made = develop(written(strokes, size, pen), 28, MNIST)
    assert made.box == pytest.approx(expected, abs=0.012) and made.digits == 1


@pytest.mark.parametrize(
    "strokes", [ZERO, ONE, FOUR]
)  # a seven's foot is cut off, its mass is too far above
@pytest.mark.parametrize("pen", [8, 16, 30])
def test_they_are_as_large_as_in_the_dataset_and_their_mass_is_in_the_middle(strokes, pen):
    image = given(written(strokes, pen=pen))
    rows, columns = (np.nonzero((image > 127).any(axis))[0] for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
    y, x = (
        np.average(np.arange(28) + 0.5, weights=image.sum(axis).astype(float)) for axis in (1, 0)
    )
    assert (y, x) == pytest.approx((14.5, 14.5), abs=0.1)  # MNIST has it in the middle of pixel 14
    assert image.max() > 230 and image[0].max() == image[:, 0].max() == 0


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_the_digits_are_8_pixels_tall_and_have_their_box_in_the_middle(strokes):
    made = develop(written(strokes), 8, DIGITS)
    places = [np.nonzero((made.image > 64).any(axis))[0] for axis in (1, 0)]
    assert max(np.ptp(place) for place in places) + 1 == 8
    assert all(abs((place[0] + place[-1] + 1) / 2 - 4) <= 0.5 for place in places)


def test_a_stroke_is_as_high_as_it_is_wide_only_if_it_was_drawn_so():
    """A bar of 200 x 40 pixels: 20 x 4 of the dataset, whichever way it lies."""
    for wide, tall in ((200, 40), (40, 200)):
        photo = Image.new("L", (320, 300), 220)
        photo.paste(30, (60, 50, 60 + wide, 50 + tall))
        image = given(photo) > 127
        assert (image.any(0).sum(), image.any(1).sum()) == pytest.approx(
            (wide / 10, tall / 10), abs=1
        )


@pytest.mark.parametrize("pen, expected", [(2, MNIST.pen), (6, MNIST.pen), (40, 20 * 40 / 220)])
def test_a_thin_pen_is_broadened_to_that_of_the_dataset_and_a_broad_one_is_left(pen, expected):
    """The broad one's line is 180 + 40 pixels long, with its round ends, and becomes 20 pixels long."""
    image = given(written([[(0.5, 0.2), (0.5, 0.8)]], pen=pen)) / 255
    assert image[10:18].sum(1).mean() == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize("size", [(20, 18), (31, 28), (4000, 3000)])
def test_tiny_and_huge_pictures_are_read_as_others(size):
    pen = max(1, min(size) // 15)
    assert alike(given(written(FOUR, size, pen)), given(written(FOUR, (320, 300), 20))) > 0.85


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 3), (28, 1), (5000, 2)])
def test_pictures_that_hold_no_digit_are_refused_or_read_but_never_break(size):
    refusal(Image.new("L", size, 200))
    noise = Image.fromarray(CHANCE.integers(0, 256, size[::-1], dtype=np.uint8))
    try:
        assert given(noise).shape == (28, 28)
    except InputError as error:
        assert "no strokes were found" in str(error)


# Dark or light --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_a_negative_gives_the_same(strokes):
    dark, light = written(strokes, ink=30, paper=215), written(strokes, ink=225, paper=40)
    for invert in ("yes", "no"):
        photo = {"yes": dark, "no": light}[invert]
        assert np.array_equal(given(photo), given(photo, invert))
    assert alike(given(dark), given(light)) > 0.98


def test_invert_decides_even_against_what_is_seen():
    ring = written(ZERO, pen=24)  # the hole of a dark ring is a light spot
    points = np.array(ZERO[0]) * 300 + (10, 0)
    inner = [*(points.min(0) + 12) / (320, 300), *(points.max(0) - 12) / (320, 300)]
    made = develop(ring, 28, MNIST, "no")
    assert (
        made.box == pytest.approx(inner, abs=0.02)
        and made.image[14, 14] == 255
        and given(ring)[14, 14] == 0
    )


# Light, specks, lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_uneven_light_changes_next_to_nothing(strokes):
    photo = np.asarray(written(strokes), float)
    slope = np.linspace(0.4, 1, 320)
    shadow = np.where(np.arange(320) < 130, 0.5, 1.0)
    for light in (slope, slope[::-1], shadow):
        shaded = Image.fromarray(
            (photo * light + CHANCE.normal(0, 2, photo.shape)).clip(0, 255).astype(np.uint8)
        )
        assert alike(given(shaded), given(written(strokes))) > 0.97


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_specks_are_dropped(strokes):
    photo = written(strokes)
    draw = ImageDraw.Draw(photo)
    for x, y in ((20, 20), (290, 40), (30, 270), (300, 150), (160, 285)):
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=20)
    made, clean = develop(photo, 28, MNIST), develop(written(strokes), 28, MNIST)
    assert made.digits == 1 and made.box == clean.box and alike(made.image, clean.image) > 0.999


@pytest.mark.parametrize(
    "line", [(0, 6, 320, 6), (0, 290, 320, 299), (4, 0, 4, 300), (312, 0, 318, 300)]
)
@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR, SEVEN])
def test_a_line_that_reaches_the_border_is_dropped(strokes, line):
    photo = written(strokes)
    ImageDraw.Draw(photo).line(line, fill=30, width=7)
    made, clean = develop(photo, 28, MNIST), develop(written(strokes), 28, MNIST)
    assert made.digits == 1 and made.box == clean.box and alike(made.image, clean.image) > 0.999


def test_what_reaches_the_border_is_read_if_nothing_else_is_there():
    photo = Image.new("L", (320, 300), 220)
    ImageDraw.Draw(photo).line([(150, 0), (160, 299)], fill=30, width=20)
    made = develop(photo, 28, MNIST)
    assert made.box[1] == 0 and made.box[3] == 1 and made.image[5:23, 13:16].mean() > 150


# How many digits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_several_digits_the_largest_is_read_and_their_number_is_said(count):
    photo = Image.new("L", (900, 300), 220)
    for number, strokes in enumerate((SEVEN, FOUR, ONE)[:count]):
        write_on(
            photo, strokes, 16, 40, middle=(0.5, 0.15, 0.85)[number], side=1 if number == 0 else 0.8
        )
    made = develop(photo, 28, MNIST)
    assert made.digits == count and 0.3 < made.box[0] < made.box[2] < 0.7
    assert alike(made.image, given(written(SEVEN))) > 0.97


def test_a_digit_of_two_pieces_is_one():
    photo = Image.new("L", (320, 300), 220)
    draw = ImageDraw.Draw(photo)
    draw.line(
        [(120, 60), (110, 140), (170, 150), (190, 190), (160, 230), (110, 230)], fill=40, width=16
    )  # a five
    draw.line([(138, 60), (200, 58)], fill=40, width=16)  # its bar, 10 pixels away
    made = develop(photo, 28, MNIST)
    assert made.digits == 1 and made.box[2] * 320 == pytest.approx(200, abs=4)


def test_the_pieces_of_a_digit_by_their_boxes():
    digit, dot, far, speck = (
        [50, 50, 110, 150],
        [112, 60, 120, 68],
        [220, 60, 270, 140],
        [10, 10, 12, 12],
    )
    boxes = np.array([far, digit, dot, speck])
    chosen, digits = choose(boxes, (200, 300))
    assert sorted(chosen) == [1, 2] and digits == 2
    edge = [0, 20, 300, 30]  # larger than all, but it reaches from border to border
    assert choose(np.array([edge, digit]), (200, 300)) == ([1], 1)
    assert choose(np.array([edge]), (200, 300)) == ([0], 1)
    assert (
        choose(np.array([speck]), (200, 300))
        == choose(np.zeros((0, 4), int), (200, 300))
        == ([], 0)
    )


# Nothing to read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("invert", ["auto", "yes", "no"])
@pytest.mark.parametrize("size", [(28, 28), (300, 200)])
@pytest.mark.parametrize("brightness", [0, 1, 60, 99, 128, 170, 254, 255])
def test_in_a_uniform_picture_there_are_no_strokes(brightness, size, invert):
    assert "no strokes were found in it" in refusal(Image.new("L", size, brightness), invert)


@pytest.mark.parametrize("size", [(28, 28), (300, 200)])
def test_in_noise_there_are_none(size):
    noisy = 60 + CHANCE.normal(0, 4, size[::-1])
    for photo in (noisy, 255 - noisy):
        assert "no strokes" in refusal(Image.fromarray(photo.clip(0, 255).astype(np.uint8)))


# From a file ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


def test_transparent_paper_is_white(predictor, tmp_path):
    drawing = written(SEVEN, ink=(0, 0, 0, 255), paper=(0, 0, 0, 0), mode="RGBA")
    drawing.save(tmp_path / "transparent.png")
    written(SEVEN, ink=0, paper=255).save(tmp_path / "white.png")
    transparent, white = (
        predictor.open(str(tmp_path / f"{name}.png")) for name in ("transparent", "white")
    )
    assert torch.equal(transparent.image, white.image) and transparent.box == white.box
    written(SEVEN, ink=(255, 255, 255, 255), paper=(0, 0, 0, 0), mode="RGBA").save(
        tmp_path / "invisible.png"
    )
    with pytest.raises(InputError, match="invisible.png: no strokes were found"):
        predictor.open(str(tmp_path / "invisible.png"))


def test_a_photo_is_turned_upright_before_it_is_read(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    written(SEVEN).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    written(SEVEN).save(tmp_path / "upright.png")
    turned, upright = (
        predictor.open(str(tmp_path / f"{name}.png")) for name in ("turned", "upright")
    )
    assert torch.equal(turned.image, upright.image) and turned.box == pytest.approx(upright.box)


def test_several_digits_are_said_in_a_note(predictor, tmp_path):
    photo = Image.new("L", (700, 300), 220)
    write_on(photo, SEVEN, 16, 40, middle=0.25)
    write_on(photo, FOUR, 16, 40, middle=0.75, side=0.9)
    photo.save(tmp_path / "two.png")
    (note,) = predictor.open(str(tmp_path / "two.png")).notes
    assert note.startswith("there seem to be 2 digits in it; the largest was read")
    written(SEVEN).save(tmp_path / "one.png")
    assert predictor.open(str(tmp_path / "one.png")).notes == []


# The parts of it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8])
def test_connected_pieces_are_those_of_scipy(density):
    for _ in range(20):
        mask = CHANCE.random((int(CHANCE.integers(1, 30)), int(CHANCE.integers(1, 30)))) < density
        runs, labels, boxes = connected(mask)
        expected, count = ndimage.label(mask, np.ones((3, 3)))
        places = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(expected)]
        assert sorted(map(tuple, boxes.tolist())) == sorted(places) and len(boxes) == count
        assert np.array_equal(drawn(runs, mask.shape), mask)
        for piece in range(count):
            part = drawn(runs[labels == piece], mask.shape)
            assert np.array_equal(part, expected == expected[part][0])


def test_a_spiral_is_one_piece():
    """Its rows are joined late, and from the inside out."""
    mask, place, step = np.zeros((41, 41), bool), (0, 0), deque([(0, 1), (1, 0), (0, -1), (-1, 0)])
    for length in [40, 40, *(n for n in range(40, 0, -2) for _ in "12")][1:]:
        for _ in range(length):
            mask[place] = True
            place = place[0] + step[0][0], place[1] + step[0][1]
        step.rotate(-1)
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert connected(mask)[2].tolist() == [[0, 0, 41, 41]]


def test_the_width_of_a_pen_is_that_of_the_line():
    ink = np.zeros((300, 300), np.uint8)
    ink[50:250, 100:112] = 255  # 2 * 200 * 12 / (2 * (200 + 12)) = 11.3
    assert pen_width(ink) == pytest.approx(11.3, abs=0.1)
    smooth = written(ZERO, (1280, 1200), 40, ink=255, paper=0).resize(
        (320, 300), Image.Resampling.BOX
    )
    assert pen_width(np.asarray(smooth)) == pytest.approx(10, abs=0.8)


@pytest.mark.parametrize("radius", [0.3, 0.5, 1, 1.5, 2.3, 4])
def test_spread_is_the_largest_value_within_the_radius(radius):
    x = CHANCE.integers(0, 256, (15, 18)).astype(np.uint8)
    expected = np.zeros_like(x)
    for row, column in np.ndindex(x.shape):
        y, z = np.ogrid[:15, :18]
        expected[row, column] = x[(y - row) ** 2 + (z - column) ** 2 <= radius**2].max()
    assert np.array_equal(spread(x, radius), expected)
