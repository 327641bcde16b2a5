"""Render all kinds of synthetic digit images for `benchmarks/photos.py`.

Each function draws one kind of image from a digit, uint8 [28, 28], and a random generator.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.digit_ink import affine, dot, draw_center_lines, enlarge
from benchmarks.photo_forms import Rng, Shot, blank_sheet, boxes, margin, marker, write
from benchmarks.photographer import (
    PAPER_KINDS,
    encode,
    expose,
    photograph_paper,
    to_image,
)

# RGB colors
INKS = np.array([[0, 0, 0], [0.9, 0.1, 0.1], [0.1, 0.2, 0.8]])
BRIGHT_INKS = np.array([[1, 1, 1], [0.9, 0.9, 0.3], [0.5, 0.8, 1]])
MARKERS = np.array([[0.75, 0.1, 0.15], [0.1, 0.2, 0.65], [0.1, 0.5, 0.2]])


def photograph(digit: np.ndarray, kind: str, rng: Rng) -> tuple[bytes, str]:
    """Draw an image of one of `KINDS`; return its encoded bytes and file extension."""
    image, quality = KINDS[kind](digit, rng)
    return encode(image, quality)


# Images of the dataset's size


def gray_paper(brightness: int, digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a dark 28x28 digit on paper of uniform brightness."""
    return to_image(brightness / 255 * (1 - digit / 255)), None


def shifted(digit: np.ndarray, rng: Rng) -> Shot:
    """Shift a white-on-black 28x28 digit by 2 to 4 pixels along both axes."""
    steps = rng.integers(2, 5, 2) * rng.choice([-1, 1], 2)
    return Image.fromarray(np.roll(digit, steps, (0, 1))), None


# Screens


def _drawing(digit: np.ndarray, rng: Rng) -> np.ndarray:
    """Return noise-free ink, as drawn with a paint program, float [H, W]."""
    width, height = (int(side) for side in rng.integers(240, 641, 2))
    tall = rng.uniform(0.4, 0.7) * min(height, width)
    place = width / 2 + rng.uniform(-0.1, 0.1) * width, height / 2 + 0.05 * height
    to_digit = affine(digit, tall, math.radians(rng.uniform(-5, 5)), place)
    if rng.random() < 0.5:
        return draw_center_lines(digit, to_digit, (width, height), tall * rng.uniform(0.05, 0.12))
    return enlarge(digit, to_digit, (width, height))


