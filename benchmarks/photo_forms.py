"""Render digits in boxes, across a margin line, and drawn with a thick marker."""

import math

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.digit_ink import affine, enlarge
from benchmarks.photographer import expose, uneven_light

Rng = np.random.Generator
Shot = tuple[Image.Image, int | None]  # image and JPEG quality (None: PNG)


def blank_sheet(rng: Rng) -> tuple[int, int, np.ndarray]:
    """Return the height, the width, and an image of blank, unevenly lit paper, [H, W, 3]."""
    height, width = (int(side) for side in rng.integers(300, 641, 2))
    color = rng.uniform(0.8, 1) * rng.uniform(0.94, 1, 3)
    return height, width, uneven_light(height, width, rng)[..., None] * color


def write(sheet: np.ndarray, ink: np.ndarray, rng: Rng, most: float = 0.3) -> np.ndarray:
    pen = rng.uniform(0.03, most)
    return sheet * (1 - ink[..., None] * (1 - pen))


def _draw_boxes(
    size: tuple[int, int], count: int, side: float, gap: float, angle: float, thickness: float
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return the ink of a centered row of boxes, and the center of each box."""
    width, height = size
    canvas = Image.new("L", (4 * width, 4 * height))
    draw = ImageDraw.Draw(canvas)
    cos, sin = math.cos(angle), math.sin(angle)
    step = side + gap
    centers = []

    def locate(x: float, y: float) -> tuple[float, float]:
        return width / 2 + cos * x - sin * y, height / 2 + sin * x + cos * y

    for number in range(count):
        left = step * (number - count / 2) + gap / 2
        right = left + side
        top, bottom = -side / 2, side / 2
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        points = [tuple(4 * v for v in locate(x, y)) for x, y in corners]
        draw.line(points, fill=255, width=max(1, round(4 * thickness)), joint="curve")
        centers.append(locate((left + right) / 2, 0))
    return np.asarray(canvas.resize(size, Image.Resampling.BOX)) / 255, centers


def boxes(count: int, digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit in one of `count` boxes; in half of the photos, the boxes touch."""
    height, width, sheet = blank_sheet(rng)
    most = min(0.8 * height, 0.94 * width / count)
    side = most * rng.uniform(0.75, 1)
    gap = 0 if rng.random() < 0.5 else min(0.15 * side, 0.94 * width / count - side)
    angle = math.radians(rng.uniform(-3, 3))
    frame, centers = _draw_boxes((width, height), count, side, gap, angle, rng.uniform(1.2, 3))
    sheet = write(sheet, frame, rng)
    x, y = centers[int(rng.integers(count))]
    tall = side * rng.uniform(0.5, 0.75)
    place = (x + side * rng.uniform(-0.06, 0.06), y + side * rng.uniform(-0.06, 0.06))
    to_digit = affine(digit, tall, math.radians(rng.uniform(-8, 8)), place)
    return expose(write(sheet, enlarge(digit, to_digit, (width, height)), rng), rng)


def margin(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a digit across the margin line of a page."""
    height, width, sheet = blank_sheet(rng)
    tall = rng.uniform(0.3, 0.65) * min(height, width)
    room = tall * 0.62
    x, y = rng.uniform(room, width - room), rng.uniform(room, height - room)
    line = Image.new("L", (width, height))
    middle = x + tall * rng.uniform(-0.3, 0.3)
    lean = rng.uniform(-0.02, 0.02) * height
    ends = [(middle - lean, -9), (middle + lean, height + 9)]
    ImageDraw.Draw(line).line(ends, fill=255, width=int(rng.integers(2, 6)))
    red = np.array([rng.uniform(0.4, 0.9), 0.15, 0.15]) if rng.random() < 0.5 else 0.2
    ruled = np.asarray(line)[..., None] / 255
    sheet = sheet * (1 - ruled) + sheet * red * ruled
    to_digit = affine(digit, tall, math.radians(rng.uniform(-10, 10)), (x, y))
    return expose(write(sheet, enlarge(digit, to_digit, (width, height)), rng), rng)


def marker(digit: np.ndarray, rng: Rng) -> Shot:
    """Draw a thick digit that fills the image and touches its border."""
    rows, columns = np.nonzero(digit > 60)
    tall = rng.uniform(260, 560)
    scale = tall / 20
    height = max(200, round(scale * (np.ptp(rows) + 1) * rng.uniform(0.98, 1.02)))
    width = max(200, round(scale * (np.ptp(columns) + 1) * rng.uniform(0.98, 1.02)))
    to_digit = affine(digit, tall, 0, (width / 2, height / 2))
    sheet = uneven_light(height, width, rng)[..., None] * np.ones(3) * 0.95
    return expose(write(sheet, enlarge(digit, to_digit, (width, height)), rng, 0.2), rng)
