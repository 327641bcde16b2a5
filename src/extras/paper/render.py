"""Scale and center the ink of one digit as in the dataset."""

import numpy as np
from PIL import Image

from src.extras.paper.strokes import Strokes
from src.extras.paper.windows import dilate, sliding

OVERSAMPLING = 8  # canvas pixels per dataset pixel while a digit is scaled and centered


def render_digit(ink: np.ndarray, mask: np.ndarray, size: int, strokes: Strokes) -> np.ndarray:
    """Convert one digit to the format of the dataset, and thicken thin strokes.

    Args:
        ink: amount of ink, 0 to 1, float32 [H, W].
        mask: mask of the digit, bool [H, W].
        size: side length S of the dataset images.
        strokes: scale and position of the strokes in the dataset images.

    Returns:
        The digit, light on black, uint8 [S, S].
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    low = np.array([columns[0], rows[0]])
    high = np.array([columns[-1] + 1, rows[-1] + 1])
    longer = (high - low).max()
    photo = _cut_out(ink, mask, longer)

    side = 2 * size + strokes.side  # canvas side with margins, in dataset pixels
    length = side * longer / strokes.side  # canvas side in photo pixels
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
    """Return the ink of a digit and its immediate surroundings, uint8 [H, W].

    Args:
        ink: amount of ink, 0 to 1, float32 [H, W].
        mask: mask of the digit, bool [H, W].
        longer: longer side of the digit, in pixels.
    """
    margin = round(0.02 * longer) + 1  # includes blurry stroke edges, but no nearby marks
    padded = np.pad(mask, margin)
    near = sliding(padded, 2 * margin + 1, np.maximum)
    digit = np.where(near, ink, 0)
    return (255 * digit).round().astype(np.uint8)


def _crop_and_average(
    pixels: np.ndarray, corner: np.ndarray, length: float, size: int
) -> np.ndarray:
    """Downscale a square region to `size` x `size` pixels; pixels outside the image are black.

    Args:
        pixels: grayscale image, uint8 [H, W].
        corner: top-left corner (x, y) of the square; may be fractional.
        length: side length of the square.
        size: side length of the output.
    """
    x, y = np.floor(corner).astype(int).tolist()
    right = x + int(length) + 2
    bottom = y + int(length) + 2
    image = Image.fromarray(pixels).crop((x, y, right, bottom))
    left, top = (corner - (x, y)).tolist()
    box = (left, top, left + length, top + length)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Return the center of mass (x, y) of an image [H, W], in pixels from the top left."""
    height, width = image.shape
    mass = image / max(1, image.sum())
    columns = np.arange(width) + 0.5
    rows = np.arange(height) + 0.5
    x = (mass.sum(axis=0) * columns).sum()
    y = (mass.sum(axis=1) * rows).sum()
    return np.array([x, y])


def center_of_image(size: int, strokes: Strokes) -> float:
    """Return the center of the strokes, in pixels from the left and from the top.

    For MNIST, it is 14.5 (the middle of pixel 14), although the center of the image is 14.0.
    """
    return (size + 1) / 2 if strokes.center == "mass" else size / 2


def pen_width(ink: np.ndarray) -> float:
    """Return the average stroke width of an image, uint8 [H, W], in pixels.

    The width is computed as twice the stroke area divided by the outline length.
    """
    ink = ink.astype(np.float32)
    down = np.diff(ink, axis=0)[:, :-1]
    right = np.diff(ink, axis=1)[:-1]
    outline = np.hypot(down, right).sum()
    return 2 * float(ink.sum() / outline)