def transparent(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw white strokes on a transparent background."""
    ink = _drawing(digit, rng)
    pixels = np.full((*ink.shape, 4), 255, np.uint8)
    pixels[..., 3] = (255 * ink).round()
    if rng.random() < 0.5:
        pixels[ink == 0] = 0
    return Image.fromarray(pixels), None


def paint(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw black or colored strokes on a white background."""
    ink = _drawing(digit, rng)[..., None]
    color = rng.choice(INKS)
    return to_image(1 - ink * (1 - color)), None


def dark_app(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw light strokes on the dark canvas of a paint program, with a toolbar."""
    ink = _drawing(digit, rng)[..., None]
    ground = rng.uniform(10, 50) / 255
    color = rng.choice(BRIGHT_INKS)
    image = to_image(ground + ink * (color - ground))
    width, height = image.size
    bar = round(rng.uniform(0.07, 0.2) * min(height, width))
    bar_gray = int(rng.uniform(255 * ground + 12, 240))
    draw = ImageDraw.Draw(image)
    is_top = rng.random() < 0.5
    end = (width, bar) if is_top else (bar, height)
    draw.rectangle([(0, 0), end], fill=(bar_gray,) * 3)
    for number in range(int(rng.integers(4, 9))):
        along = bar * (0.6 + 1.1 * number)
        x, y = (along, bar / 2) if is_top else (bar / 2, along)
        icon = tuple((bar_gray + int(v)) % 256 for v in rng.uniform(90, 166, 3))
        if rng.random() < 0.5:
            dot(draw, (x, y), 0.3 * bar, icon)
        else:
            box = [x - 0.3 * bar, y - 0.3 * bar, x + 0.3 * bar, y + 0.3 * bar]
            draw.rectangle(box, outline=icon, width=2)
    return image, None


# Paper and boards


def lined(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit on ruled paper."""
    height, width, sheet = blank_sheet(rng)
    step = height * rng.uniform(1 / 14, 1 / 7)
    y = np.arange(height)[:, None] + np.arange(width) * rng.uniform(-0.03, 0.03)
    line = (np.abs((y + rng.uniform(0, step)) % step - step / 2) < 0.9)[..., None]
    sheet = sheet * (1 - line * rng.uniform(0.1, 0.35) * np.array([1, 0.8, 0.4]))
    return _write_on_sheet(digit, sheet, rng)


def _write_on_sheet(
    digit: np.ndarray, sheet: np.ndarray, rng: Rng, tall: float | None = None
) -> Shot:
    height, width, _ = sheet.shape
    tall = tall or rng.uniform(0.3, 0.65) * min(height, width)
    room = tall * 0.62
    x, y = rng.uniform(room, width - room), rng.uniform(room, height - room)
    to_digit = affine(digit, tall, math.radians(rng.uniform(-10, 10)), (x, y))
    return expose(write(sheet, enlarge(digit, to_digit, (width, height)), rng), rng)


def tiny(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit that takes up 6% of the height of a large photo."""
    sheet = np.full((640, 480, 3), rng.uniform(0.8, 1))
    image, quality = _write_on_sheet(digit, sheet, rng, 0.06 * 640)
    return image, quality


def pencil(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw thin gray strokes."""
    height, width, sheet = blank_sheet(rng)
    tall = rng.uniform(0.4, 0.65) * min(height, width)
    to_digit = affine(digit, tall, math.radians(rng.uniform(-8, 8)), (width / 2, height / 2))
    ink = draw_center_lines(digit, to_digit, (width, height), tall * rng.uniform(0.02, 0.04))
    return expose(sheet * (1 - 0.5 * ink[..., None]), rng)


def whiteboard(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit in color on a whiteboard with the reflection of a lamp."""
    height, width, sheet = blank_sheet(rng)
    y, x = np.mgrid[:height, :width]
    lamp = rng.uniform(0, 1, 2) * (height, width)
    distance = np.hypot(y - lamp[0], x - lamp[1]) / min(height, width)
    tall = rng.uniform(0.4, 0.65) * min(height, width)
    to_digit = affine(digit, tall, math.radians(rng.uniform(-8, 8)), (width / 2, height / 2))
    ink = enlarge(digit, to_digit, (width, height))[..., None]
    color = rng.choice(MARKERS)
    glare = 0.25 * np.exp(-((distance / 0.25) ** 2))[..., None]
    return expose(sheet * 0.9 * (1 - ink * (1 - color)) + glare, rng)


def sticky_note(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit on a yellow sticky note on a dark table."""
    height, width, light = blank_sheet(rng)
    picture = light * rng.uniform(0.15, 0.5, 3)
    side = int(0.85 * min(height, width))
    top = int(rng.integers(height - side))
    left = int(rng.integers(width - side))
    note = light[top : top + side, left : left + side] * np.array([1, 0.9, 0.45])
    tall = side * rng.uniform(0.45, 0.65)
    to_digit = affine(digit, tall, math.radians(rng.uniform(-8, 8)), (side / 2, side / 2))
    picture[top : top + side, left : left + side] = write(
        note, enlarge(digit, to_digit, (side, side)), rng
    )
    return expose(picture, rng)


def fax(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a binary image in which 1% of the pixels are flipped."""
    pixels = _drawing(digit, rng) > 0.5
    flipped = pixels ^ (rng.random(pixels.shape) < 0.01)
    return Image.fromarray(~flipped), None


def low_quality(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a blurred photo, saved as JPEG with quality 10."""
    image, _ = photograph_paper("plain", digit, rng)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3))), 10


def tilted(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a page photographed at an angle."""
    image, quality = photograph_paper("plain", digit, rng)
    width, height = image.size
    inset = rng.uniform(0.05, 0.2, 2) * width
    corners = (inset[0], 0, 0, height, width, height, width - inset[1], 0)
    bicubic = Image.Resampling.BICUBIC
    return image.transform(image.size, Image.Transform.QUAD, corners, bicubic), quality


KINDS: dict[str, Callable[[np.ndarray, Rng], Shot]] = {
    **{kind: partial(photograph_paper, kind) for kind in PAPER_KINDS},
    **{f"gray {n}": partial(gray_paper, n) for n in (245, 215, 200, 160)},
    "shifted": shifted,
    "five boxes": partial(boxes, 5),
    "one box": partial(boxes, 1),
    "margin": margin,
    "marker": marker,
    "transparent": transparent,
    "dark app": dark_app,
    "paint": paint,
    "lined": lined,
    "pencil": pencil,
    "whiteboard": whiteboard,
    "sticky note": sticky_note,
    "fax": fax,
    "low quality": low_quality,
    "tiny": tiny,
    "tilted": tilted,
}
