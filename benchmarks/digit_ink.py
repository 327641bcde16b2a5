"""Enlarge, rotate and move an MNIST digit, or redraw its center lines with a pen."""

import math

import numpy as np
from PIL import Image, ImageDraw


def draw_digit(
    digit: np.ndarray,
    size: tuple[int, int],
    tall: float,
    degrees: float,
    center: tuple[float, float],
    pen: float = 0,
) -> np.ndarray:
    """Return the ink of a digit, float [H, W] from 0 to 1.

    Args:
        digit: light digit on black, uint8 [28, 28].
        size: width and height of the picture.
        tall: length of the digit's longer side in the picture, in pixels (20 in MNIST).
        degrees: rotation.
        center: center of the digit in the picture, (x, y).
        pen: stroke width in pixels; 0 keeps the strokes of the digit, with sharpened edges.
    """
    rows, columns = np.nonzero(digit > 60)
    middle_x = (columns.min() + columns.max() + 1) / 2
    middle_y = (rows.min() + rows.max() + 1) / 2
    x, y = center
    cos = math.cos(math.radians(degrees)) * 20 / tall
    sin = math.sin(math.radians(degrees)) * 20 / tall
    to_digit = (cos, sin, middle_x - cos * x - sin * y, -sin, cos, middle_y + sin * x - cos * y)
    bicubic = Image.Resampling.BICUBIC
    if pen:
        large = Image.fromarray(digit).resize((112, 112), bicubic)
        line = thin(np.pad(np.asarray(large) > 140, 1))
        return _draw_line(line, to_digit, size, pen)
    smooth = Image.fromarray(digit).resize((224, 224), bicubic)
    matrix = tuple(8 * value for value in to_digit)
    image = smooth.transform(size, Image.Transform.AFFINE, matrix, bicubic)
    return ((np.asarray(image) / 255 - 0.3) / 0.4).clip(0, 1)


def _draw_line(
    line: np.ndarray, to_digit: tuple[float, ...], size: tuple[int, int], pen: float
) -> np.ndarray:
    """Draw center lines, bool [114, 114], with a round pen."""
    matrix = np.vstack([np.reshape(to_digit, (2, 3)), [0, 0, 1]])
    to_photo = np.linalg.inv(matrix)
    canvas = Image.new("L", (4 * size[0], 4 * size[1]))
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(4 * pen))

    def locate(x: int, y: int) -> tuple[float, float]:
        px, py, _ = to_photo @ ((x - 0.5) / 4, (y - 0.5) / 4, 1)
        return 4 * px, 4 * py

    for y, x in np.argwhere(line):
        here = locate(x, y)
        draw.circle(here, 2 * pen, fill=255)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if line[y + dy, x + dx]:
                draw.line([here, locate(x + dx, y + dy)], fill=255, width=width)
    return np.asarray(canvas.resize(size, Image.Resampling.BOX)) / 255


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin strokes to a one-pixel skeleton, bool [H, W] (Zhang and Suen 1984)."""
    mask = mask.copy()
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    north, east, south, west = 0, 2, 4, 6  # indices in `around`
    while True:
        before = mask.sum()
        for a, b, c, d in ((east, south, north, west), (north, west, east, south)):
            p = [np.roll(mask, shift, (0, 1)) for shift in around]
            count = sum(p)
            turns = sum(~here & after for here, after in zip(p, p[1:] + p[:1], strict=True))
            closed = p[a] & p[b] & (p[c] | p[d])
            mask &= ~((count >= 2) & (count <= 6) & (turns == 1) & ~closed)
        if mask.sum() == before:
            return mask
