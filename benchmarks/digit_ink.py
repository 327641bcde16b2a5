"""Enlarge, rotate and move an MNIST digit, or redraw its center lines with a pen."""

import math

import numpy as np
from PIL import Image, ImageDraw

Affine = tuple[float, float, float, float, float, float]
Color = int | tuple[int, ...]


def affine(digit: np.ndarray, tall: float, angle: float, center: tuple[float, float]) -> Affine:
    """Return the affine map from photo coordinates to digit coordinates.

    Args:
        digit: digit image, uint8 [28, 28].
        tall: length of the digit's longer side in the photo, in pixels (20 in MNIST).
        angle: rotation in radians.
        center: center of the digit in the photo, (x, y).
    """
    rows, columns = np.nonzero(digit > 60)
    middle_x = (columns.min() + columns.max() + 1) / 2
    middle_y = (rows.min() + rows.max() + 1) / 2
    x, y = center
    cos = math.cos(angle) * 20 / tall
    sin = math.sin(angle) * 20 / tall
    return (cos, sin, middle_x - cos * x - sin * y, -sin, cos, middle_y + sin * x - cos * y)


def enlarge(digit: np.ndarray, to_digit: Affine, size: tuple[int, int]) -> np.ndarray:
    """Return the ink of an enlarged digit with sharpened edges, float [H, W] from 0 to 1."""
    smooth = Image.fromarray(digit).resize((224, 224), Image.Resampling.BICUBIC)
    matrix = tuple(8 * value for value in to_digit)
    bicubic = Image.Resampling.BICUBIC
    image = smooth.transform(size, Image.Transform.AFFINE, matrix, bicubic)
    return ((np.asarray(image) / 255 - 0.3) / 0.4).clip(0, 1)


def draw_center_lines(
    digit: np.ndarray, to_digit: Affine, size: tuple[int, int], pen: float
) -> np.ndarray:
    """Draw the center lines of a digit with a round pen, `pen` pixels wide; return the ink."""
    large = Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC)
    line = thin(np.pad(np.asarray(large) > 140, 1))[1:-1, 1:-1]
    matrix = np.vstack([np.reshape(to_digit, (2, 3)), [0, 0, 1]])
    to_photo = np.linalg.inv(matrix)
    canvas = Image.new("L", (4 * size[0], 4 * size[1]))
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(4 * pen))
    for y, x in np.argwhere(line):
        here = _locate(to_photo, x, y)
        dot(draw, here, 2 * pen)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if 0 <= x + dx < 112 and y + dy < 112 and line[y + dy, x + dx]:
                there = _locate(to_photo, x + dx, y + dy)
                draw.line([here, there], fill=255, width=width)
    return np.asarray(canvas.resize(size, Image.Resampling.BOX)) / 255


def _locate(to_photo: np.ndarray, x: int, y: int) -> tuple[float, float]:
    px, py, _ = to_photo @ ((x + 0.5) / 4, (y + 0.5) / 4, 1)
    return 4 * px, 4 * py


def dot(
    draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: Color = 255
) -> None:
    x, y = center
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin strokes to a one-pixel skeleton, bool [H, W] (Zhang and Suen 1984)."""
    mask = mask.copy()
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    while True:
        before = mask.sum()
        for first in (True, False):
            p = [np.roll(mask, shift, (0, 1)) for shift in around]
            count = sum(n.astype(int) for n in p)
            pairs = zip(p, p[1:] + p[:1], strict=True)
            turns = sum((~a & b).astype(int) for a, b in pairs)
            north, east, south, west = p[0], p[2], p[4], p[6]
            if first:
                open_side = ~(north & east & south) & ~(east & south & west)
            else:
                open_side = ~(north & east & west) & ~(north & south & west)
            mask &= ~((count >= 2) & (count <= 6) & (turns == 1) & open_side)
        if mask.sum() == before:
            return mask
