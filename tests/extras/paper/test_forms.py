"""Test digit extraction from small images, forms, ruled paper, thick markers and screenshots."""

import numpy as np
import pytest
from digit_photos import assert_same_digit, correlation, each_digit, extract, image_of, to_image
from photos import FOUR, ONE, SEVEN, ZERO, write_on, written
from PIL import Image, ImageDraw

from src.errors import InputError

# Images of the same size as the dataset images


@pytest.mark.parametrize("brightness", [245, 160])
@each_digit
def test_gray_paper_of_28_pixels_becomes_black(strokes, brightness):
    expected = image_of(written(strokes))
    paper = brightness * (1 - expected / 255)
    image = image_of(to_image(paper))
    assert correlation(image, expected) > 0.94
    assert image[0].max() == 0


@pytest.mark.parametrize("strokes", [ZERO, ONE, FOUR])
def test_white_strokes_off_the_center_of_28_pixels_are_centered(strokes):
    expected = image_of(written(strokes))
    moved = np.roll(expected, (3, -3), axis=(0, 1))
    image = image_of(Image.fromarray(moved))
    assert correlation(image, expected) > 0.94


# Frames


def draw_boxes(picture: Image.Image, count: int, side: int, gap: int = 0) -> None:
    """Draw a centered row of empty boxes."""
    draw = ImageDraw.Draw(picture)
    left = (picture.width - count * side - (count - 1) * gap) // 2
    top = (picture.height - side) // 2
    for _ in range(count):
        draw.rectangle([left, top, left + side, top + side], outline=40, width=3)
        left += side + gap


def rotate(picture: Image.Image, angle: float) -> Image.Image:
    return picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=220)


@pytest.mark.parametrize(
    "count, gap",
    [
        (1, 0),
        (5, 12),
    ],
)
@pytest.mark.parametrize(
    "angle, pen",
    [
        (0, 5),
        (4, 8),
    ],
)
@each_digit
def test_a_digit_in_a_box_of_a_form_is_read_without_the_box(strokes, angle, pen, count, gap):
    form = Image.new("L", (600, 300), 220)
    write_on(form, strokes, pen, 40, side=0.3)
    clean = rotate(form, angle)
    draw_boxes(form, count, 90, gap)
    assert_same_digit(rotate(form, angle), clean)


@pytest.mark.parametrize("count", [1, 5])
def test_empty_boxes_are_no_zero(count):
    form = Image.new("L", (600, 300), 220)
    draw_boxes(form, count, 90)
    with pytest.raises(InputError, match="no strokes were found"):
        extract(rotate(form, 4))


def test_a_digit_beside_an_empty_box_is_read():
    form = Image.new("L", (600, 300), 220)
    draw_boxes(form, 1, 90)
    clean = Image.new("L", (600, 300), 220)
    for picture in (form, clean):
        write_on(picture, SEVEN, 8, 40, middle=0.85, side=0.5)
    assert_same_digit(form, clean)


# Ruled lines


@pytest.mark.parametrize("lean", [0, 8])
@pytest.mark.parametrize("strokes", [ZERO, FOUR, SEVEN])
def test_a_margin_line_through_a_digit_is_removed(strokes, lean):
    clean = written(strokes)
    page = clean.copy()
    draw = ImageDraw.Draw(page)
    draw.line([(145 - lean, -5), (145 + lean, 305)], fill=60, width=3)
    found = extract(page)
    expected = extract(clean)
    assert correlation(found.image, expected.image) > 0.93
    assert found.box == pytest.approx(expected.box, abs=0.02)


# Thick markers


@pytest.mark.parametrize("strokes", [ZERO, FOUR, SEVEN])
def test_a_marker_that_fills_the_picture_is_read(strokes):
    drawing = written(strokes, (420, 400), pen=56)
    expected = extract(drawing)
    box = np.array(expected.box) * (420, 400, 420, 400)
    cropped = drawing.crop(box.round().tolist())
    assert correlation(image_of(cropped), expected.image) > 0.9


# Screenshots of drawing programs


@pytest.mark.parametrize("toolbar", [60, 230])
@each_digit
def test_a_toolbar_above_a_dark_canvas_is_ignored(strokes, toolbar):
    clean = written(strokes, pen=12, ink=255, paper=30)
    window = clean.copy()
    draw = ImageDraw.Draw(window)
    draw.rectangle([0, 0, 320, 32], fill=toolbar)
    for x in range(20, 220, 36):
        draw.circle((x, 16), 10, fill=(toolbar + 120) % 256)
    assert_same_digit(window, clean)
