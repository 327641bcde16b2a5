"""Scale and center the ink of one digit as the dataset did."""

import numpy as np
from PIL import Image

from src.extras.paper.strokes import Strokes
from src.extras.paper.windows import dilate, sliding

OVERSAMPLING = 8  # pixels per pixel of the dataset while a digit is scaled and centered


def render_digit(ink: np.ndarray, mask: np.ndarray, size: int, strokes: Strokes) -> np.ndarray:
    """Return one digit as an image of the dataset; broaden the strokes of a thin pen.

    Args:
        ink: float32 [H, W], 0 to 1.
        mask: bool [H, W], where the digit is.
        size: side S of the dataset's images.
        strokes: scale and position of the strokes in them.

    Returns:
        uint8 [S, S], light on black.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    low = np.array([columns[0], rows[0]])
    high = np.array([columns[-1] + 1, rows[-1] + 1])
    longer = (high - low).max()
    photo = _cut_out(ink, mask, longer)

    side = 2 * size + strokes.side  # of a canvas with room on all sides, in pixels of the dataset
    length = side * longer / strokes.side  # the same in pixels of the photo
    corner = (low + high) / 2 - length / 2
    canvas = _crop_and_average(photo, corner, length, OVERSAMPLING * side)

    pen = OVERSAMPLING * strokes.pen
    canvas = dilate(canvas, (pen - pen_width(canvas)) / 2)

    center = np.full(2, len(canvas) / 2)
    if strokes.center == "mass":
        center = center_of_mass(canvas)
    corner = center - OVERSAMPLING * center_of_image(size, strokes)
    return _crop_and_average(canvas, corner, OVERSAMPLING * size, size)


def _cut_out(ink: np.ndarray, mask: np.ndarray, longer: int) -> np.ndarray:
    """Return the ink at and next to a digit, uint8 [H, W].

    Args:
        ink: float32 [H, W], 0 to 1.
        mask: bool [H, W], where the digit is.
        longer: longer side of the digit, in pixels.
    """
    margin = round(0.02 * longer) + 1  # includes the soft edge of strokes, but not marks nearby
    padded = np.pad(mask, margin)
    near = sliding(padded, 2 * margin + 1, np.maximum)
    digit = np.where(near, ink, 0)
    return (255 * digit).round().astype(np.uint8)


def _crop_and_average(
    pixels: np.ndarray, corner: np.ndarray, length: float, size: int
) -> np.ndarray:
    """Average a square to `size` x `size` pixels; outside of the image it is black.

    Args:
        pixels: uint8 [H, W].
        corner: left and top of the square, in fractional pixels.
        length: its side.
        size: side of the result.
    """
    x, y = np.floor(corner).astype(int).tolist()
    right = x + int(length) + 2
    bottom = y + int(length) + 2
    image = Image.fromarray(pixels).crop((x, y, right, bottom))
    left, top = (corner - (x, y)).tolist()
    box = (left, top, left + length, top + length)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Return x and y of the center of mass of an image [H, W], in pixels from its corner."""
    height, width = image.shape
    mass = image / max(1, image.sum())
    columns = np.arange(width) + 0.5
    rows = np.arange(height) + 0.5
    x = (mass.sum(axis=0) * columns).sum()
    y = (mass.sum(axis=1) * rows).sum()
    return np.array([x, y])


def center_of_image(size: int, strokes: Strokes) -> float:
    """Return where the strokes are centered, in pixels from the left and top.

    MNIST has its center of mass in the middle of pixel 14 of 28, not between 13 and 14.
    """
    return (size + 1) / 2 if strokes.center == "mass" else size / 2


def pen_width(ink: np.ndarray) -> float:
    """Return the average width of the strokes of uint8 [H, W], in pixels.

    It is twice the area of the strokes over the length of their outline.
    """
    ink = ink.astype(np.float32)
    down = np.diff(ink, axis=0)[:, :-1]
    right = np.diff(ink, axis=1)[:-1]
    outline = np.hypot(down, right).sum()
    return 2 * float(ink.sum() / outline)
